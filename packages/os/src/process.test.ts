import { afterAll, expect, test } from "bun:test";
import { closeFd } from "./fd.ts";
import { readChunks } from "./io.ts";
import {
  createSchedCoreCookie,
  currentUmask,
  decodeWaitStatus,
  getOomScoreAdj,
  isAlive,
  isChildSubreaper,
  kernelKeepsExits,
  openPidfd,
  ownChildren,
  parseProcessStat,
  pidfdExitStatus,
  processExists,
  processIdentity,
  processStat,
  Reaper,
  schedCoreCookie,
  sendSignal,
  setChildSubreaper,
  setOomScoreAdj,
  setProcessName,
  waitPid,
  waitPidfd,
} from "./process.ts";
import { spawnChild } from "./spawn.ts";

const reaper = new Reaper();
setChildSubreaper();

afterAll(() => {
  reaper[Symbol.dispose]();
  setChildSubreaper(false);
});

/** A process that becomes our child by losing its parent, as a container's init does. Resolves once it is ours. */
async function adopt(script: string): Promise<number> {
  await using parent = spawnChild(["sh", "-c", `(${script}) & echo $!`], { stdout: "pipe" });
  let out = "";
  for await (const bytes of readChunks(parent.stdout?.release() ?? -1)) {
    out += new TextDecoder().decode(bytes);
    if (out.endsWith("\n")) break;
  }
  await parent.exited;
  return Number(out);
}

test("an adopted child's exit is learned, by code and by signal", async () => {
  expect(isChildSubreaper()).toBe(true);
  const pid = await adopt("sleep 0.1; exit 42");
  expect(ownChildren()).toContain(pid);
  expect(waitPid(pid)).toBeUndefined();
  const both = await Promise.all([reaper.watch(pid), reaper.watch(pid)]);
  expect(both.map(({ code, signal }) => [code, signal])).toEqual([
    [42, undefined],
    [42, undefined],
  ]);
  expect(processExists(pid)).toBe(false);
  const killed = await adopt("exec sleep 10");
  const exit = reaper.watch(killed);
  expect(sendSignal(killed, 9)).toBe(true);
  expect(await exit).toMatchObject({ pid: killed, code: 137, signal: 9 });
  expect(sendSignal(killed, 9)).toBe(false);
});

test("a child that ended before anybody watched keeps its status", async () => {
  const pid = await adopt("sleep 0.05; exit 3");
  await Bun.sleep(150);
  expect(processStat(pid)?.state).toBe("Z");
  expect(waitPid(pid, { peek: true })).toEqual({ code: 3 });
  expect((await reaper.watch(pid)).code).toBe(3);
  expect(() => reaper.watch(pid)).toThrow("no child processes");
});

test("Bun's own children are left to Bun while fifty adopted ones end", async () => {
  const adopted = await Promise.all(Array.from({ length: 50 }, (_, i) => adopt(`sleep 0.${3 + (i % 5)}; exit ${i}`)));
  const exits = Promise.all(adopted.map((pid) => reaper.watch(pid)));
  const own = Array.from({ length: 20 }, (_, i) => spawnChild(["sh", "-c", `exit ${i}`]));
  expect(await Promise.all(own.map(async (child) => (await child.exited).code))).toEqual(own.map((_, i) => i));
  expect((await exits).map((exit) => exit.code)).toEqual(adopted.map((_, i) => i));
  for (const child of own) child.dispose();
});

test("pidfds wait, peek, and keep the exit after the reaping", async () => {
  const pid = await adopt("sleep 0.05; exit 9");
  const pidfd = openPidfd(pid);
  try {
    expect(waitPidfd(pidfd)).toBeUndefined();
    expect((await reaper.watch(pid)).code).toBe(9);
    if (await kernelKeepsExits()) expect(pidfdExitStatus(pidfd)).toEqual({ code: 9 });
    expect(() => openPidfd(pid)).toThrow("no such process");
  } finally {
    closeFd(pidfd);
  }
});

test("identity tells a process from a later one", async () => {
  const pid = await adopt("exec sleep 10");
  const identity = processIdentity(pid);
  if (identity === undefined) throw new Error("gone");
  expect(isAlive(identity)).toBe(true);
  expect(isAlive({ ...identity, startTicks: identity.startTicks + 1n })).toBe(false);
  sendSignal(pid, 9);
  await reaper.watch(pid);
  expect(isAlive(identity)).toBe(false);
  expect(processIdentity(pid)).toBeUndefined();
});

test("small parsers and settings", () => {
  expect([decodeWaitStatus(0x0700), decodeWaitStatus(9), decodeWaitStatus(0x8b)]).toEqual([
    { code: 7 },
    { code: 137, signal: 9 },
    { code: 139, signal: 11 },
  ]);
  const line = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876543210 0 0";
  expect(parseProcessStat(line)).toMatchObject({
    pid: 12,
    comm: "a) b (c)",
    state: "S",
    parent: 1,
    startTicks: 9876543210n,
  });
  expect(() => parseProcessStat("12 (x")).toThrow("malformed");
  expect(currentUmask()).toBe(process.umask());
  const before = getOomScoreAdj();
  setOomScoreAdj(before);
  expect(getOomScoreAdj()).toBe(before);
  expect(() => getOomScoreAdj(2 ** 22 + 1)).toThrow("no such file");
  setProcessName("os-test");
  expect(processStat("self")?.comm).toBe("os-test");
});

test("core scheduling gives a cookie or says why not", () => {
  try {
    expect(schedCoreCookie()).toBe(0n);
    createSchedCoreCookie();
    expect(schedCoreCookie()).not.toBe(0n);
  } catch (error) {
    expect(String(error)).toMatch(/no such device|invalid argument/); // no SMT here, or a kernel without it
  }
});
