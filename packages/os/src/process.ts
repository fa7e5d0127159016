import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { classified } from "@stevedore/base/errors";
import { nowMoment } from "@stevedore/base/moment";
import { spawnedPids } from "./children.ts";
import { check, ERRNO, fromNodeError, isErrno, resultOrErrno, retryInterrupted, SyscallError } from "./errno.ts";
import { cString, i32, libc, pointer, u32, u64 } from "./ffi.ts";
import type { ExitStatus } from "./spawn.ts";

export { openPidfd, signalPidfd, takePidfdDescriptor } from "./pidfd.ts";
export { getRlimit, inheritedNofile, RLIM_INFINITY, RLIMIT, type Rlimit, setRlimit } from "./rlimit.ts";
export type { ExitStatus };

/** Processes: ours, our children, and those we adopted as a subreaper. */

const lib = libc({
  prctl: { args: [i32, u64, u64, u64, u64], returns: i32 },
  waitid: { args: [i32, u32, pointer, i32], returns: i32 },
  kill: { args: [i32, i32], returns: i32 },
  ioctl: { args: [i32, u64, pointer], returns: i32 },
});
// prctl with a name needs a pointer where the others take a number.
const nameLib = libc({ prctl: { args: [i32, pointer, u64, u64, u64], returns: i32 } });

/** Options of prctl(2); from include/uapi/linux/prctl.h. */
const PR = {
  SET_PDEATHSIG: 1,
  SET_NAME: 15,
  SET_CHILD_SUBREAPER: 36,
  GET_CHILD_SUBREAPER: 37,
  SCHED_CORE: 62,
} as const;

/** Makes this process the parent of orphans below it, for all its threads. Children do not inherit it. */
export function setChildSubreaper(on = true): void {
  check(lib().prctl(PR.SET_CHILD_SUBREAPER, on ? 1 : 0, 0, 0, 0), "prctl", "PR_SET_CHILD_SUBREAPER");
}

const flag = new Int32Array(1);

/** Whether orphans below this process become its children. */
export function isChildSubreaper(): boolean {
  check(nameLib().prctl(PR.GET_CHILD_SUBREAPER, flag, 0, 0, 0), "prctl", "PR_GET_CHILD_SUBREAPER");
  return flag[0] === 1;
}

/** Names the calling thread (the main one: the process, as ps shows it). Cut at 15 bytes by the kernel. */
export function setProcessName(name: string): void {
  check(nameLib().prctl(PR.SET_NAME, cString(name), 0, 0, 0), "prctl", "PR_SET_NAME");
}

/** The signal this process gets when the thread that started it ends; 0 for none. */
export function setParentDeathSignal(signal: number): void {
  check(lib().prctl(PR.SET_PDEATHSIG, signal, 0, 0, 0), "prctl", "PR_SET_PDEATHSIG");
}

/** What a core scheduling request covers; from include/uapi/linux/prctl.h. */
export const SCHED_CORE_SCOPE = { THREAD: 0, THREAD_GROUP: 1, PROCESS_GROUP: 2 } as const;

/**
 * Gives process `pid` (0: this one) a core scheduling cookie of its own (PR_SCHED_CORE_CREATE), so that it shares no
 * core with others at the same time. Children inherit it.
 *
 * @throws failed-precondition (ENODEV) without SMT; invalid-argument on kernels without core scheduling.
 */
export function createSchedCoreCookie(pid = 0, scope: number = SCHED_CORE_SCOPE.THREAD_GROUP): void {
  check(lib().prctl(PR.SCHED_CORE, 1, pid, scope, 0), "prctl", "PR_SCHED_CORE_CREATE");
}

/** Hands this process's cookie to process `pid` (PR_SCHED_CORE_SHARE_TO). */
export function shareSchedCoreCookie(pid: number, scope: number = SCHED_CORE_SCOPE.THREAD_GROUP): void {
  check(lib().prctl(PR.SCHED_CORE, 2, pid, scope, 0), "prctl", "PR_SCHED_CORE_SHARE_TO");
}

const cookie = new BigUint64Array(1);
const getCookieLib = libc({ prctl: { args: [i32, u64, u64, u64, pointer], returns: i32 } });

/** The core scheduling cookie of process `pid` (0: this one); 0 for none. */
export function schedCoreCookie(pid = 0): bigint {
  check(getCookieLib().prctl(PR.SCHED_CORE, 0, pid, 0, cookie), "prctl", "PR_SCHED_CORE_GET");
  return cookie[0] ?? 0n;
}

