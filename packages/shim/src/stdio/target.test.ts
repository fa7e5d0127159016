import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeFifo } from "@stevedore/os/fifo";
import { planOutput } from "./target.ts";

let dir = "";
beforeAll(async () => {
  dir = await mkdtemp("/tmp/shim-target-");
  makeFifo(join(dir, "fifo"));
  await writeFile(join(dir, "file"), "");
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const names = (stdout: string, stderr = ""): Parameters<typeof planOutput>[0] => ({
  stdin: "",
  stdout,
  stderr,
  terminal: false,
});

test("planOutput() sorts what clients name", async () => {
  expect(await planOutput(names(join(dir, "fifo"), join(dir, "file")))).toEqual({
    kind: "streams",
    stdout: { kind: "fifo", path: join(dir, "fifo") },
    stderr: { kind: "file", path: join(dir, "file") },
  });
  expect(await planOutput(names("", ""))).toEqual({
    kind: "streams",
    stdout: { kind: "null" },
    stderr: { kind: "null" },
  });
  expect(await planOutput(names("file:///a/b%20c", "x"))).toEqual({ kind: "log-file", path: "/a/b c", stderr: true });
  expect(await planOutput(names("binary:///usr/bin/logger?--tag=a&-q"))).toEqual({
    kind: "logger",
    command: ["/usr/bin/logger", "--tag", "a", "-q"],
    strictReady: false,
  });
  expect(await planOutput(names("binary-v2:///l"))).toMatchObject({ strictReady: true });
  await expect(planOutput(names("http://x"))).rejects.toThrow("unknown STDIO scheme http");
  await expect(planOutput(names("/no/such/fifo"))).rejects.toThrow("containerd-shim: opening /no/such/fifo failed");
});
