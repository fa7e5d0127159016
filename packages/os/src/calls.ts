import { readdir, readFile } from "node:fs/promises";
import { sendSignal } from "./process.ts";
import { SIGKILL } from "./signals.ts";

const POLL_MS = 20;

/**
 * Waits until no process has `argument` among its arguments: calls of a program that somebody made who has died since. Those that
 * still run after `limitMs` milliseconds are killed.
 *
 * @returns the pids of the killed
 */
export async function untilCallsEnded(argument: string, limitMs: number): Promise<readonly number[]> {
  const end = performance.now() + limitMs;
  for (;;) {
    const calls = (await commandLines()).filter(({ argv }) => argv.includes(argument)).map(({ pid }) => pid);
    if (calls.length === 0) return [];
    if (performance.now() > end) {
      for (const pid of calls) sendSignal(pid, SIGKILL);
      return calls;
    }
    await Bun.sleep(POLL_MS);
  }
}

interface CommandLine {
  readonly pid: number;
  readonly argv: readonly string[];
}

let looking: Promise<readonly CommandLine[]> | undefined;

/** The command lines of all processes. Callers at the same time share one look. */
function commandLines(): Promise<readonly CommandLine[]> {
  looking ??= lookAtCommandLines().finally(() => {
    looking = undefined;
  });
  return looking;
}

async function lookAtCommandLines(): Promise<readonly CommandLine[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  return Promise.all(
    pids.map(async (pid) => ({
      pid: Number(pid),
      argv: (await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).split("\0"),
    })),
  );
}
