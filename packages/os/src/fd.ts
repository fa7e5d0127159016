import { check, ERRNO, failed, resultOrErrno, retryInterrupted, SyscallError } from "./errno.ts";
import { i32, i64, libc, pointer } from "./ffi.ts";

/**
 * File descriptors as plain numbers, and the few calls every other part needs. Whoever opens one closes it; functions
 * here never close what they were given unless they say so. Everything is opened close-on-exec.
 */

const lib = libc({
  close: { args: [i32], returns: i32 },
  pipe2: { args: [pointer, i32], returns: i32 },
  fcntl: { args: [i32, i32, i32], returns: i32 },
  dup3: { args: [i32, i32, i32], returns: i32 },
  read: { args: [i32, pointer, i64], returns: i32 },
  write: { args: [i32, pointer, i64], returns: i32 },
  memfd_create: { args: [pointer, i32], returns: i32 },
  lseek: { args: [i32, i64, i32], returns: i64 },
  open: { args: [pointer, i32, i32], returns: i32 },
});

/** Flags of open(2); from include/uapi/asm-generic/fcntl.h (the values of x86-64 and riscv64). */
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DIRECTORY: process.arch === "arm64" ? 0o40000 : 0o200000,
  NOFOLLOW: process.arch === "arm64" ? 0o100000 : 0o400000,
  CLOEXEC: 0o2000000,
  PATH: 0o10000000,
} as const;

/** AT_ constants; from include/uapi/linux/fcntl.h. */
export const AT = {
  FDCWD: -100,
  SYMLINK_NOFOLLOW: 0x100,
  REMOVEDIR: 0x200,
  SYMLINK_FOLLOW: 0x400,
  EMPTY_PATH: 0x1000,
  RECURSIVE: 0x8000,
} as const;

const F = { DUPFD_CLOEXEC: 1030, GETFD: 1, SETFD: 2, GETFL: 3, SETFL: 4, SETPIPE_SZ: 1031 } as const;
const FD_CLOEXEC = 1;

/** Closes a descriptor. Errors of a deferred write (EIO, ENOSPC, EDQUOT) are thrown; the number is gone either way. */
export function closeFd(fd: number): void {
  // close(2) is not repeated on EINTR: on Linux the descriptor is closed by then.
  const result = resultOrErrno(lib().close(fd));
  if (result < 0 && result !== -ERRNO.EINTR) {
    throw new SyscallError({ syscall: "close", errno: -result, target: `descriptor ${fd}` });
  }
}

/** Closes what may already be closed, for undo paths. Never throws. */
export function closeQuietly(fd: number): void {
  lib().close(fd);
}

/** A descriptor with an owner: closed once, by `close` or at the end of a `using` block. */
export class OwnedFd implements Disposable {
  #fd: number;

  /** Takes `fd` over. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The number. After close or release it is -1, which every call refuses. */
  get fd(): number {
    return this.#fd;
  }

  /** Hands the descriptor to the caller, who closes it from now on. */
  release(): number {
    const fd = this.#fd;
    this.#fd = -1;
    return fd;
  }

  close(): void {
    const fd = this.release();
    if (fd >= 0) closeFd(fd);
  }

  [Symbol.dispose](): void {
    const fd = this.release();
    if (fd >= 0) closeQuietly(fd);
  }
}

const pair = new Int32Array(2);

/** A real pipe (Bun's own is a socketpair), both ends close-on-exec and blocking. The caller owns both. */
export function pipe(): { read: number; write: number } {
  check(lib().pipe2(pair, O.CLOEXEC), "pipe2");
  return { read: pair[0] ?? -1, write: pair[1] ?? -1 };
}

/** A copy of `fd` under the lowest free number from `lowest` on, close-on-exec. The caller owns the copy. */
export function duplicate(fd: number, lowest = 3): number {
  return check(lib().fcntl(fd, F.DUPFD_CLOEXEC, lowest), "duplicate", `descriptor ${fd}`);
}

/**
 * Makes `target` another name of what `fd` names, closing what `target` named before, in one step. Close-on-exec.
 */
export function duplicateOnto(fd: number, target: number): void {
  check(lib().dup3(fd, target, O.CLOEXEC), "dup3", `descriptor ${fd}`);
}

/** Whether reads and writes return EAGAIN instead of waiting. Set on the open file, so every copy of `fd` sees it. */
export function setNonBlocking(fd: number, on = true): void {
  const flags = check(lib().fcntl(fd, F.GETFL, 0), "fcntl", `descriptor ${fd}`);
  const wanted = on ? flags | O.NONBLOCK : flags & ~O.NONBLOCK;
  if (wanted !== flags) check(lib().fcntl(fd, F.SETFL, wanted), "fcntl", `descriptor ${fd}`);
}

/** The status and access flags of the open file ({@link O}). */
export function statusFlags(fd: number): number {
  return check(lib().fcntl(fd, F.GETFL, 0), "fcntl", `descriptor ${fd}`);
}

/** Whether the descriptor is closed at exec. */
export function setCloseOnExec(fd: number, on = true): void {
  check(lib().fcntl(fd, F.SETFD, on ? FD_CLOEXEC : 0), "fcntl", `descriptor ${fd}`);
}

/** Sets the size of a pipe's buffer and returns what the kernel made of it (rounded up to a power of two pages). */
export function setPipeSize(fd: number, bytes: number): number {
  return check(lib().fcntl(fd, F.SETPIPE_SZ, bytes), "fcntl", `descriptor ${fd}`);
}

/** Whether `fd` is open. */
export function isOpen(fd: number): boolean {
  return lib().fcntl(fd, F.GETFD, 0) >= 0;
}

/**
 * read(2) into `buffer`. Returns the count (0 at the end), or minus the errno. Blocks on a blocking descriptor that has
 * nothing yet.
 */
export function readInto(fd: number, buffer: Uint8Array): number {
  return retryInterrupted(() => lib().read(fd, buffer, buffer.byteLength));
}

/** write(2). Returns the count written, or minus the errno. Blocks on a blocking descriptor that is full. */
export function writeFrom(fd: number, bytes: Uint8Array): number {
  return retryInterrupted(() => lib().write(fd, bytes, bytes.byteLength));
}

/** Writes all of `bytes` to a blocking descriptor, or throws. Blocks until done: for files and short pipes only. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  let at = 0;
  while (at < bytes.byteLength) {
    const n = writeFrom(fd, at === 0 ? bytes : bytes.subarray(at));
    if (n < 0) throw new SyscallError({ syscall: "write", errno: -n, target: `descriptor ${fd}` });
    at += n;
  }
}

const NAME = new Uint8Array([0x6d, 0]);

/**
 * An anonymous file in memory holding `bytes`, offset at its start. The caller owns it. For handing known bytes to a
 * child whatever their length, without anybody feeding a pipe.
 */
export function memoryFile(bytes: Uint8Array): number {
  const MFD_CLOEXEC = 1;
  const fd = check(lib().memfd_create(NAME, MFD_CLOEXEC), "memfd_create");
  try {
    writeAll(fd, bytes);
    if (Number(lib().lseek(fd, 0, 0)) < 0) throw failed("lseek");
    return fd;
  } catch (error) {
    closeQuietly(fd);
    throw error;
  }
}

const DEV_NULL = new TextEncoder().encode("/dev/null\0");

/** An open /dev/null for reading and writing. The caller owns it. */
export function openNull(): number {
  return check(lib().open(DEV_NULL, O.RDWR | O.CLOEXEC, 0), "open", "/dev/null");
}
