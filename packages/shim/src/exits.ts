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

/**
 * Looks in a row at an orphan that has ended and is not reaped, until it is taken for ended: with the reaping comes its status, but where
 * the first process is no init (a container without one) nobody reaps orphans.
 */
const UNREAPED_LOOKS = 10;

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
    const keeper = new KeepersAnswer(this.#askKeeper(process));
    let unreaped = 0;
    for (;;) {
      await keeper.orIn(STRANGER_POLL_MS);
      if (keeper.end !== undefined) return keeper.end;
      unreaped = isUnreaped(process) ? unreaped + 1 : 0;
      // A keeper that took the dead one's place knows nothing: only looking helps. One that is there tells by itself.
      if (isThere(process, pidfd) && unreaped < UNREAPED_LOOKS) continue;
      if (!keeper.hasAnswered) await keeper.orIn(KEEPER_TELLS_MS);
      if (keeper.end !== undefined) return keeper.end;
      const { pid, start } = process;
      const status = pidfd < 0 ? undefined : pidfdExitStatus(pidfd);
      const common = { pid, start, exitedAt: nowMoment() };
      if (status !== undefined) return { ...common, status: status.code, source: "pidfd" };
      return { ...common, status: UNKNOWN_STATUS, source: "unknown", reason: NOBODY_SAW };
    }
  }

  async #askKeeper(process: ProcessName): Promise<ProcessEnd | undefined> {
    const exit = await this.#deposits.watch(process);
    if (exit === undefined) return undefined;
    const { pid, start, code: status, at } = exit;
    return { pid, start, status, exitedAt: new Date(at), source: "keeper" };
  }
}

/**
 * What the keeper says of a process, which may take as long as the process lives. Looked at again and again meanwhile: a race with its
 * promise each time would leave something at that promise each time.
 */
class KeepersAnswer {
  end: ProcessEnd | undefined;
  hasAnswered = false;
  #wake: () => void = () => undefined;

  constructor(answer: Promise<ProcessEnd | undefined>) {
    void this.#await(answer);
  }

  async #await(answer: Promise<ProcessEnd | undefined>): Promise<void> {
    this.end = await answer;
    this.hasAnswered = true;
    this.#wake();
  }

  /** Until it answers, at most for so many milliseconds. */
  async orIn(milliseconds: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, milliseconds);
    this.#wake = () => {
      clearTimeout(timer);
      resolve();
    };
    if (this.end !== undefined) this.#wake();
    await promise;
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

function isUnreaped({ pid, start }: ProcessName): boolean {
  const stat = processStat(pid);
  return stat?.state === "Z" && stat.threads <= 1 && String(stat.startTicks) === start;
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
