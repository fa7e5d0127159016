import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFile, mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "@stevedore/base/log";
import { Journal, readJournal } from "./journal.ts";

let bundle = "";
beforeEach(async () => {
  bundle = await mkdtemp(join(tmpdir(), "journal-"));
});
afterEach(async () => rm(bundle, { recursive: true }));

const io = { stdin: "", stdout: "/out", stderr: "/err", terminal: false };
const log = createLogger();
const path = (): string => join(bundle, "journal");

test("a journal is read as it was written, up to a line that was cut off", async () => {
  const journal = Journal.open(bundle, { log, replaced: () => undefined });
  journal.write({ what: "create", io, rootfs: true, checkpoint: false });
  journal.write({ what: "init", pid: 7, start: "70" });
  journal.write({ what: "started" });
  journal.write({ what: "exec", exec: "e", io, spec: '{"args":["a"]}' });
  journal.write({ what: "exec-start", exec: "e" });
  journal.write({ what: "exec-pid", exec: "e", pid: 8, start: "80" });
  journal.writeExit("e", { pid: 8, status: 3, exitedAt: new Date(5000), start: "80" });
  journal.write({ what: "told", exec: "e", pid: 8 });
  journal.write({ what: "exec", exec: "gone", io, spec: "{}" });
  journal.write({ what: "exec-deleted", exec: "gone" });
  journal.writeExit("", { pid: 7, status: 255, exitedAt: new Date(9000), source: "unknown", reason: "nobody saw" });
  journal[Symbol.dispose]();
  await appendFile(path(), '{"what":"stdin-clo');
  const state = await readJournal(bundle);
  expect(state).toMatchObject({ rootfs: true, checkpoint: false, started: true });
  expect(state?.init).toMatchObject({
    io,
    process: { pid: 7, start: "70" },
    exit: { status: 255, source: "unknown", reason: "nobody saw" },
    told: false,
    stdinClosed: false,
  });
  expect([...(state?.execs.keys() ?? [])]).toEqual(["e"]);
  expect(state?.execs.get("e")).toMatchObject({
    spec: '{"args":["a"]}',
    starting: true,
    process: { pid: 8, start: "80" },
    exit: { status: 3, source: "reaped", exitedAt: new Date(5000) },
    told: true,
  });
});

test("times are kept, and of pauses the last two, also when it is written anew", async () => {
  const began = Date.now();
  const journal = Journal.open(bundle, { log, replaced: () => undefined });
  journal.write({ what: "create", io, rootfs: true, checkpoint: false });
  journal.write({ what: "init", pid: 7, start: "70" });
  journal.write({ what: "started" });
  for (let at = 0; at < 4_000; at += 1) journal.write({ what: at % 2 === 0 ? "paused" : "resumed", at });
  journal.write({ what: "exec", exec: "gone", io, spec: "{}" });
  journal.write({ what: "exec-deleted", exec: "gone" });
  journal[Symbol.dispose]();
  expect((await stat(path())).size).toBeLessThan(1_000);
  const state = await readJournal(bundle);
  expect(state?.init.madeAt).toBeGreaterThanOrEqual(began);
  expect(state?.init.startedAt).toBeGreaterThanOrEqual(began);
  expect(state?.changes).toEqual([
    { what: "paused", at: 3_998 },
    { what: "resumed", at: 3_999 },
  ]);
});

test("no journal, and one without a create, say that nothing was made", async () => {
  expect(await readJournal(bundle)).toBeUndefined();
  await appendFile(path(), '{"what":"init","pid":7,"start":"70"}\n');
  expect(await readJournal(bundle)).toBeUndefined();
});

test("thousands of execs leave a short journal, and what lives stays in it, also after another shim goes on with it", async () => {
  let replaced = 0;
  const made = { log, replaced: () => replaced++ };
  const first = Journal.open(bundle, made);
  first.write({ what: "create", io, rootfs: true, checkpoint: false });
  first.write({ what: "init", pid: 7, start: "70" });
  const churn = (journal: Journal, name: string): void => {
    for (let i = 0; i < 2_000; i++) {
      const exec = `${name}${i}`;
      journal.write({ what: "exec", exec, io, spec: JSON.stringify({ args: ["x".repeat(200)] }) });
      journal.write({ what: "exec-pid", exec, pid: 1000 + i, start: "1" });
      journal.writeExit(exec, { pid: 1000 + i, status: 0, exitedAt: new Date(0) });
      journal.write({ what: "exec-deleted", exec });
      journal.write({ what: "told", exec, pid: 1000 + i }); // the daemon takes the news when it has time
    }
  };
  first.write({ what: "exec", exec: "stays", io, spec: "{}" });
  churn(first, "a");
  first[Symbol.dispose]();
  expect(replaced).toBeGreaterThan(5);
  expect((await stat(path())).size).toBeLessThan(200_000);
  expect((await stat(path())).mode & 0o777).toBe(0o600);
  const state = await readJournal(bundle);
  if (state === undefined) throw new Error("no journal");
  expect(state.init.process).toEqual({ pid: 7, start: "70" });
  const second = Journal.open(bundle, { ...made, lines: state.lines });
  churn(second, "b");
  second[Symbol.dispose]();
  const again = await readJournal(bundle);
  expect(again?.init.process).toEqual({ pid: 7, start: "70" });
  expect([...(again?.execs.keys() ?? [])]).toEqual(["stays"]);
  expect((await readFile(path(), "utf8")).split("\n").length).toBeLessThan(1_500);
});