/** Sends a signal. Negative pids are process groups; signal 0 only asks. Returns false when there is nobody. */
export function sendSignal(pid: number, signal: number): boolean {
  const result = resultOrErrno(lib().kill(pid, signal));
  if (result === -ERRNO.ESRCH) return false;
  if (result < 0) throw new SyscallError({ syscall: "kill", errno: -result, target: `process ${pid}` });
  return true;
}

/** Whether a process of that pid exists (a zombie does). Says nothing about which one; see {@link processIdentity}. */
export function processExists(pid: number): boolean {
  const result = resultOrErrno(lib().kill(pid, 0));
  return result !== -ERRNO.ESRCH;
}

/** From include/uapi/linux/wait.h. */
const W = { NOHANG: 1, EXITED: 4, NOWAIT: 0x0100_0000 } as const;
const P = { PID: 1, PIDFD: 3 } as const;

const siginfo = new DataView(new ArrayBuffer(128));
const siginfoBytes = new Uint8Array(siginfo.buffer);

export interface WaitOptions {
  /** Leave the zombie, so that somebody else (or a later call) gets the status too. */
  readonly peek?: boolean;
}

/**
 * The exit of child `pid`, reaped unless `peek`; undefined while it runs. Never waits.
 *
 * @throws not-found (ECHILD) when it is no child of ours, or has been reaped.
 */
export function waitPid(pid: number, options: WaitOptions = {}): ExitStatus | undefined {
  return wait(P.PID, pid, options);
}

/** As {@link waitPid}, by pidfd: immune to reuse of the pid. */
export function waitPidfd(pidfd: number, options: WaitOptions = {}): ExitStatus | undefined {
  return wait(P.PIDFD, pidfd, options);
}

function wait(type: number, id: number, options: WaitOptions): ExitStatus | undefined {
  siginfo.setInt32(16, 0, true);
  const flags = W.EXITED | W.NOHANG | (options.peek === true ? W.NOWAIT : 0);
  const result = retryInterrupted(() => lib().waitid(type, id, siginfoBytes, flags));
  if (result < 0) throw new SyscallError({ syscall: "wait", errno: -result, target: `process ${id}` });
  if (siginfo.getInt32(16, true) === 0) return undefined;
  const status = siginfo.getInt32(24, true);
  const CLD_EXITED = 1;
  return siginfo.getInt32(8, true) === CLD_EXITED ? { code: status } : { code: 128 + status, signal: status };
}

/** A wait status as wait(2) packs it (also PIDFD_GET_INFO): the signal below, the code above. */
export function decodeWaitStatus(status: number): ExitStatus {
  const signal = status & 0x7f;
  return signal === 0 ? { code: (status >> 8) & 0xff } : { code: 128 + signal, signal };
}

let knowsExits: boolean | undefined;

const PIDFD_GET_INFO = 0xc040_ff0b; // _IOWR(0xFF, 11, struct pidfd_info) with the 64 bytes of version 0
const PIDFD_INFO_EXIT = 8n;
const info = new DataView(new ArrayBuffer(64));
const infoBytes = new Uint8Array(info.buffer);

/**
 * The exit status of the process behind a pidfd from the kernel's own record, also after somebody else has reaped it
 * (Linux 6.15 and later; the pidfd must have been open when it ended). Undefined while it runs, or when the kernel
 * cannot say.
 */
export function pidfdExitStatus(pidfd: number): ExitStatus | undefined {
  if (knowsExits === false) return undefined;
  info.setBigUint64(0, PIDFD_INFO_EXIT, true);
  if (lib().ioctl(pidfd, PIDFD_GET_INFO, infoBytes) < 0) return undefined;
  if ((info.getBigUint64(0, true) & PIDFD_INFO_EXIT) === 0n) return undefined;
  return decodeWaitStatus(info.getInt32(60, true));
}

/** Whether this kernel keeps exits in pidfds (6.15). Found out by a child of ours once; takes a millisecond then. */
export async function kernelKeepsExits(): Promise<boolean> {
  if (knowsExits === undefined) {
    const { spawnChild } = await import("./spawn.ts");
    const child = spawnChild(["true"]);
    await child.exited;
    knowsExits = pidfdExitStatus(child.pidfd.fd) !== undefined;
    child.dispose();
  }
  return knowsExits;
}

/** For tests of older kernels, and for the daemon's switch of the same meaning. */
export function assumeKernelKeepsExits(answer: boolean | undefined): void {
  knowsExits = answer;
}

