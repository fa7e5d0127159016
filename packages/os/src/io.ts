import { classified } from "@stevedore/base/errors";
import { check, ERRNO, resultOrErrno, SyscallError } from "./errno.ts";
import { closeQuietly, O, setNonBlocking, statusFlags, writeFrom } from "./fd.ts";
import { i32, i64, libc, nameA, pointer } from "./ffi.ts";
import { S, statFd } from "./stat.ts";

/**
 * Reading and writing pipes, FIFOs and terminals on the event loop, with back-pressure and without a thread.
 *
 * Reading is Bun's own: `Bun.file(fd).stream()` polls a copy of the descriptor and stops reading when nobody pulls.
 * Writing is ours, because Bun's FileSink keeps its copy of the descriptor open after `end()` until a collection, so
 * the reader would not see the end of file: a write is one write(2), and when that says EAGAIN the kernel sends SIGIO
 * (O_ASYNC) once there is room. See docs/decisions/0011-fifo-pty-io.md for figures.
 */

export interface ReadOptions {
  /** Ends the iteration with its reason. */
  readonly signal?: AbortSignal;
  /** Whether the descriptor is closed when the iteration ends, however it ends. Default true. */
  readonly own?: boolean;
  /**
   * The open file is shared with processes that are not ours (a shell's terminal on descriptor 0): its flags are left as
   * they are, since a terminal left non-blocking breaks the shell, and it is opened anew for us. Default false.
   */
  readonly shared?: boolean;
}

/**
 * The bytes of a pipe, FIFO, socket or terminal until its end; EIO from a terminal whose last user has gone is such an
 * end. The descriptor is made non-blocking
 * unless `shared`. Each chunk is the consumer's to keep. At most one chunk (a few hundred KiB)
 * is read ahead of the consumer. Bun's copy of the descriptor is closed by another thread some milliseconds after the
 * iteration ended, so for that long the pipe still has a reader.
 */
export async function* readChunks(
  fd: number,
  options: ReadOptions = {},
): AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  const { signal, own = true, shared = false } = options;
  let reader: ChunkReader | undefined;
  let anew: number | undefined;
  const onAbort = (): void => {
    void reader?.cancel().catch(() => undefined);
  };
  try {
    signal?.throwIfAborted();
    if (shared) anew = reopen(fd);
    else setNonBlocking(fd);
    reader = Bun.file(anew ?? fd)
      .stream()
      .getReader();
    signal?.addEventListener("abort", onAbort);
    for (;;) {
      const next = await readOrEnd(reader);
      signal?.throwIfAborted();
      if (next === undefined) return;
      if (next.byteLength > 0) yield next;
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    await reader?.cancel().catch(() => undefined);
    if (anew !== undefined) closeQuietly(anew);
    if (own) closeQuietly(fd);
  }
}

/**
 * A terminal or pipe under an open file of our own, non-blocking; undefined for what needs none (files, sockets). Bun reads
 * a blocking terminal as if it were a file, which fails.
 */
function reopen(fd: number): number | undefined {
  const { mode } = statFd(fd);
  const type = mode & S.IFMT;
  if (type !== S.IFCHR && type !== S.IFIFO) return undefined;
  const flags = O.RDONLY | O.NONBLOCK | O.NOCTTY | O.CLOEXEC;
  return check(openLib().open(nameA.set(`/proc/self/fd/${fd}`), flags, 0), "open", `descriptor ${fd} anew`);
}

const openLib = libc({ open: { args: [pointer, i32, i32], returns: i32 } });

/** What of a stream reader is used here; Node's and Bun's types for the whole of it disagree. */
interface ChunkReader {
  read(): Promise<{ done: boolean; value?: Uint8Array<ArrayBuffer> | undefined }>;
  cancel(): Promise<void>;
}

async function readOrEnd(reader: ChunkReader): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    const { done, value } = await reader.read();
    return done ? undefined : value;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EIO") return undefined;
    throw error;
  }
}

const lib = libc({ fcntl: { args: [i32, i32, i32], returns: i32 } });
const F = { SETFL: 4, SETOWN: 8 } as const;
/** "Send SIGIO when there is data or room"; from include/uapi/asm-generic/fcntl.h. */
const O_ASYNC = 0o20000;

/** What each waiter waits for, by the function that wakes it: the signal names no descriptor. */
const waiting = new Map<() => void, { readonly fd: number; readonly events: number }>();
let listening = false;

