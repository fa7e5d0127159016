import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { classified } from "@stevedore/base/errors";
import { check, ERRNO, fromNodeError, resultOrErrno, SyscallError } from "./errno.ts";
import { AT, closeQuietly, O, OwnedFd } from "./fd.ts";
import { i32, libc, nameA, type OsPath, pointer, u32 } from "./ffi.ts";
import { attemptUntil, FdWriter, POLL, pollNow } from "./io.ts";
import { S, statFd } from "./stat.ts";

export { FdWriter, pump, readChunks } from "./io.ts";

/**
 * Named pipes, opened the way containerd's clients and shims expect (each side waits for the other) without a blocked
 * thread. Reading is `readChunks`, writing is an {@link FdWriter}, copying is `pump`.
 */

const lib = libc({
  mkfifo: { args: [pointer, u32], returns: i32 },
  openat: { args: [i32, pointer, i32, u32], returns: i32 },
});

/**
 * A new folder of its own for a process's FIFOs, below `parent`, which is made with mode 0700 when it is missing. On the calling thread:
 * FIFOs live on memory file systems, and a command makes them while a user waits.
 */
export function makeFifoFolder(parent: string): string {
  try {
    mkdirSync(parent, { recursive: true, mode: 0o700 });
    return mkdtempSync(`${parent}/`);
  } catch (error) {
    throw fromNodeError(error);
  }
}

/** Removes what {@link makeFifoFolder} made, with the FIFOs in it. One that is gone is fine. */
export function removeFifoFolder(folder: string): void {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch (error) {
    throw fromNodeError(error);
  }
}

/** Creates a FIFO. One that is there already is fine; anything else of that name is already-exists. */
export function makeFifo(path: string, mode = 0o700): void {
  const result = resultOrErrno(lib().mkfifo(nameA.set(path), mode));
  if (result >= 0) return;
  if (result === -ERRNO.EEXIST) {
    openFifoBoth(path).close();
    return;
  }
  throw new SyscallError({ syscall: "mkfifo", errno: -result, target: path });
}

function tryOpen(path: OsPath, flags: number): number {
  const fd = resultOrErrno(lib().openat(AT.FDCWD, nameA.set(path), flags | O.NONBLOCK | O.CLOEXEC | O.NOCTTY, 0));
  if (fd >= 0 && (statFd(fd).mode & S.IFMT) !== S.IFIFO) {
    closeQuietly(fd);
    throw classified("already-exists", `open fifo ${String(path)}: it is no fifo`);
  }
  return fd;
}

/**
 * Opens a FIFO for reading and writing: at once, whoever is at the other end. Such a descriptor never sees the end of
 * file and never gets EPIPE, and as long as it is open no other reader or writer does. Non-blocking.
 */
export function openFifoBoth(path: string): OwnedFd {
  return new OwnedFd(check(tryOpen(path, O.RDWR), "open fifo", path));
}

export interface OpenFifoOptions {
  readonly signal?: AbortSignal;
}

/**
 * Opens a FIFO for reading and waits until a writer is there and has written or closed: from then on the end of file
 * means that all writers are gone. Writers blocked in their open are released at once.
 */
export async function openFifoReader(path: string, options: OpenFifoOptions = {}): Promise<OwnedFd> {
  const fd = openFifoReaderNow(path);
  try {
    // Before the first writer poll says nothing, though read would say "end"; SIGIO comes with data and with a hang-up.
    await attemptUntil(fd.fd, () => (pollNow(fd.fd, POLL.IN) === 0 ? undefined : true), options.signal);
    return fd;
  } catch (error) {
    fd[Symbol.dispose]();
    throw error;
  }
}

/** Opens a FIFO for reading, non-blocking, without waiting: until a writer comes, a read says "end". */
export function openFifoReaderNow(path: string): OwnedFd {
  return new OwnedFd(check(tryOpen(path, O.RDONLY), "open fifo", path));
}

/** First and longest pause between looks for a reader, milliseconds. */
const FIRST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 50;

export interface OpenFifoWriterOptions extends OpenFifoOptions {
  /**
   * Keep a read end open beside, as containerd's shim does: a reader that goes away gives no EPIPE, and one that comes
   * back finds what was written meanwhile, up to the pipe's capacity. Default false.
   */
  readonly keepReader?: boolean;
}

/**
 * Opens a FIFO for writing and waits for a reader. There is no event for a reader that is itself blocked in open(2)
 * (it shows to nobody but a writer), so this looks again after 1, 2, 4 … 50 ms; clients that open before they call,
 * as containerd's do, are found at the first look.
 */
export async function openFifoWriter(path: string, options: OpenFifoWriterOptions = {}): Promise<FifoWriter> {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    options.signal?.throwIfAborted();
    const fd = tryOpen(path, O.WRONLY);
    if (fd >= 0) {
      const keeper = options.keepReader === true ? tryOpen(path, O.RDONLY) : -1;
      return new FifoWriter(fd, keeper);
    }
    if (fd !== -ERRNO.ENXIO) throw new SyscallError({ syscall: "open fifo", errno: -fd, target: path });
    await sleep(pause, undefined, options.signal === undefined ? {} : { signal: options.signal }).catch(
      () => undefined,
    );
  }
}

/** The write side of a FIFO, with the read end that keeps it alive. */
export class FifoWriter extends FdWriter {
  readonly #keeper: OwnedFd;

  /** Takes both descriptors over; `keeper` may be -1. */
  constructor(fd: number, keeper: number) {
    super(fd);
    this.#keeper = new OwnedFd(keeper);
  }

  override close(): void {
    super.close();
    this.#keeper[Symbol.dispose]();
  }
}
