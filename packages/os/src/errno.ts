import { ClassifiedError, type ErrorClass } from "@stevedore/base/errors";
import { describePath, errnoNow, type OsPath } from "./ffi.ts";

/**
 * errno as a typed error. Numbers are those of include/uapi/asm-generic/errno*.h, which x86-64, arm64 and riscv64
 * share; texts are the C library's in lower case, as Go programs (and so containerd's clients) print them.
 */
const TABLE = {
  EPERM: [1, "operation not permitted", "permission-denied"],
  ENOENT: [2, "no such file or directory", "not-found"],
  ESRCH: [3, "no such process", "not-found"],
  EINTR: [4, "interrupted system call", "unavailable"],
  EIO: [5, "input/output error", "data-loss"],
  ENXIO: [6, "no such device or address", "failed-precondition"],
  E2BIG: [7, "argument list too long", "out-of-range"],
  ENOEXEC: [8, "exec format error", "invalid-argument"],
  EBADF: [9, "bad file descriptor", "internal"],
  ECHILD: [10, "no child processes", "not-found"],
  EAGAIN: [11, "resource temporarily unavailable", "unavailable"],
  ENOMEM: [12, "cannot allocate memory", "resource-exhausted"],
  EACCES: [13, "permission denied", "permission-denied"],
  EFAULT: [14, "bad address", "internal"],
  ENOTBLK: [15, "block device required", "invalid-argument"],
  EBUSY: [16, "device or resource busy", "failed-precondition"],
  EEXIST: [17, "file exists", "already-exists"],
  EXDEV: [18, "invalid cross-device link", "failed-precondition"],
  ENODEV: [19, "no such device", "failed-precondition"],
  ENOTDIR: [20, "not a directory", "failed-precondition"],
  EISDIR: [21, "is a directory", "failed-precondition"],
  EINVAL: [22, "invalid argument", "invalid-argument"],
  ENFILE: [23, "too many open files in system", "resource-exhausted"],
  EMFILE: [24, "too many open files", "resource-exhausted"],
  ENOTTY: [25, "inappropriate ioctl for device", "invalid-argument"],
  ETXTBSY: [26, "text file busy", "failed-precondition"],
  EFBIG: [27, "file too large", "out-of-range"],
  ENOSPC: [28, "no space left on device", "resource-exhausted"],
  ESPIPE: [29, "illegal seek", "invalid-argument"],
  EROFS: [30, "read-only file system", "failed-precondition"],
  EMLINK: [31, "too many links", "resource-exhausted"],
  EPIPE: [32, "broken pipe", "unavailable"],
  EDOM: [33, "numerical argument out of domain", "out-of-range"],
  ERANGE: [34, "numerical result out of range", "out-of-range"],
  EDEADLK: [35, "resource deadlock avoided", "aborted"],
  ENAMETOOLONG: [36, "file name too long", "invalid-argument"],
  ENOLCK: [37, "no locks available", "resource-exhausted"],
  ENOSYS: [38, "function not implemented", "not-implemented"],
  ENOTEMPTY: [39, "directory not empty", "failed-precondition"],
  ELOOP: [40, "too many levels of symbolic links", "failed-precondition"],
  ENODATA: [61, "no data available", "not-found"],
  ETIME: [62, "timer expired", "deadline-exceeded"],
  EBADMSG: [74, "bad message", "data-loss"],
  EOVERFLOW: [75, "value too large for defined data type", "out-of-range"],
  EILSEQ: [84, "invalid or incomplete multibyte or wide character", "invalid-argument"],
  EUSERS: [87, "too many users", "resource-exhausted"],
  ENOTSOCK: [88, "socket operation on non-socket", "invalid-argument"],
  EMSGSIZE: [90, "message too long", "out-of-range"],
  ENOPROTOOPT: [92, "protocol not available", "not-implemented"],
  EPROTONOSUPPORT: [93, "protocol not supported", "not-implemented"],
  EOPNOTSUPP: [95, "operation not supported", "not-implemented"],
  EAFNOSUPPORT: [97, "address family not supported by protocol", "not-implemented"],
  EADDRINUSE: [98, "address already in use", "already-exists"],
  EADDRNOTAVAIL: [99, "cannot assign requested address", "failed-precondition"],
  ENETUNREACH: [101, "network is unreachable", "unavailable"],
  ECONNABORTED: [103, "software caused connection abort", "unavailable"],
  ECONNRESET: [104, "connection reset by peer", "unavailable"],
  ENOBUFS: [105, "no buffer space available", "resource-exhausted"],
  EISCONN: [106, "transport endpoint is already connected", "failed-precondition"],
  ENOTCONN: [107, "transport endpoint is not connected", "failed-precondition"],
  ETIMEDOUT: [110, "connection timed out", "deadline-exceeded"],
  ECONNREFUSED: [111, "connection refused", "unavailable"],
  EHOSTUNREACH: [113, "no route to host", "unavailable"],
  EALREADY: [114, "operation already in progress", "failed-precondition"],
  EINPROGRESS: [115, "operation now in progress", "unavailable"],
  ESTALE: [116, "stale file handle", "not-found"],
  EUCLEAN: [117, "structure needs cleaning", "data-loss"],
  EDQUOT: [122, "disk quota exceeded", "resource-exhausted"],
  ECANCELED: [125, "operation canceled", "canceled"],
  EOWNERDEAD: [130, "owner died", "aborted"],
} as const satisfies Record<string, readonly [number, string, ErrorClass]>;

