import { readdirSync, statSync } from "node:fs";
import { concatBytes, decodeText, encodeText } from "@stevedore/base/bytes";
import { classified, messageOf } from "@stevedore/base/errors";
import { spawnedPids } from "./children.ts";
import { ERRNO, isErrno, SyscallError } from "./errno.ts";
import { closeQuietly, duplicate, memoryFile, OwnedFd, pipe, writeFrom } from "./fd.ts";
import { resetInternalSignals } from "./internal-signals.ts";
import { FdWriter, readChunks } from "./io.ts";
import { openPidfd, signalPidfd } from "./pidfd.ts";
import { getRlimit, inheritedNofile, RLIMIT, type Rlimit, setRlimit } from "./rlimit.ts";
import { SIGKILL, SIGTERM } from "./signals.ts";

/**
 * Starting children. FFI never forks: Bun.spawn does (vfork, all signal dispositions and the mask reset, descriptors
 * above the listed ones closed), and this file adds what it lacks: the NOFILE limit this process was given, real pipes,
 * an environment that is listed and never inherited. Figures in docs/decisions/0012-what-a-child-inherits.md.
 */

/** Where a child's standard input comes from. */
export type StdinSource =
  | "null"
  /** A real pipe; its write end is {@link Child.stdin}. */
  | "pipe"
  /** These bytes, then the end: a pipe when they fit one, else an anonymous file. Nobody has to feed it. */
  | { readonly bytes: Uint8Array }
  /** A descriptor of ours, borrowed: the caller closes it when it likes after the spawn. */
  | { readonly fd: number };

/** Where a child's output goes. */
export type OutputTarget =
  | "null"
  /** A real pipe; its read end is {@link Child.stdout} or {@link Child.stderr}. */
  | "pipe"
  | { readonly fd: number };

export interface SpawnOptions {
  /** The child's whole environment. Nothing of ours is added. Default: empty. See {@link pickEnvironment}. */
  readonly env?: Readonly<Record<string, string>>;
  /** Absolute working directory. Default `/`, so that no file system of the caller's is kept busy. */
  readonly cwd?: string;
  /** What the child sees as its own name; default the command. */
  readonly argv0?: string;
  /** Default "null". */
  readonly stdin?: StdinSource;
  /** Default "null". */
  readonly stdout?: OutputTarget;
  /** Default "null"; "stdout" means the same file as stdout. */
  readonly stderr?: OutputTarget | "stdout";
  /** Descriptors of ours the child gets as 3, 4, 5 …; borrowed. */
  readonly extraFds?: readonly number[];
  /** A session of its own (setsid), so that signals to our terminal or group do not reach it. Default false. */
  readonly newSession?: boolean;
  /** NOFILE of the child. Default: what we were started with ({@link inheritedNofile}). */
  readonly nofile?: Rlimit;
  /** Folders searched for a command without a slash, as $PATH. Default: our own PATH. */
  readonly searchPath?: string;
  /** Ends the child: `killSignal`, and after `killGraceMs` SIGKILL. */
  readonly signal?: AbortSignal;
  /** Default SIGTERM. */
  readonly killSignal?: number;
  /** Milliseconds between `killSignal` and SIGKILL. Default 1,000. */
  readonly killGraceMs?: number;
  /** Signals go to the child's process group too. Only with `newSession`. Default false. */
  readonly killGroup?: boolean;
}

/** How a process ended. */
export interface ExitStatus {
  /** 0 to 255; 128 plus the signal's number when a signal ended it, as shells and containerd report it. */
  readonly code: number;
  /** The signal that ended it. */
  readonly signal?: number;
}

/** The kill grace when none is given: long enough for a runtime to take its state folder down, short for a user. */
const DEFAULT_KILL_GRACE_MS = 1_000;