/** Fields of /proc/<pid>/stat that tell processes apart. */
export interface ProcessStat {
  readonly pid: number;
  readonly comm: string;
  /** One letter: R, S, D, Z (zombie), T, X … */
  readonly state: string;
  readonly parent: number;
  readonly processGroup: number;
  readonly session: number;
  /** Its threads; 1 when it has ended and is not reaped yet. A process may live on without its first thread, which is a zombie then. */
  readonly threads: number;
  /** Clock ticks since boot at its start: with the pid, the identity of a process. */
  readonly startTicks: bigint;
}

/** The state of process `pid`, or undefined when there is none. */
export function processStat(pid: number | "self"): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch (error) {
    if (isErrno(error, "ENOENT", "ESRCH")) return undefined;
    throw fromNodeError(error);
  }
  return parseProcessStat(text);
}

/** Parses a stat line; the name may hold spaces and parentheses. */
export function parseProcessStat(text: string): ProcessStat {
  const open = text.indexOf("(");
  const close = text.lastIndexOf(")");
  const fields = text.slice(close + 2).split(" ");
  const startTicks = fields[19];
  if (open < 0 || close < open || startTicks === undefined) {
    throw classified("data-loss", `parse process stat: malformed ${JSON.stringify(text.slice(0, 80))}`);
  }
  return {
    pid: Number(text.slice(0, open - 1)),
    comm: text.slice(open + 1, close),
    state: fields[0] ?? "",
    parent: Number(fields[1]),
    processGroup: Number(fields[2]),
    session: Number(fields[3]),
    threads: Number(fields[17]),
    startTicks: BigInt(startTicks),
  };
}

/** Which process this is, for as long as the machine is up: pid and start. Undefined when there is none. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTicks: bigint;
}

export function processIdentity(pid: number): ProcessIdentity | undefined {
  const stat = processStat(pid);
  return stat === undefined ? undefined : { pid, startTicks: stat.startTicks };
}

/** Whether that very process still is there and is no zombie. */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = processStat(identity.pid);
  return stat !== undefined && stat.startTicks === identity.startTicks && stat.state !== "Z" && stat.state !== "X";
}

/** Pids of this process's children, adopted ones included. Reads one small file per thread. */
export function ownChildren(): number[] {
  const children: number[] = [];
  for (const thread of readdirSync("/proc/self/task")) {
    try {
      const text = readFileSync(`/proc/self/task/${thread}/children`, "latin1");
      for (const pid of text.split(" ")) if (pid.trim() !== "") children.push(Number(pid));
    } catch (error) {
      if (!isErrno(error, "ENOENT", "ESRCH")) throw fromNodeError(error); // that thread has ended
    }
  }
  return children;
}

/** The oom_score_adj of process `pid`: -1000 to 1000. */
export function getOomScoreAdj(pid: number | "self" = "self"): number {
  try {
    return Number(readFileSync(`/proc/${pid}/oom_score_adj`, "latin1"));
  } catch (error) {
    throw fromNodeError(error);
  }
}

/** Sets it. @throws permission-denied when it would fall without CAP_SYS_RESOURCE; not-found without such a process */
export function setOomScoreAdj(score: number, pid: number | "self" = "self"): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(score));
  } catch (error) {
    throw fromNodeError(error);
  }
}

/** The file mode mask of this process; changing it is a matter for a helper (`one-shot`). */
export function currentUmask(): number {
  const match = /^Umask:\s*([0-7]+)$/m.exec(readFileSync("/proc/self/status", "latin1"));
  return Number.parseInt(match?.[1] ?? "22", 8);
}

/** How a watched process ended, and when we learned it. */
export interface ProcessExit extends ExitStatus {
  readonly pid: number;
  readonly exitedAt: Date;
}

/** Orphans wait for nobody: a look this long after a burst of ends costs less than one for each end. */
const ORPHAN_DELAY_MS = 100;

/** How long a child nobody asked for stays a zombie, so that whoever learns its pid late can still have its status. */
const ORPHAN_GRACE_MS = 10_000;

/**
 * Waits for adopted children: a container's init, whose parent (the runtime) has gone, and execs. Woken by SIGCHLD.
 *
 * It waits by pid, so Bun's own children are left to Bun. Children that nobody watches (orphans of a container in the
 * host's pid namespace) are reaped after a grace of 10 s. One per process; main thread only.
 */
export class Reaper implements Disposable {
  readonly #watched = new Map<number, ((exit: ProcessExit) => void)[]>();
  /** Zombies nobody claimed yet, with the time they were first seen. */
  readonly #orphans = new Map<number, number>();
  readonly #onOrphan: ((exit: ProcessExit) => void) | undefined;
  readonly #keepOrphans: (() => boolean) | undefined;
  /** Children whose exits were told and that are zombies until {@link Reaper.release}. */
  readonly #told = new Set<number>();
  readonly #peek: boolean;
  /** The next look for orphans. */
  #timer: { readonly timer: ReturnType<typeof setTimeout>; readonly delayMs: number } | undefined;
  #queued = false;
  readonly #onSignal = (): void => {
    if (this.#queued) return;
    this.#queued = true;
    // Signals come in bursts; one look after the burst serves them all.
    queueMicrotask(() => {
      this.#queued = false;
      this.check();
    });
  };

