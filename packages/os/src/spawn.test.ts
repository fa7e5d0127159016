import { describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isErrorClass } from "@stevedore/base/errors";
import { readChunks } from "./io.ts";
import { getRlimit, RLIMIT } from "./rlimit.ts";
import { parseSignal, signalName } from "./signals.ts";
import { findExecutable, runCommand, spawnChild } from "./spawn.ts";

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const openFds = (): number => readdirSync("/proc/self/fd").length;

test("runCommand() returns status and both outputs", async () => {
  const result = await runCommand(["sh", "-c", "echo out; echo err >&2; exit 7"]);
  expect([result.code, text(result.stdout), text(result.stderr)]).toEqual([7, "out\n", "err\n"]);
  expect(result.signal).toBeUndefined();
});

test("a signal's end reads 128 plus its number", async () => {
  const result = await runCommand(["sh", "-c", "kill -TERM $$"]);
  expect([result.code, result.signal]).toEqual([143, 15]);
  const realTime = await runCommand(["sh", "-c", "kill -35 $$"]);
  expect([realTime.code, realTime.signal]).toEqual([163, 35]);
});

test("input arrives whole, however long", async () => {
  for (const size of [0, 1, 65_536, 65_537, 3_000_000]) {
    const result = await runCommand(["wc", "-c"], { input: new Uint8Array(size).fill(97) });
    expect(Number(text(result.stdout))).toBe(size);
  }
});

test("output beyond the cap is dropped and said so, and the child still ends", async () => {
  const result = await runCommand(["head", "-c", "3000000", "/dev/zero"], { maxOutputBytes: 1000 });
  expect([result.code, result.stdout.byteLength, result.truncated]).toEqual([0, 1000, true]);
});

test("a grandchild that keeps the pipe does not hold the result", async () => {
  const started = performance.now();
  const result = await runCommand(["sh", "-c", "sleep 5 & echo done"]);
  expect(text(result.stdout)).toBe("done\n");
  expect(performance.now() - started).toBeLessThan(2_000);
});

