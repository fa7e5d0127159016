import { readFileSync } from "node:fs";
import { check } from "./errno.ts";
import { i32, libc, pointer } from "./ffi.ts";

const lib = libc({ prlimit: { args: [i32, i32, pointer, pointer], returns: i32 } });

/** Resource numbers; from include/uapi/asm-generic/resource.h. */
export const RLIMIT = {
  CPU: 0,
  FSIZE: 1,
  DATA: 2,
  STACK: 3,
  CORE: 4,
  RSS: 5,
  NPROC: 6,
  NOFILE: 7,
  MEMLOCK: 8,
  AS: 9,
  LOCKS: 10,
  SIGPENDING: 11,
  MSGQUEUE: 12,
  NICE: 13,
  RTPRIO: 14,
  RTTIME: 15,
} as const;

/** Soft and hard limit. "Unlimited" is {@link RLIM_INFINITY}. */
export interface Rlimit {
  readonly soft: bigint;
  readonly hard: bigint;
}

export const RLIM_INFINITY: bigint = 2n ** 64n - 1n;

const before = new BigUint64Array(2);
const after = new BigUint64Array(2);

/** A limit of process `pid` (0: this one). Does not block. @throws not-found when there is no such process. */
export function getRlimit(resource: number, pid = 0): Rlimit {
  check(lib().prlimit(pid, resource, null, before), "prlimit", `process ${pid}`);
  return { soft: before[0] ?? 0n, hard: before[1] ?? 0n };
}

/**
 * Sets a limit of process `pid` (0: this one, for all its threads) and returns the old one. Does not block.
 *
 * @throws permission-denied when the hard limit would rise without CAP_SYS_RESOURCE.
 */
export function setRlimit(resource: number, limit: Rlimit, pid = 0): Rlimit {
  after[0] = limit.soft;
  after[1] = limit.hard;
  check(lib().prlimit(pid, resource, after, before), "prlimit", `process ${pid}`);
  return { soft: before[0] ?? 0n, hard: before[1] ?? 0n };
}

/** Environment variable by which a process of ours tells another which NOFILE limit its children are due: `soft:hard`. */
export const NOFILE_VARIABLE = "STEVEDORE_NOFILE";

let inherited: Rlimit | undefined;

/**
 * The NOFILE limit this process was started with, before Bun raised the soft one to the hard one: what children get.
 *
 * The kernel does not keep it, so it is, in this order: what {@link NOFILE_VARIABLE} says; the lowest soft limit among
 * our ancestors that have our hard limit (each of them handed its own on, unless it is itself a runtime that raises
 * its own, which is why all of them are asked); for a service of pid 1, the lowest among its other services with our
 * hard limit (systemd's default of 1024:524288 is one a unit seldom states); our own, raised one.
 */
export function inheritedNofile(): Rlimit {
  inherited ??= fromVariable(process.env[NOFILE_VARIABLE]) ?? fromAncestors() ?? getRlimit(RLIMIT.NOFILE);
  return inherited;
}

/** Sets what {@link inheritedNofile} answers from now on, for a process that was told by other means. */
export function setInheritedNofile(limit: Rlimit): void {
  inherited = limit;
}

function fromVariable(text: string | undefined): Rlimit | undefined {
  const match = /^(\d{1,20}):(\d{1,20})$/.exec(text ?? "");
  if (match === null) return undefined;
  return { soft: BigInt(match[1] ?? 0), hard: BigInt(match[2] ?? 0) };
}

/** More generations than any real process tree between init and a daemon has. */
const MAX_ANCESTORS = 64;
/** Enough services of a machine for one of them to have kept the default. */
const MAX_SIBLINGS = 64;

function fromAncestors(): Rlimit | undefined {
  const own = getRlimit(RLIMIT.NOFILE);
  let { soft } = own;
  let pid = process.ppid;
  for (let depth = 0; depth < MAX_ANCESTORS && pid > 1; depth++) {
    const limit = nofileOf(pid);
    if (limit === undefined || limit.hard !== own.hard) break;
    if (limit.soft < soft) soft = limit.soft;
    const parent = parentOf(pid);
    if (parent === undefined) break;
    pid = parent;
  }
  if (pid === 1 && soft === own.hard) {
    for (const sibling of childrenOfInit().slice(0, MAX_SIBLINGS)) {
      const limit = nofileOf(sibling);
      if (limit?.hard === own.hard && limit.soft < soft) soft = limit.soft;
    }
  }
  return { soft, hard: own.hard };
}

function childrenOfInit(): number[] {
  try {
    const text = readFileSync("/proc/1/task/1/children", "latin1").trim();
    return text === "" ? [] : text.split(" ").map(Number);
  } catch {
    return []; // a kernel that does not list children
  }
}

function nofileOf(pid: number): Rlimit | undefined {
  try {
    return getRlimit(RLIMIT.NOFILE, pid);
  } catch {
    return undefined; // gone meanwhile, or not ours to ask
  }
}

function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return Number(fields[1]);
  } catch {
    return undefined;
  }
}
