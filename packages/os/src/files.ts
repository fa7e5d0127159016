import { basename, dirname } from "node:path";
import { classified } from "@stevedore/base/errors";
import { check, ERRNO, failed, resultOrErrno, retryInterrupted, SyscallError } from "./errno.ts";
import { AT, closeQuietly, O, OwnedFd, readInto, writeAll } from "./fd.ts";
import { cString, i32, i64, libc, nameA, nameB, type OsPath, pointer, u32 } from "./ffi.ts";

/** Whole files: durability, space, locks, renames that never replace. */

const lib = libc({
  open: { args: [pointer, i32, u32], returns: i32 },
  mkdir: { args: [pointer, u32], returns: i32 },
  chmod: { args: [pointer, u32], returns: i32 },
  chown: { args: [pointer, u32, u32], returns: i32 },
  fsync: { args: [i32], returns: i32 },
  fdatasync: { args: [i32], returns: i32 },
  syncfs: { args: [i32], returns: i32 },
  sync_file_range: { args: [i32, i64, i64, u32], returns: i32 },
  fallocate: { args: [i32, i32, i64, i64], returns: i32 },
  renameat2: { args: [i32, pointer, i32, pointer, u32], returns: i32 },
  flock: { args: [i32, i32], returns: i32 },
  statfs: { args: [pointer, pointer], returns: i32 },
});

function openPlain(path: OsPath, flags: number): number {
  return check(lib().open(nameA.set(path), flags | O.CLOEXEC, 0), "open", path);
}

/**
 * Opens a file of ours for appending, made with `mode` when it is not there, emptied with `truncate`. Close-on-exec; the caller
 * owns it.
 */
export function openForAppending(path: OsPath, mode: number, truncate = false): number {
  const flags = O.WRONLY | O.APPEND | O.CREAT | O.NOFOLLOW | O.CLOEXEC;
  return check(lib().open(nameA.set(path), truncate ? flags | O.TRUNC : flags, mode), "open", path);
}

/** Puts `from` in the place of `to`, which may be there. Durable only after {@link syncFolder}. */
export function renameOver(from: OsPath, to: OsPath): void {
  check(lib().renameat2(AT.FDCWD, nameA.set(from), AT.FDCWD, nameB.set(to), 0), "rename", from);
}

/** fsync(2): blocks until the file's data and metadata are on the device. Milliseconds; off the loop where that counts. */
export function syncFile(fd: number): void {
  check(lib().fsync(fd), "fsync", `descriptor ${fd}`);
}

/** fdatasync(2): as {@link syncFile} without what is not needed to read the data back. */
export function syncFileData(fd: number): void {
  check(lib().fdatasync(fd), "fdatasync", `descriptor ${fd}`);
}

/** Makes the names in a folder durable: what a rename or a create needs after the file itself was synced. */
export function syncFolder(path: OsPath): void {
  const fd = openPlain(path, O.RDONLY | O.DIRECTORY);
  try {
    check(lib().fsync(fd), "fsync", path);
  } finally {
    closeQuietly(fd);
  }
}

/** syncfs(2) on the file system that holds `path`: everything dirty there, whoever wrote it. Can take seconds. */
export function syncFileSystem(path: string): void {
  const fd = openPlain(path, O.RDONLY | O.NONBLOCK);
  try {
    check(lib().syncfs(fd), "syncfs", path);
  } finally {
    closeQuietly(fd);
  }
}

const SYNC_FILE_RANGE_WRITE = 2;

/** Starts writing a file's dirty pages to the device without waiting, so that a later fsync finds less to do. */
export function startWriteback(fd: number, offset = 0, length = 0): void {
  check(lib().sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE), "sync_file_range", `descriptor ${fd}`);
}

/**
 * Reserves space from `offset` on and grows the file to hold it. Returns false where the file system cannot.
 *
 * @throws resource-exhausted (ENOSPC) when there is no room: before the first byte is written.
 */
export function reserveSpace(fd: number, offset: number, length: number): boolean {
  const result = retryInterrupted(() => lib().fallocate(fd, 0, offset, length));
  if (result === -ERRNO.EOPNOTSUPP) return false;
  if (result < 0) throw new SyscallError({ syscall: "fallocate", errno: -result, target: `descriptor ${fd}` });
  return true;
}

const RENAME = { NOREPLACE: 1, EXCHANGE: 2 } as const;

/** Renames unless `to` exists. @throws already-exists when it does */
export function renameNoReplace(from: OsPath, to: OsPath): void {
  check(lib().renameat2(AT.FDCWD, nameA.set(from), AT.FDCWD, nameB.set(to), RENAME.NOREPLACE), "rename", from);
}

/** Swaps two names in one step. */
export function renameExchange(a: OsPath, b: OsPath): void {
  check(lib().renameat2(AT.FDCWD, nameA.set(a), AT.FDCWD, nameB.set(b), RENAME.EXCHANGE), "rename", a);
}

/**
 * Writes a file so that after a crash there is the old or the new one, never a part: a sibling is written and synced,
 * renamed over `path`, and the folder synced.
 */
export function writeFileDurably(path: string, bytes: Uint8Array, mode = 0o644): void {
  const temporary = `${dirname(path)}/.${basename(path)}.${process.pid}.tmp`;
  const flags = O.WRONLY | O.CREAT | O.TRUNC | O.NOFOLLOW | O.CLOEXEC;
  const fd = new OwnedFd(check(lib().open(cString(temporary), flags, mode), "open", temporary));
  try {
    writeAll(fd.fd, bytes);
    check(lib().fsync(fd.fd), "fsync", temporary);
  } finally {
    fd[Symbol.dispose]();
  }
  check(lib().renameat2(AT.FDCWD, nameA.set(temporary), AT.FDCWD, nameB.set(path), 0), "rename", path);
  syncFolder(dirname(path));
}