  /**
   * @param options.onOrphan told of each unwatched child that was reaped.
   * @param options.keepOrphans whether a child that nobody watches yet may be claimed soon; while it answers false,
   *   such children are reaped at once instead of after the grace.
   * @param options.peek a watched child is told of but stays a zombie until {@link Reaper.release}: should this process be
   *   killed before it could write the exit down, the next parent still gets it.
   */
  constructor(
    options: {
      readonly onOrphan?: (exit: ProcessExit) => void;
      readonly keepOrphans?: () => boolean;
      readonly peek?: boolean;
    } = {},
  ) {
    this.#onOrphan = options.onOrphan;
    this.#peek = options.peek ?? false;
    this.#keepOrphans = options.keepOrphans;
    process.on("SIGCHLD", this.#onSignal);
  }

  /**
   * The exit of child `pid`: at once when it is a zombie already. Several watchers of one pid all learn it.
   *
   * @throws not-found when it is no child of this process.
   */
  watch(pid: number): Promise<ProcessExit> {
    const watchers = this.#watched.get(pid);
    if (watchers !== undefined) return new Promise((resolve) => watchers.push(resolve));
    const status = this.#wait(pid);
    this.#orphans.delete(pid);
    if (status !== undefined) return Promise.resolve({ ...status, pid, exitedAt: nowMoment() });
    return new Promise((resolve) => this.#watched.set(pid, [resolve]));
  }

  /** Whether somebody watches `pid`. */
  isWatching(pid: number): boolean {
    return this.#watched.has(pid);
  }

  /** Looks at every watched child, and a little later at the orphans. SIGCHLD does this by itself. */
  check(): void {
    for (const [pid, watchers] of this.#watched) {
      let status: ExitStatus | undefined;
      try {
        status = this.#wait(pid);
      } catch (error) {
        if (!isErrno(error, "ECHILD")) throw error;
        // Reaped behind our back; nobody knows how it ended. Never a guess: 255, as the design has it.
        status = { code: 255 };
      }
      if (status === undefined) continue;
      this.#watched.delete(pid);
      const exit = { ...status, pid, exitedAt: nowMoment() };
      for (const tell of watchers) tell(exit);
    }
    this.#lookForOrphans(ORPHAN_DELAY_MS);
  }

  /** Reaps a child whose exit was told with `peek`. */
  release(pid: number): void {
    if (!this.#told.delete(pid)) return;
    try {
      waitPid(pid);
    } catch (error) {
      if (!isErrno(error, "ECHILD")) throw error;
    }
  }

  #wait(pid: number): ExitStatus | undefined {
    const status = waitPid(pid, { peek: this.#peek });
    if (status !== undefined && this.#peek) this.#told.add(pid);
    return status;
  }

  #lookForOrphans(delayMs: number): void {
    if (this.#timer !== undefined) {
      if (delayMs >= this.#timer.delayMs) return;
      clearTimeout(this.#timer.timer);
    }
    const timer = setTimeout(() => {
      this.#timer = undefined;
      this.#reapOrphans();
    }, delayMs);
    timer.unref();
    this.#timer = { timer, delayMs };
  }

  #reapOrphans(): void {
    const now = Date.now();
    const zombies = new Set<number>();
    for (const pid of ownChildren()) {
      if (this.#watched.has(pid) || this.#told.has(pid) || spawnedPids.has(pid) || processStat(pid)?.state !== "Z")
        continue;
      zombies.add(pid);
      const since = this.#orphans.get(pid) ?? now;
      this.#orphans.set(pid, since);
      if (now - since < ORPHAN_GRACE_MS && this.#keepOrphans?.() !== false) continue;
      const status = waitPid(pid);
      this.#orphans.delete(pid);
      if (status !== undefined) this.#onOrphan?.({ ...status, pid, exitedAt: nowMoment() });
    }
    for (const pid of this.#orphans.keys()) if (!zombies.has(pid)) this.#orphans.delete(pid);
    if (this.#orphans.size > 0) this.#lookForOrphans(ORPHAN_GRACE_MS + ORPHAN_DELAY_MS);
  }

  [Symbol.dispose](): void {
    process.off("SIGCHLD", this.#onSignal);
    clearTimeout(this.#timer?.timer);
  }
}
