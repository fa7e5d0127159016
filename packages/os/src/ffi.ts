import { type ConvertFns, dlopen, type FFIFunction, FFIType, type Pointer, read } from "bun:ffi";
import { classified } from "@stevedore/base/errors";

/**
 * How this room talks to libc. Every other file of `os` declares the functions it needs in one table and gets them
 * through {@link libc}; the library is opened at the first call, so importing a part costs nothing.
 *
 * Rules that hold for every binding unless its own comment says otherwise:
 *
 * - **Memory**: arguments are borrowed for the length of the call. The kernel keeps no pointer of ours.
 * - **errno**: read by {@link errnoNow} as the very next thing after a call that returned -1. JavaScript between the
 *   two would be allowed to run a garbage collection, whose own system calls may change errno; see
 *   docs/decisions/0010-ffi-errno-and-the-loop.md for the test that shows none does.
 * - **Blocking**: the call runs on the calling thread, so it stops that thread's loop for as long as it takes.
 */

/** Shorthands for binding tables. A `ptr` takes a typed array, a number (an address or a plain integer), or null. */
export const i32 = FFIType.i32;
export const u32 = FFIType.u32;
export const i64 = FFIType.i64_fast;
export const u64 = FFIType.u64_fast;
export const pointer = FFIType.ptr;
export const nothing = FFIType.void;

/** glibc's file name on every architecture Bun's glibc build runs on. */
const LIBC = "libc.so.6";

/** A lazily opened table of libc functions: call the result to get them. */
export function libc<const Fns extends Record<string, FFIFunction>>(table: Fns): () => ConvertFns<Fns> {
  let symbols: ConvertFns<Fns> | undefined;
  return () => {
    symbols ??= dlopen(LIBC, table).symbols;
    return symbols;
  };
}

const errnoLibrary = libc({ __errno_location: { args: [], returns: pointer } });

/** Address of this thread's errno. A Worker has its own copy of this module, hence its own address. */
let errnoAddress: Pointer | null = null;

/**
 * The calling thread's errno. Only meaningful straight after a libc call that reported failure. Does not block and
 * allocates nothing.
 */
export function errnoNow(): number {
  // Bun's types allow a bigint for addresses above 2^53; user-space addresses never are.
  errnoAddress ??= errnoLibrary().__errno_location() as Pointer | null;
  if (errnoAddress === null) throw classified("internal", "read errno: libc gave no address");
  return read.i32(errnoAddress, 0);
}

const rawLibrary = libc({
  syscall: { args: [i32, pointer, pointer, pointer, pointer, pointer], returns: i32 },
});

/** What a raw system call takes: a plain integer, or memory that outlives the call. */
export type RawArgument = number | Uint8Array | Int32Array | BigUint64Array | null;

/**
 * System calls by number, for those glibc 2.31 has no function for. From 424 on the numbers are the same on every
 * architecture. Results must fit 31 bits. Blocks as long as the system call does.
 */
export function rawSyscall(
  number: number,
  a: RawArgument = 0,
  b: RawArgument = 0,
  c: RawArgument = 0,
  d: RawArgument = 0,
  e: RawArgument = 0,
): number {
  return rawLibrary().syscall(
    number,
    a as Pointer | null,
    b as Pointer | null,
    c as Pointer | null,
    d as Pointer | null,
    e as Pointer | null,
  );
}

/** Numbers for {@link rawSyscall}; from include/uapi/asm-generic/unistd.h. */
export const SYS = {
  pidfdSendSignal: 424,
  openTree: 428,
  moveMount: 429,
  fsopen: 430,
  fsconfig: 431,
  fsmount: 432,
  pidfdOpen: 434,
  closeRange: 436,
  openat2: 437,
  pidfdGetfd: 438,
  mountSetattr: 442,
} as const;

const ENCODER = new TextEncoder();

/**
 * A path or a name for the kernel: text (sent as UTF-8) or the bytes themselves, for names that are not UTF-8. No NUL
 * inside, none at the end.
 */
export type OsPath = string | Uint8Array;

/** PATH_MAX with its NUL, from include/uapi/linux/limits.h: the kernel refuses longer ones. */
export const PATH_MAX = 4096;

/** A reusable NUL-terminated argument. One call's argument: the next {@link CStringSlot.set} overwrites it. */
export class CStringSlot {
  readonly #bytes: Uint8Array;

  /** @param capacity bytes, NUL included. */
  constructor(capacity: number = PATH_MAX) {
    this.#bytes = new Uint8Array(capacity);
  }

  /**
   * Writes `value` and its NUL, and returns the memory to pass on.
   *
   * @throws invalid-argument when `value` holds a NUL; out-of-range when it does not fit.
   */
  set(value: OsPath): Uint8Array {
    const bytes = this.#bytes;
    if (typeof value === "string") {
      if (value.includes("\0")) throw classified("invalid-argument", `pass ${JSON.stringify(value)}: NUL inside`);
      const { read: taken, written } = ENCODER.encodeInto(value, bytes);
      if (taken < value.length || written >= bytes.length) throw tooLong(value);
      bytes[written] = 0;
      return bytes;
    }
    if (value.includes(0)) throw classified("invalid-argument", `pass ${describePath(value)}: NUL inside`);
    if (value.length >= bytes.length) throw tooLong(value);
    bytes.set(value);
    bytes[value.length] = 0;
    return bytes;
  }
}

function tooLong(value: OsPath): Error {
  return classified("out-of-range", `pass ${describePath(value).slice(0, 64)}…: longer than the kernel takes`);
}

/** `value` and a NUL in memory of its own, for calls that need several at once. */
export function cString(value: OsPath): Uint8Array {
  const source = typeof value === "string" ? ENCODER.encode(value) : value;
  if (source.includes(0)) throw classified("invalid-argument", `pass ${describePath(value)}: NUL inside`);
  const bytes = new Uint8Array(source.length + 1);
  bytes.set(source);
  return bytes;
}

/** The slots system calls with one or two names share. Never held over an await or another call that sets them. */
export const nameA: CStringSlot = new CStringSlot();
export const nameB: CStringSlot = new CStringSlot();

/** A path for messages: bytes that are not UTF-8 show as U+FFFD. */
export function describePath(path: OsPath): string {
  return typeof path === "string" ? path : new TextDecoder().decode(path);
}