/**
 * While anything waits, this keeps the process alive (a signal handler alone does not) and looks again each second,
 * should a signal ever get lost.
 */
const GUARD_MS = 1_000;
let guard: ReturnType<typeof setInterval> | undefined;

/** One poll(2) finds whose turn it is: with hundreds blocked, one that moves must not make the others try again. */
function wakeReady(): void {
  const count = waiting.size;
  if (count === 0) return;
  const requests = new DataView(new ArrayBuffer(count * POLLFD_SIZE));
  const wakers = [...waiting.keys()];
  let at = 0;
  for (const { fd, events } of waiting.values()) {
    requests.setInt32(at, fd, true);
    requests.setInt16(at + 4, events, true);
    at += POLLFD_SIZE;
  }
  const ready = resultOrErrno(pollLib().poll(new Uint8Array(requests.buffer), count, 0));
  if (ready === 0) return;
  for (const [i, wake] of wakers.entries()) {
    // When poll itself fails (EINTR, ENOMEM) everybody tries.
    if (ready < 0 || requests.getInt16(i * POLLFD_SIZE + 6, true) !== 0) wake();
  }
}

function removeWaiting(wake: () => void): void {
  waiting.delete(wake);
  if (waiting.size > 0 || guard === undefined) return;
  // Waits come and go thousands of times a second under load: the timer goes only when none came back by the next turn.
  setImmediate(() => {
    if (waiting.size > 0 || guard === undefined) return;
    clearInterval(guard);
    guard = undefined;
  });
}

function listenForSignals(): void {
  if (listening) return;
  listening = true;
  // Never removed: without a handler, a late SIGIO would end the process.
  process.on("SIGIO", wakeReady);
}

/** Asks the kernel to send SIGIO for `fd`, and makes it non-blocking. Needed once per open file. */
export function armForSignals(fd: number): void {
  listenForSignals();
  check(lib().fcntl(fd, F.SETOWN, process.pid), "fcntl", `descriptor ${fd}`);
  check(lib().fcntl(fd, F.SETFL, statusFlags(fd) | O.NONBLOCK | O_ASYNC), "fcntl", `descriptor ${fd}`);
}

/** What to wait for. */
export interface Readiness {
  /** An armed descriptor. */
  readonly fd: number;
  /** {@link POLL} events; ERR and HUP count always. */
  readonly events: number;
  readonly signal?: AbortSignal | undefined;
  /** Receives the function that ends the wait early. */
  readonly hold?: (wake: () => void) => void;
}

/**
 * Waits until an armed descriptor may be ready. Callers try their call again then: being woken promises nothing. Arm
 * first, then try, then wait: so nothing is missed in between.
 */
export function untilReady({ fd, events, signal, hold }: Readiness): Promise<void> {
  return new Promise((resolve) => {
    const wake = (): void => {
      removeWaiting(wake);
      signal?.removeEventListener("abort", wake);
      resolve();
    };
    waiting.set(wake, { fd, events });
    guard ??= setInterval(wakeReady, GUARD_MS);
    signal?.addEventListener("abort", wake);
    hold?.(wake);
  });
}

/**
 * Calls `attempt` now and whenever `fd` gets readable until it returns something other than undefined (its EAGAIN).
 *
 * @throws what `attempt` throws; the reason of `signal`.
 */
export async function attemptUntil<T>(fd: number, attempt: () => T | undefined, signal?: AbortSignal): Promise<T> {
  armForSignals(fd);
  for (;;) {
    signal?.throwIfAborted();
    const result = attempt();
    if (result !== undefined) return result;
    await untilReady({ fd, events: POLL.IN, signal });
  }
}

/**
 * The write side of a pipe, FIFO or terminal. Owns its descriptor, and changes the flags of the open file: never for one
 * that is shared with others, such as a shell's terminal on descriptor 1. Main thread only: Workers get no signals.
 * Writes are queued one behind the other; a caller that awaits each has at most one in flight.
 */
export class FdWriter implements Disposable {
  #fd: number;
  #armed = false;
  #tail: Promise<void> = Promise.resolve();
  #busy = 0;
  #wake: (() => void) | undefined;

  /** Takes `fd` over and makes it non-blocking. */
  constructor(fd: number) {
    setNonBlocking(fd);
    this.#fd = fd;
  }

