import { nowMoment } from "@stevedore/base/moment";
import type { ProcessName } from "@stevedore/keeper/protocol";
import { closeQuietly } from "@stevedore/os/fd";
import {
  openPidfd,
  type ProcessExit,
  pidfdExitStatus,
  processIdentity,
  processStat,
  Reaper,
  signalPidfd,
} from "@stevedore/os/process";
import type { Deposits } from "./deposits.ts";
import type { ExitWatcher, ProcessEnd } from "./process.ts";

/** How often a process that is no child of ours is looked at. */
const STRANGER_POLL_MS = 200;

/** How long after the end of an orphan its keeper may take to tell. */
const KEEPER_TELLS_MS = 1_000;

/** The ends of children, of processes that a runtime did not leave to us, and of those that a dead shim has left. */
export class ShimExits implements ExitWatcher {
  #expecting = 0;
  readonly #deposits: Deposits;
  readonly #reaper = new Reaper({ keepOrphans: () => this.#expecting > 0, peek: true });

  constructor(deposits: Deposits) {
    this.#deposits = deposits;
  }

  async watch(pid: number): Promise<ProcessExit> {
    try {
      return await this.#reaper.watch(pid);
    } catch {
      return watchStranger(pid);
    }
  }

  recorded(pid: number): void {
    this.#reaper.release(pid);
  }

  async expectingChild<T>(work: () => Promise<T>): Promise<T> {
    this.#expecting++;
    try {
      return await work();
    } finally {
      this.#expecting--;
      if (this.#expecting === 0) queueMicrotask(() => this.#reaper.check());
    }
  }

  async watchOrphan(process: ProcessName, pidfd: number): Promise<ProcessEnd> {
    const told = Promise.withResolvers<ProcessEnd>();
    const asked = this.#askKeeper(process, told);
    for (;;) {
      const end = await Promise.race([told.promise, Bun.sleep(STRANGER_POLL_MS)]);
      if (end !== undefined) return end;
      if (isThere(process, pidfd)) {
        // A keeper that took the dead one's place knows nothing: only looking helps. One that is there tells by itself.
        continue;
      }
      const late = await Promise.race([told.promise, asked.then(() => undefined), Bun.sleep(KEEPER_TELLS_MS)]);
      if (late !== undefined) return late;
      const { pid, start } = process;
      const status = pidfd < 0 ? undefined : pidfdExitStatus(pidfd);
      const common = { pid, start, exitedAt: nowMoment() };
      if (status !== undefined) return { ...common, status: status.code, source: "pidfd" };
      return { ...common, status: UNKNOWN_STATUS, source: "unknown", reason: NOBODY_SAW };
    }
  }

  async #askKeeper(process: ProcessName, told: PromiseWithResolvers<ProcessEnd>): Promise<void> {
    const exit = await this.#deposits.watch(process);
    if (exit === undefined) return;
    const { pid, start, code: status, at } = exit;
    told.resolve({ pid, start, status, exitedAt: new Date(at), source: "keeper" });
  }
}

/** The status of an exit that nobody saw. */
export const UNKNOWN_STATUS = 255;

/** Why it is not known. */
export const NOBODY_SAW = "its shim died, no keeper saw it end, and the kernel keeps no exit for it";

/** Whether a process still is there, as a zombie too. */
function isThere({ pid, start }: ProcessName, pidfd: number): boolean {
  if (pidfd >= 0) return signalPidfd(pidfd, 0);
  return String(processStat(pid)?.startTicks ?? "") === start;
}

/** The name of a process, undefined when there is none. */
export function nameOf(pid: number): ProcessName | undefined {
  const identity = processIdentity(pid);
  return identity === undefined ? undefined : { pid, start: String(identity.startTicks) };
}

/**
 * Waits for a process whose parent is somebody else (a runtime with a monitor of its own). Its status is what the kernel
 * keeps (Linux 6.15), else unknown.
 */
async function watchStranger(pid: number): Promise<ProcessExit> {
  let pidfd: number;
  try {
    pidfd = openPidfd(pid);
  } catch {
    return { pid, code: UNKNOWN_STATUS, exitedAt: nowMoment() };
  }
  try {
    while (signalPidfd(pidfd, 0)) await Bun.sleep(STRANGER_POLL_MS);
    return { pid, ...(pidfdExitStatus(pidfd) ?? { code: UNKNOWN_STATUS }), exitedAt: nowMoment() };
  } finally {
    closeQuietly(pidfd);
  }
}