/** More than any file that {@link readSmallFile} is for. */
const SMALL_FILE_BYTES = 4096;

/**
 * A file of at most 4 KiB, read on the calling thread: for what another process has just written (a pid file), where going to a
 * thread and back takes longer than the read.
 *
 * @throws not-found when there is none; out-of-range for a larger one.
 */
export function readSmallFile(path: string): Uint8Array {
  using file = new OwnedFd(check(lib().open(cString(path), O.RDONLY | O.CLOEXEC, 0), "open", path));
  const buffer = new Uint8Array(SMALL_FILE_BYTES + 1);
  let size = 0;
  for (;;) {
    const count = readInto(file.fd, buffer.subarray(size));
    if (count < 0) throw new SyscallError({ syscall: "read", errno: -count, target: path });
    if (count === 0) return buffer.subarray(0, size);
    size += count;
    if (size > SMALL_FILE_BYTES) throw classified("out-of-range", `read ${path}: more than ${SMALL_FILE_BYTES} bytes`);
  }
}

/** Who owns a made folder and what its mode is, whatever the umask says. */
export interface FolderAttributes {
  readonly mode: number;
  readonly uid?: number;
  readonly gid?: number;
}

/**
 * Makes a folder with exactly this mode (and owner), and the missing ones above it with mode 0711 as the peer's, so that
 * users of a remapped container can pass. An existing folder keeps what it has. Returns whether it was made.
 */
export function makeFolder(path: string, attributes: FolderAttributes): boolean {
  const made = resultOrErrno(lib().mkdir(nameA.set(path), attributes.mode));
  if (made === -ERRNO.EEXIST) return false;
  if (made === -ERRNO.ENOENT && dirname(path) !== path) {
    makeFolder(dirname(path), { mode: 0o711 });
    return makeFolder(path, attributes);
  }
  if (made < 0) throw new SyscallError({ syscall: "mkdir", errno: -made, target: path });
  check(lib().chmod(nameA.set(path), attributes.mode), "chmod", path);
  const { uid, gid } = attributes;
  const KEEP = 0xffff_ffff; // (uid_t)-1
  if (uid !== undefined || gid !== undefined)
    check(lib().chown(nameA.set(path), uid ?? KEEP, gid ?? KEEP), "chown", path);
  return true;
}

const LOCK = { SHARED: 1, EXCLUSIVE: 2, NONBLOCK: 4 } as const;

/** A flock(2) on a file of its own, held until disposed or the process ends. */
export class FileLock implements Disposable {
  readonly #fd: OwnedFd;

  private constructor(fd: number) {
    this.#fd = new OwnedFd(fd);
  }

  /**
   * Takes the lock at once or not at all: undefined when another process (or another FileLock) holds it. The file is
   * created when missing and stays.
   */
  static take(path: string, options: { shared?: boolean } = {}): FileLock | undefined {
    const fd = check(lib().open(cString(path), O.RDWR | O.CREAT | O.CLOEXEC, 0o600), "open", path);
    const kind = options.shared === true ? LOCK.SHARED : LOCK.EXCLUSIVE;
    const result = resultOrErrno(lib().flock(fd, kind | LOCK.NONBLOCK));
    if (result >= 0) return new FileLock(fd);
    closeQuietly(fd);
    if (result === -ERRNO.EAGAIN) return undefined;
    throw new SyscallError({ syscall: "flock", errno: -result, target: path });
  }

  [Symbol.dispose](): void {
    this.#fd[Symbol.dispose]();
  }
}

/** What statfs(2) says about the file system that holds a path. */
export interface FileSystemInfo {
  /** Magic number of its type; see {@link FS_MAGIC}. */
  readonly type: number;
  readonly blockSize: number;
  /** Bytes. */
  readonly total: number;
  readonly free: number;
  /** Free to processes without privilege. */
  readonly available: number;
  readonly inodes: number;
  readonly freeInodes: number;
}

/** From include/uapi/linux/magic.h. */
export const FS_MAGIC = {
  BTRFS: 0x9123_683e,
  CGROUP: 0x27_e0eb,
  CGROUP2: 0x6367_7270,
  EXT4: 0xef53,
  NFS: 0x6969,
  NSFS: 0x6e73_6673,
  OVERLAY: 0x794c_7630,
  PROC: 0x9fa0,
  TMPFS: 0x0102_1994,
  XFS: 0x5846_5342,
  ZFS: 0x2fc1_2fc1,
} as const;

const statfsView = new DataView(new ArrayBuffer(256));
const statfsBytes = new Uint8Array(statfsView.buffer);

/** statfs(2). Does not block on local file systems. @throws not-found */
export function fileSystemInfo(path: OsPath): FileSystemInfo {
  if (lib().statfs(nameA.set(path), statfsBytes) < 0) throw failed("statfs", path);
  const word = (at: number): number => Number(statfsView.getBigUint64(at, true));
  const blockSize = word(8);
  return {
    type: Number(statfsView.getBigUint64(0, true) & 0xffff_ffffn),
    blockSize,
    total: word(16) * blockSize,
    free: word(24) * blockSize,
    available: word(32) * blockSize,
    inodes: word(40),
    freeInodes: word(48),
  };
}