  get fd(): number {
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /**
   * Resolves when the kernel has taken all of `bytes`, which must stay unchanged until then.
   *
   * @throws unavailable (EPIPE) when nobody reads any more; canceled when the writer is closed meanwhile; the reason of
   *   `signal` when that ends first (part of the bytes may have been written).
   */
  write(bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (this.#busy === 0) {
      const n = this.#try(bytes);
      if (n instanceof Error) return Promise.reject(n);
      if (n === bytes.byteLength) return Promise.resolve();
      return this.#enqueue(bytes.subarray(n), signal);
    }
    return this.#enqueue(bytes, signal);
  }

  /** As much of `bytes` as fits now: the count, 0 when full. For callers that drop or keep the rest themselves. */
  writeSome(bytes: Uint8Array): number {
    if (this.#busy > 0) return 0;
    const n = this.#try(bytes);
    if (n instanceof Error) throw n;
    return n;
  }

  /** Closes the descriptor at once; what is queued is dropped and fails as canceled. */
  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1;
    closeQuietly(fd);
    this.#wake?.();
  }

  /** Closes after everything queued has been written (or failed). */
  async end(): Promise<void> {
    await this.#tail;
    this.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #try(bytes: Uint8Array): number | Error {
    if (this.#fd < 0) return classified("canceled", "write: descriptor closed");
    let at = 0;
    while (at < bytes.byteLength) {
      const n = writeFrom(this.#fd, at === 0 ? bytes : bytes.subarray(at));
      if (n === -ERRNO.EAGAIN) return at;
      if (n < 0) return new SyscallError({ syscall: "write", errno: -n, target: `descriptor ${this.#fd}` });
      at += n;
    }
    return at;
  }

  #enqueue(bytes: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    this.#busy++;
    const done = this.#tail.then(() => this.#drain(bytes, signal)).finally(() => this.#busy--);
    this.#tail = done.catch(() => undefined);
    return done;
  }

  async #drain(all: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    let bytes = all;
    for (;;) {
      signal?.throwIfAborted();
      this.#arm();
      // Tried after arming, so that room made in between is not missed.
      const n = this.#try(bytes);
      if (n instanceof Error) throw n;
      if (n === bytes.byteLength) return;
      bytes = bytes.subarray(n);
      const hold = (wake: () => void): void => {
        this.#wake = wake;
      };
      await untilReady({ fd: this.#fd, events: POLL.OUT, signal, hold });
    }
  }

  #arm(): void {
    if (this.#armed || this.#fd < 0) return;
    armForSignals(this.#fd);
    this.#armed = true;
  }
}

const pollLib = libc({ poll: { args: [pointer, i64, i32], returns: i32 } });
const POLLFD_SIZE = 8; // struct pollfd
const pollRequest = new DataView(new ArrayBuffer(POLLFD_SIZE));
const pollBytes = new Uint8Array(pollRequest.buffer);

/** Events of poll(2). */
export const POLL = { IN: 1, OUT: 4, ERR: 8, HUP: 16, NVAL: 32 } as const;

/** Which of `events` (and ERR, HUP, NVAL) hold for `fd` now. Does not wait. */
export function pollNow(fd: number, events: number): number {
  pollRequest.setInt32(0, fd, true);
  pollRequest.setInt16(4, events, true);
  pollRequest.setInt16(6, 0, true);
  check(pollLib().poll(pollBytes, 1, 0), "poll", `descriptor ${fd}`);
  return pollRequest.getInt16(6, true);
}

export interface PumpOptions {
  readonly signal?: AbortSignal;
  /** Told of each chunk's size after it was written. */
  readonly onBytes?: (count: number) => void;
  /** Whether `from` is closed at the end. Default true. `to` never is. */
  readonly own?: boolean;
}

/**
 * Copies everything from `from` to `to` until the end of `from`, at the pace of the slower. Returns the bytes copied.
 *
 * @throws unavailable (EPIPE) when nobody reads `to` any more; the reason of `signal`.
 */
export async function pump(from: number, to: FdWriter, options: PumpOptions = {}): Promise<number> {
  const { signal, onBytes, own = true } = options;
  let total = 0;
  for await (const chunk of readChunks(from, { own, ...(signal === undefined ? {} : { signal }) })) {
    await to.write(chunk, signal);
    total += chunk.byteLength;
    onBytes?.(chunk.byteLength);
  }
  return total;
}