/** A running child. Bun reaps it; its pid stays valid until {@link Child.exited} resolves. */
export class Child implements AsyncDisposable {
  readonly pid: number;
  /** Names the process even after it is gone. Owned by this object; closed by {@link Child.dispose}. */
  readonly pidfd: OwnedFd;
  /** With stdin "pipe": the caller closes it. */
  readonly stdin: FdWriter | undefined;
  /** With "pipe": a real pipe's read end. The caller takes it (`release()`) or reads it with readChunks. */
  readonly stdout: OwnedFd | undefined;
  readonly stderr: OwnedFd | undefined;
  /** Resolves when the child has ended; never rejects. */
  readonly exited: Promise<ExitStatus>;
  #status: ExitStatus | undefined;
  readonly #group: boolean;

  /** Made by {@link spawnChild}; takes the descriptors over. */
  constructor(process: Bun.Subprocess, ends: ParentEnds, options: SpawnOptions) {
    this.pid = process.pid;
    spawnedPids.add(process.pid);
    this.#group = (options.killGroup ?? false) && (options.newSession ?? false);
    // The pid cannot have been reaped yet: Bun does that from the loop, which has not run since the spawn.
    this.pidfd = new OwnedFd(openPidfd(process.pid));
    this.stdin = ends.stdin === undefined ? undefined : new FdWriter(ends.stdin);
    this.stdout = ends.stdout === undefined ? undefined : new OwnedFd(ends.stdout);
    this.stderr = ends.stderr === undefined ? undefined : new OwnedFd(ends.stderr);
    const { signal } = options;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const onAbort = (): void => {
      this.kill(options.killSignal ?? SIGTERM);
      timer = setTimeout(() => this.kill(SIGKILL), options.killGraceMs ?? DEFAULT_KILL_GRACE_MS);
    };
    if (signal?.aborted === true) onAbort();
    else signal?.addEventListener("abort", onAbort, { once: true });
    this.exited = process.exited.then((code) => {
      spawnedPids.delete(this.pid);
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      this.#status = process.signalCode === null ? { code } : { code, signal: code - 128 };
      return this.#status;
    });
  }

  /** How it ended, once it has. */
  get status(): ExitStatus | undefined {
    return this.#status;
  }