/** The symbolic name of an errno this package knows. */
export type ErrnoName = keyof typeof TABLE;

/** errno numbers by name: `ERRNO.ENOENT`. */
export const ERRNO: { readonly [name in ErrnoName]: number } = Object.fromEntries(
  Object.entries(TABLE).map(([name, [number]]) => [name, number]),
) as Record<ErrnoName, number>;

const BY_NUMBER: ReadonlyMap<number, readonly [ErrnoName, string, ErrorClass]> = new Map(
  Object.entries(TABLE).map(([name, [number, text, errorClass]]) => [number, [name as ErrnoName, text, errorClass]]),
);

/** The text of an errno, as the C library has it, in lower case: `no such file or directory`. */
export function errnoText(errno: number): string {
  return BY_NUMBER.get(errno)?.[1] ?? `errno ${errno}`;
}

/** The name of an errno (`ENOENT`), or `errno 200` for one the table lacks. */
export function errnoName(errno: number): string {
  return BY_NUMBER.get(errno)?.[0] ?? `errno ${errno}`;
}

/** The error class an errno stands for when the caller knows nothing better. */
export function errnoClass(errno: number): ErrorClass {
  return BY_NUMBER.get(errno)?.[2] ?? "unknown";
}

export interface SyscallFailure {
  /** The call as a verb: `mount`, `openat2`. */
  readonly syscall: string;
  readonly errno: number;
  /** What it was done to, for the message. */
  readonly target?: OsPath;
  /** More for the message, after the target: `(type overlay)`. */
  readonly detail?: string;
  readonly cause?: unknown;
}

/**
 * A system call that failed. The message reads `mount /x: permission denied`; the class follows from errno by one
 * table. `code` carries the symbolic name, as Node's own errors do.
 */
export class SyscallError extends ClassifiedError {
  readonly errno: number;
  readonly code: string;
  readonly syscall: string;
  readonly target: string | undefined;

  constructor(failure: SyscallFailure) {
    const target = failure.target === undefined ? undefined : describePath(failure.target);
    const what = [failure.syscall, target, failure.detail].filter((part) => part !== undefined).join(" ");
    super(errnoClass(failure.errno), `${what}: ${errnoText(failure.errno)}`, { cause: failure.cause });
    this.errno = failure.errno;
    this.code = errnoName(failure.errno);
    this.syscall = failure.syscall;
    this.target = target;
  }
}

/** The {@link SyscallError} for the libc call that has just returned -1. Nothing may run in between. */
export function failed(syscall: string, target?: OsPath, detail?: string): SyscallError {
  const errno = errnoNow();
  return new SyscallError({
    syscall,
    errno,
    ...(target === undefined ? {} : { target }),
    ...(detail === undefined ? {} : { detail }),
  });
}

/** Passes a result through, or throws the {@link SyscallError} of a call that returned -1. */
export function check(result: number, syscall: string, target?: OsPath): number {
  if (result < 0) throw failed(syscall, target);
  return result;
}

/**
 * A result, or minus the errno: for callers to whom failing is an everyday answer (`ENOENT`, `EAGAIN`), so that no
 * error object is built.
 */
export function resultOrErrno(result: number): number {
  return result < 0 ? -errnoNow() : result;
}

/** How often a call is repeated when signals keep interrupting it. A bound, not an expectation. */
const EINTR_TRIES = 100;

/** Repeats a call that a signal interrupted. Returns the result, or minus the errno, as {@link resultOrErrno}. */
export function retryInterrupted(call: () => number): number {
  let result = resultOrErrno(call());
  for (let tries = 0; result === -ERRNO.EINTR && tries < EINTR_TRIES; tries++) result = resultOrErrno(call());
  return result;
}

/** Whether `error` carries this errno: a {@link SyscallError}, or an error of node:fs with the same `code`. */
export function isErrno(error: unknown, ...names: readonly ErrnoName[]): boolean {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return false;
  const { code } = error;
  return names.some((name) => name === code);
}

/** An error of node:fs or Bun as a {@link SyscallError}; anything else unchanged. */
export function fromNodeError(error: unknown): unknown {
  if (error instanceof SyscallError || !(error instanceof Error)) return error;
  const { code, syscall, path } = error as NodeJS.ErrnoException;
  const number = code === undefined ? undefined : (ERRNO as Readonly<Record<string, number>>)[code];
  if (number === undefined) return error;
  return new SyscallError({
    syscall: syscall ?? "system call",
    errno: number,
    cause: error,
    ...(path === undefined ? {} : { target: path }),
  });
}