// The golden state of a child: what design.md "What a child inherits" promises.
test("a file size limit ends a child by SIGXFSZ, which we ourselves ignore", async () => {
  const IGNORED = 1n << BigInt(25 - 1);
  const own = /SigIgn:\s+([0-9a-f]+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  expect(BigInt(`0x${own}`) & IGNORED).toBe(IGNORED);
  const script = "ulimit -f 1; exec dd if=/dev/zero of=file bs=4096 count=1 status=none";
  const folder = mkdtempSync(join(tmpdir(), "spawn-"));
  const ran = await runCommand(["sh", "-c", script], { cwd: folder });
  rmSync(folder, { recursive: true });
  expect(ran).toMatchObject({ code: 128 + 25, signal: 25 });
});

test("a child inherits nothing but what is listed", async () => {
  const leaked = openSync("/etc/hostname", "r");
  process.on("SIGUSR2", () => undefined);
  const own = getRlimit(RLIMIT.NOFILE);
  const soft = own.hard > 1024n ? 1024n : own.hard;
  try {
    const script =
      "cat /proc/self/status; echo ---; ls -l /proc/self/fd; echo ---; cat /proc/self/limits; echo ---; tr '\\0' '\\n' </proc/$$/environ; echo ---; pwd";
    const result = await runCommand(["sh", "-c", script], {
      env: { ONE: "1" },
      nofile: { soft, hard: own.hard },
      input: "x",
    });
    const [status = "", fds = "", limits = "", env = "", cwd = ""] = text(result.stdout).split("---\n");
    for (const field of ["SigBlk", "SigIgn", "SigCgt", "SigPnd"]) {
      expect(status).toMatch(new RegExp(`${field}:\\s+0+\\n`));
    }
    const numbers = [...fds.matchAll(/(\d+) -> (\S+)/g)].map(([, fd, target]) => [
      fd,
      (target ?? "").replace(/:.*/, ""),
    ]);
    expect(numbers.slice(0, 3)).toEqual([
      ["0", "pipe"],
      ["1", "pipe"],
      ["2", "pipe"],
    ]);
    expect(numbers.length).toBe(4); // the fourth is the folder ls reads
    expect(limits).toMatch(new RegExp(`Max open files\\s+${soft}\\s+${own.hard}\\s`));
    expect(env).toBe("ONE=1\n");
    expect(cwd).toBe("/\n");
    expect(getRlimit(RLIMIT.NOFILE)).toEqual(own);
  } finally {
    closeSync(leaked);
    process.removeAllListeners("SIGUSR2");
  }
});

test("argv0, folder and merged output are as asked", async () => {
  const named = await runCommand(["sh", "-c", "tr '\\0' ' ' </proc/$$/cmdline; pwd; echo e >&2; echo o"], {
    argv0: "-login",
    cwd: "/usr",
    mergeOutput: true,
  });
  expect(text(named.stdout)).toMatch(/^-login -c .*\/usr\ne\no\n$/s);
  expect(named.stderr.byteLength).toBe(0);
});

test("a lower hard limit comes from prlimit in front", async () => {
  const own = getRlimit(RLIMIT.NOFILE);
  const result = await runCommand(["sh", "-c", "ulimit -Sn; ulimit -Hn"], {
    nofile: { soft: 300n, hard: own.hard - 1n },
  });
  expect(text(result.stdout)).toBe(`300\n${own.hard - 1n}\n`);
});

test("extra descriptors land on 3, 4, 5, in any order", async () => {
  const dir = mkdtempSync("/tmp/os-spawn-");
  const files = ["a", "b", "c"].map((name) => {
    writeFileSync(`${dir}/${name}`, name);
    return openSync(`${dir}/${name}`, "r");
  });
  try {
    for (const [order, letters] of [
      [files, "abc"],
      [files.toReversed(), "cba"],
    ] as const) {
      const result = await runCommand(["sh", "-c", "cat /proc/self/fd/3 /proc/self/fd/4 /proc/self/fd/5"], {
        extraFds: order,
      });
      expect(text(result.stdout)).toBe(letters);
    }
  } finally {
    for (const fd of files) closeSync(fd);
    rmSync(dir, { recursive: true });
  }
});

test("stdin as a pipe is fed with back-pressure and ends", async () => {
  await using child = spawnChild(["sh", "-c", "sleep 0.1; wc -c"], { stdin: "pipe", stdout: "pipe" });
  const { stdin, stdout } = child;
  if (stdin === undefined || stdout === undefined) throw new Error("no pipes");
  const chunk = new Uint8Array(100_000);
  for (let i = 0; i < 30; i++) await stdin.write(chunk);
  stdin.close();
  let out = "";
  for await (const bytes of readChunks(stdout.release())) out += text(bytes);
  expect(out.trim()).toBe("3000000");
  expect((await child.exited).code).toBe(0);
});

test("/dev/stdout of a child opens, since its pipes are real", async () => {
  const result = await runCommand(["sh", "-c", "echo hello >/dev/stdout"]);
  expect(text(result.stdout)).toBe("hello\n");
});

describe("ending", () => {
  test("an abort ends the child and rejects with its reason", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 50);
    const started = performance.now();
    await expect(runCommand(["sleep", "10"], { signal: controller.signal })).rejects.toBe(reason);
    await Bun.sleep(200);
    expect(performance.now() - started).toBeLessThan(1_000);
  });

  test("a child that ignores the signal is killed after the grace", async () => {
    const controller = new AbortController();
    await using child = spawnChild(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], {
      signal: controller.signal,
      killGraceMs: 100,
    });
    await Bun.sleep(50);
    controller.abort();
    expect(await child.exited).toEqual({ code: 137, signal: 9 });
  });

  test("killGroup reaches grandchildren", async () => {
    await using child = spawnChild(["sh", "-c", "sleep 30 & echo $!; wait"], {
      stdout: "pipe",
      newSession: true,
      killGroup: true,
    });
    let out = "";
    for await (const bytes of readChunks(child.stdout?.release() ?? -1)) {
      out += text(bytes);
      break;
    }
    child.kill(9);
    await child.exited;
    // The kernel ends the group on its own time; on a busy machine that is not at once.
    let state = "";
    for (let tries = 0; tries < 100; tries++) {
      state = text((await runCommand(["sh", "-c", `grep State /proc/${out.trim()}/status || true`])).stdout);
      if (!/\((sleeping|running)\)/.test(state)) break;
      await Bun.sleep(20);
    }
    expect(state).not.toMatch(/\((sleeping|running)\)/);
  });
});

test("what cannot start says why and leaks nothing", async () => {
  const before = openFds();
  expect(() => spawnChild(["no-such-command"], { stdin: "pipe", stdout: "pipe" })).toThrow(
    'exec: "no-such-command": executable file not found in $PATH',
  );
  expect(() => spawnChild(["/etc/passwd"], { stdin: "pipe", stdout: "pipe" })).toThrow("permission denied");
  expect(() => spawnChild(["true"], { cwd: "/nonexistent" })).toThrow("no such file or directory");
  expect(openFds()).toBeLessThanOrEqual(before);
  try {
    findExecutable("nope");
    expect.unreachable();
  } catch (error) {
    expect(isErrorClass(error, "not-found")).toBe(true);
  }
});

test("a hundred runs leave no descriptor behind", async () => {
  await runCommand(["true"]);
  Bun.gc(true);
  await Bun.sleep(10);
  const before = openFds();
  for (let i = 0; i < 100; i++) await runCommand(["true"], { input: "x" });
  Bun.gc(true);
  await Bun.sleep(50);
  expect(openFds()).toBeLessThanOrEqual(before + 2);
});

test("parseSignal() takes names and numbers", () => {
  expect(["15", "TERM", "sigterm", "RTMIN+3", "SIGRTMAX-1", "KILL"].map(parseSignal)).toEqual([15, 15, 15, 37, 63, 9]);
  for (const bad of ["", "0", "65", "NOPE", "RTMIN+99", "-9"]) expect(() => parseSignal(bad)).toThrow("unknown signal");
  expect([signalName(9), signalName(37)]).toEqual(["SIGKILL", "37"]);
});
