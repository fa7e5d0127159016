import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "@stevedore/base/log";
import { sendSignal } from "@stevedore/os/process";
import { SIGKILL } from "@stevedore/os/signals";
import { BUNDLE } from "./bundle.ts";

/** How long a runtime that a dead shim called may take to end, milliseconds; it is killed then. */
const RUNTIME_MS = 10_000;
const RUNTIME_POLL_MS = 20;

/** Waits for the runtime calls that the dead shim has begun for a bundle: they go on without it. */
export async function untilRuntimeEnded(bundle: string, logger: Logger): Promise<void> {
  const log = join(bundle, BUNDLE.runcLog);
  const end = performance.now() + RUNTIME_MS;
  for (;;) {
    const calls = (await commandLines()).filter(({ argv }) => argv.includes(log));
    if (calls.length === 0) return;
    if (performance.now() > end) {
      logger.warn("killing a runtime that a dead shim called", { bundle, pids: calls.map(({ pid }) => pid) });
      for (const { pid } of calls) sendSignal(pid, SIGKILL);
      return;
    }
    await Bun.sleep(RUNTIME_POLL_MS);
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