  /** Sends a signal. Returns false when the child has ended. */
  kill(signal: number): boolean {
    if (this.#status !== undefined || this.pidfd.fd < 0) return false;
    if (this.#group) {
      try {
        process.kill(-this.pid, signal);
        return true;
      } catch (error) {
        if (!isErrno(error, "ESRCH")) throw error;
      }
    }
    return signalPidfd(this.pidfd.fd, signal);
  }

  /** Closes our ends of its pipes and the pidfd. Leaves the child running. */
  dispose(): void {
    this.stdin?.close();
    this.stdout?.[Symbol.dispose]();
    this.stderr?.[Symbol.dispose]();
    this.pidfd[Symbol.dispose]();
  }

  /** Kills the child if it still runs, waits for its end and closes everything. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kill(SIGKILL);
    await this.exited;
    this.dispose();
  }
}

/**
 * Starts a program and returns once it runs (exec has succeeded). Blocks the loop for the vfork and exec, about 0.5 ms.
 *
 * @param argv the command and its arguments; without a slash the command is looked up in `searchPath`.
 * @throws not-found when there is no such program or working directory; permission-denied when it may not be run.
 */
export function spawnChild(argv: readonly string[], options: SpawnOptions = {}): Child {
  resetInternalSignals();
  const command = findExecutable(argv[0] ?? "", options.searchPath);
  /** Descriptors made only for the child: closed when it has them, or when starting failed. */
  const forChild: number[] = [];
  /** Our ends of its pipes: closed only when starting failed. */
  const forUs: number[] = [];
  try {
    const makePipe = (childReads: boolean): { theirs: number; ours: number } => {
      const { read, write } = pipe();
      const ends = childReads ? { theirs: read, ours: write } : { theirs: write, ours: read };
      forChild.push(ends.theirs);
      forUs.push(ends.ours);
      return ends;
    };
    const ends: ParentEnds = {};
    const input = (source: StdinSource): number | null => {
      if (source === "null") return null;
      if (source === "pipe") {
        const { theirs, ours } = makePipe(true);
        ends.stdin = ours;
        return theirs;
      }
      if ("fd" in source) return source.fd;
      const filled = filledInput(source.bytes);
      forChild.push(filled);
      return filled;
    };
    const output = (target: OutputTarget, name: "stdout" | "stderr"): number | null => {
      if (target === "null") return null;
      if (target !== "pipe") return target.fd;
      const { theirs, ours } = makePipe(false);
      ends[name] = ours;
      return theirs;
    };
    const stdin = input(options.stdin ?? "null");
    const stdout = output(options.stdout ?? "null", "stdout");
    const errors = options.stderr ?? "null";
    const stderr = errors === "stdout" ? stdout : output(errors, "stderr");
    const slots = [stdin, stdout, stderr, ...(options.extraFds ?? [])];
    // Bun fills the slots in order, so a source numbered below the last slot could be overwritten before its turn.
    const stdio = slots.map((fd) => {
      if (fd === null || fd >= slots.length) return fd;
      const moved = duplicate(fd, slots.length);
      forChild.push(moved);
      return moved;
    });
    const started = withNofile(options.nofile ?? inheritedNofile(), (prefix) =>
      start([...prefix, command, ...argv.slice(1)], {
        cwd: options.cwd ?? "/",
        env: { ...options.env },
        stdio,
        detached: options.newSession ?? false,
        ...(prefix.length > 0 ? {} : { argv0: options.argv0 ?? argv[0] ?? "" }),
      }),
    );
    return new Child(started, ends, options);
  } catch (error) {
    for (const fd of forUs) closeQuietly(fd);
    throw error;
  } finally {
    for (const fd of forChild) closeQuietly(fd);
  }
}

interface ParentEnds {
  stdin?: number;
  stdout?: number;
  stderr?: number;
}

interface StartOptions {
  readonly cwd: string;
  readonly env: Record<string, string>;
  readonly stdio: readonly (number | null)[];
  readonly detached: boolean;
  readonly argv0?: string;
}

function start(argv: string[], options: StartOptions): Bun.Subprocess {
  try {
    return Bun.spawn(argv, { ...options, stdio: [...options.stdio] as [null, null, null] });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    const errno = (ERRNO as Readonly<Record<string, number>>)[code];
    const target = argv[0] ?? "";
    if (errno === undefined) throw classified("unknown", `start ${target}: ${messageOf(error)}`, { cause: error });
    throw new SyscallError({ syscall: "start", errno, target, detail: `in ${options.cwd}`, cause: error });
  }
}

/** What a pipe holds without anybody reading, by default; fcntl(F_SETPIPE_SZ) in pipe(7). */
const PIPE_CAPACITY = 65_536;

function filledInput(bytes: Uint8Array): number {
  if (bytes.byteLength > PIPE_CAPACITY) return memoryFile(bytes);
  const { read, write } = pipe();
  if (bytes.byteLength > 0) writeFrom(write, bytes);
  closeQuietly(write);
  return read;
}

/** Descriptors that other threads may open during the half millisecond a lowered limit holds. */
const NOFILE_MARGIN = 256;

/**
 * Runs a spawn such that the child gets `limit`. Rlimits are inherited and there is no way to run code in the child
 * before its exec, so our own soft limit is lowered around the spawn: open descriptors are not touched by that, only
 * new ones above it are refused. When we hold too many for that, or the hard limit differs, util-linux's prlimit is
 * put in front of the command (0.9 ms more, and argv0 is then the command).
 */
function withNofile<T>(limit: Rlimit, run: (prefix: readonly string[]) => T): T {
  const own = getRlimit(RLIMIT.NOFILE);
  if (own.soft === limit.soft && own.hard === limit.hard) return run([]);
  if (own.hard !== limit.hard || limit.soft < BigInt(countDescriptors() + NOFILE_MARGIN)) {
    return run([findExecutable("prlimit"), `--nofile=${limit.soft}:${limit.hard}`, "--"]);
  }
  setRlimit(RLIMIT.NOFILE, limit);
  try {
    return run([]);
  } finally {
    setRlimit(RLIMIT.NOFILE, own);
  }
}

/** How many descriptors we hold. The folder's size says so from Linux 6.2 on; older kernels report 0 and are counted. */
function countDescriptors(): number {
  const { size } = statSync("/proc/self/fd");
  return size > 0 ? size : readdirSync("/proc/self/fd").length;
}

/**
 * The absolute path of a command, as exec would find it: unchanged with a slash, else the first executable of that name
 * in `searchPath` (default our PATH).
 *
 * @throws not-found with the peer's text.
 */
export function findExecutable(command: string, searchPath: string = process.env["PATH"] ?? ""): string {
  if (command.includes("/")) return command;
  const found = command === "" ? null : Bun.which(command, { PATH: searchPath, cwd: "/" });
  if (found === null) {
    throw classified("not-found", `exec: ${JSON.stringify(command)}: executable file not found in $PATH`);
  }
  return found;
}

/** The named variables of our own environment that are set: the listed environment of a child. */
export function pickEnvironment(names: readonly string[]): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const name of names) {
    const value = process.env[name];
    if (value !== undefined) picked[name] = value;
  }
  return picked;
}

export interface RunOptions extends Omit<SpawnOptions, "stdin" | "stdout" | "stderr"> {
  /** Bytes for standard input. Default: none. */
  readonly input?: Uint8Array | string;
  /** Kept bytes of each of stdout and stderr; what is beyond is read and dropped. Default 1 MiB. */
  readonly maxOutputBytes?: number;
  /** stderr goes where stdout goes, in order. Default false. */
  readonly mergeOutput?: boolean;
}

export interface RunResult extends ExitStatus {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  /** Whether output was dropped at the cap. */
  readonly truncated: boolean;
  /** stdout, else stderr, as trimmed text: for error messages. */
  text(): string;
}

/** Enough for any tool's answer or complaint; runc's own log lines stay far below. */
const DEFAULT_MAX_OUTPUT = 1 << 20;

/** After the child's end, how long a grandchild that kept the pipe may delay us. */
const OUTPUT_GRACE_MS = 500;

/**
 * Runs a program to its end and returns status and output. A status other than 0 is a result, not an error.
 *
 * @throws what {@link spawnChild} throws; the signal's reason when that ended first (the child is gone by then).
 */
export async function runCommand(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { input, maxOutputBytes = DEFAULT_MAX_OUTPUT, mergeOutput = false, ...rest } = options;
  options.signal?.throwIfAborted();
  const bytes = typeof input === "string" ? encodeText(input) : input;
  await using child = spawnChild(argv, {
    ...rest,
    stdin: bytes === undefined ? "null" : { bytes },
    stdout: "pipe",
    stderr: mergeOutput ? "stdout" : "pipe",
  });
  const late = new AbortController();
  const collect = (end: OwnedFd | undefined): Promise<Collected> =>
    end === undefined ? Promise.resolve(NOTHING) : collectOutput(end.release(), maxOutputBytes, late.signal);
  const outputs = Promise.all([collect(child.stdout), collect(child.stderr)]);
  const status = await child.exited;
  const timer = setTimeout(() => late.abort(), OUTPUT_GRACE_MS);
  const [out, err] = await outputs.finally(() => clearTimeout(timer));
  options.signal?.throwIfAborted();
  return {
    ...status,
    stdout: out.bytes,
    stderr: err.bytes,
    truncated: out.truncated || err.truncated,
    text: () => decodeText(out.bytes).trim() || decodeText(err.bytes).trim(),
  };
}

interface Collected {
  readonly bytes: Uint8Array;
  readonly truncated: boolean;
}

const NOTHING: Collected = { bytes: new Uint8Array(), truncated: false };

async function collectOutput(fd: number, limit: number, late: AbortSignal): Promise<Collected> {
  const parts: Uint8Array[] = [];
  let kept = 0;
  let truncated = false;
  try {
    for await (const chunk of readChunks(fd, { signal: late })) {
      const room = limit - kept;
      if (chunk.byteLength > room) truncated = true;
      if (room <= 0) continue; // keep reading, so that the child does not block on a full pipe
      const part = chunk.byteLength > room ? chunk.slice(0, room) : chunk;
      parts.push(part);
      kept += part.byteLength;
    }
  } catch (error) {
    if (!late.aborted) throw error;
  }
  return { bytes: concatBytes(parts), truncated };
}
