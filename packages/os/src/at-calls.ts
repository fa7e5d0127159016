import { ERRNO, resultOrErrno, retryInterrupted } from "./errno.ts";
import { AT, O } from "./fd.ts";
import { cString, i32, i64, libc, nameA, nameB, type OsPath, pointer, rawSyscall, SYS, u32, u64 } from "./ffi.ts";
import { RESOLVE } from "./path.ts";
import { type FileTime, makeDevice } from "./stat.ts";

/**
 * The `*at` calls as they are, for loops that make some hundred thousand of them: a folder's descriptor, one name (a
 * single component wherever the tree is not trusted), no error objects. Every function returns 0 (or a count or a
 * descriptor) or minus the errno, unless it says otherwise; nothing here follows a symlink in the last component. All
 * of them block for as long as the file system takes: for worker processes and helpers, never for a loop.
 */

const lib = libc({
  mkdirat: { args: [i32, pointer, u32], returns: i32 },
  symlinkat: { args: [pointer, i32, pointer], returns: i32 },
  linkat: { args: [i32, pointer, i32, pointer, i32], returns: i32 },
  mknodat: { args: [i32, pointer, u32, u64], returns: i32 },
  unlinkat: { args: [i32, pointer, i32], returns: i32 },
  renameat2: { args: [i32, pointer, i32, pointer, u32], returns: i32 },
  openat: { args: [i32, pointer, i32, u32], returns: i32 },
  readlinkat: { args: [i32, pointer, pointer, u32], returns: i32 },
  fchownat: { args: [i32, pointer, u32, u32, i32], returns: i32 },
  fchown: { args: [i32, u32, u32], returns: i32 },
  fchmod: { args: [i32, u32], returns: i32 },
  fchmodat: { args: [i32, pointer, u32, i32], returns: i32 },
  utimensat: { args: [i32, pointer, pointer, i32], returns: i32 },
  futimens: { args: [i32, pointer], returns: i32 },
  pwrite: { args: [i32, pointer, i64, i64], returns: i32 },
  pread: { args: [i32, pointer, i64, i64], returns: i32 },
  ftruncate: { args: [i32, i64], returns: i32 },
  lseek: { args: [i32, i64, i32], returns: i64 },
  syncfs: { args: [i32], returns: i32 },
  fsync: { args: [i32], returns: i32 },
  fsetxattr: { args: [i32, pointer, pointer, u64, i32], returns: i32 },
  fgetxattr: { args: [i32, pointer, pointer, u64], returns: i32 },
  fremovexattr: { args: [i32, pointer], returns: i32 },
  flistxattr: { args: [i32, pointer, u64], returns: i32 },
  lsetxattr: { args: [pointer, pointer, pointer, u64, i32], returns: i32 },
  lgetxattr: { args: [pointer, pointer, pointer, u64], returns: i32 },
  llistxattr: { args: [pointer, pointer, u64], returns: i32 },
  fchdir: { args: [i32], returns: i32 },
  chdir: { args: [pointer], returns: i32 },
  umask: { args: [u32], returns: u32 },
  copy_file_range: { args: [i32, pointer, i32, pointer, u64, u32], returns: i64 },
  ioctl: { args: [i32, u64, i32], returns: i32 },
});

/** open(2) of one component: the last is never followed. The caller owns the descriptor. */
export function openEntry(dir: number, name: OsPath, flags: number, mode = 0): number {
  return resultOrErrno(lib().openat(dir, nameA.set(name), flags | O.NOFOLLOW | O.CLOEXEC, mode));
}

const how = new Uint32Array(6); // struct open_how: three u64, little-endian on everything Bun runs on

/**
 * A folder below `dir`, reached by no symlink, no `..` out of it and no magic link: EXDEV and ELOOP otherwise. The
 * caller owns the descriptor.
 */
export function openFolder(dir: number, name: OsPath, flags: number = O.PATH): number {
  how[0] = flags | O.DIRECTORY | O.NOFOLLOW | O.CLOEXEC;
  how[2] = 0;
  how[4] = RESOLVE.BENEATH | RESOLVE.NO_SYMLINKS | RESOLVE.NO_MAGICLINKS;
  return resultOrErrno(rawSyscall(SYS.openat2, dir, nameA.set(name), new Uint8Array(how.buffer), 24));
}

export function makeFolder(dir: number, name: OsPath, mode: number): number {
  return resultOrErrno(lib().mkdirat(dir, nameA.set(name), mode));
}

export function makeSymlink(dir: number, name: OsPath, text: OsPath): number {
  return resultOrErrno(lib().symlinkat(nameB.set(text), dir, nameA.set(name)));
}

/** A further name for an existing entry; a symlink is linked itself. */
export function makeLink(fromDir: number, fromName: OsPath, dir: number, name: OsPath): number {
  return resultOrErrno(lib().linkat(fromDir, nameB.set(fromName), dir, nameA.set(name), 0));
}

/** `mode` with its type bits. Works on a nodev mount: that forbids opening a device, not making one. */
export function makeNode(dir: number, name: OsPath, mode: number, device = { major: 0, minor: 0 }): number {
  return resultOrErrno(lib().mknodat(dir, nameA.set(name), mode, makeDevice(device.major, device.minor)));
}

export function unlinkEntry(dir: number, name: OsPath): number {
  return resultOrErrno(lib().unlinkat(dir, nameA.set(name), 0));
}

export function removeFolder(dir: number, name: OsPath): number {
  return resultOrErrno(lib().unlinkat(dir, nameA.set(name), AT.REMOVEDIR));
}

export function renameEntry(fromDir: number, fromName: OsPath, dir: number, name: OsPath): number {
  return resultOrErrno(lib().renameat2(fromDir, nameB.set(fromName), dir, nameA.set(name), 0));
}

const linkText = Buffer.alloc(4096);

/** A symlink's text, or minus the errno (EINVAL when it is no symlink). */
export function readLinkEntry(dir: number, name: OsPath): Uint8Array | number {
  const n = resultOrErrno(lib().readlinkat(dir, nameA.set(name), linkText, linkText.length));
  return n < 0 ? n : Uint8Array.prototype.slice.call(linkText, 0, n);
}

/** Owner and group of an entry itself. Clears set-id bits of files. */
export function chownEntry(dir: number, name: OsPath, uid: number, gid: number): number {
  return resultOrErrno(lib().fchownat(dir, nameA.set(name), uid, gid, AT.SYMLINK_NOFOLLOW));
}

export function chownOpen(fd: number, uid: number, gid: number): number {
  return resultOrErrno(lib().fchown(fd, uid, gid));
}

export function chmodOpen(fd: number, mode: number): number {
  return resultOrErrno(lib().fchmod(fd, mode));
}

/** fchmodat2(2), Linux 6.6: the one way to set the bits of a device or FIFO without opening or following it. ENOSYS before. */
export function chmodEntry(dir: number, name: OsPath, mode: number): number {
  const FCHMODAT2 = 452;
  return resultOrErrno(rawSyscall(FCHMODAT2, dir, nameA.set(name), mode, AT.SYMLINK_NOFOLLOW));
}

const times = new BigInt64Array(4);
const timeBytes = new Uint8Array(times.buffer);

function setTimes(atime: FileTime, mtime: FileTime): Uint8Array {
  times[0] = BigInt(atime.seconds);
  times[1] = BigInt(atime.nanoseconds);
  times[2] = BigInt(mtime.seconds);
  times[3] = BigInt(mtime.nanoseconds);
  return timeBytes;
}

export function utimesEntry(dir: number, name: OsPath, atime: FileTime, mtime: FileTime): number {
  return resultOrErrno(lib().utimensat(dir, nameA.set(name), setTimes(atime, mtime), AT.SYMLINK_NOFOLLOW));
}

export function utimesOpen(fd: number, atime: FileTime, mtime: FileTime): number {
  return resultOrErrno(lib().futimens(fd, setTimes(atime, mtime)));
}

/** pwrite(2). Returns the count, which may be short. */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): number {
  return retryInterrupted(() => lib().pwrite(fd, bytes, bytes.byteLength, offset));
}

/** pread(2). Returns the count, 0 at the end. */
export function readAt(fd: number, buffer: Uint8Array, offset: number): number {
  return retryInterrupted(() => lib().pread(fd, buffer, buffer.byteLength, offset));
}

/** Sets a file's length; what is beyond the old end is a hole. */
export function truncateOpen(fd: number, size: number): number {
  return resultOrErrno(lib().ftruncate(fd, size));
}

export const SEEK = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;

/** lseek(2). Returns the new offset. SEEK.DATA past the last data is ENXIO. */
export function seek(fd: number, offset: number, whence: number): number {
  const result = Number(lib().lseek(fd, offset, whence));
  return result < 0 ? resultOrErrno(-1) : result;
}

/** syncfs(2): the file system that holds `fd` is on its device, metadata included. Reports write errors since the last one. */
export function syncFileSystem(fd: number): number {
  return resultOrErrno(lib().syncfs(fd));
}

export function syncOpen(fd: number): number {
  return resultOrErrno(lib().fsync(fd));
}

export function setXattrOpen(fd: number, name: OsPath, value: Uint8Array): number {
  return resultOrErrno(lib().fsetxattr(fd, cString(name), value, value.byteLength, 0));
}

export function removeXattrOpen(fd: number, name: OsPath): number {
  return resultOrErrno(lib().fremovexattr(fd, cString(name)));
}

/** XATTR_SIZE_MAX and XATTR_LIST_MAX; from include/uapi/linux/limits.h. */
const XATTR_MAX = 65_536;
const xattrBuffer = Buffer.alloc(XATTR_MAX);

/** The value, or minus the errno (ENODATA when there is none). */
export function getXattrOpen(fd: number, name: OsPath): Uint8Array | number {
  const n = resultOrErrno(lib().fgetxattr(fd, cString(name), xattrBuffer, XATTR_MAX));
  return n < 0 ? n : Uint8Array.prototype.slice.call(xattrBuffer, 0, n);
}

/** The names, or minus the errno. */
export function listXattrsOpen(fd: number): string[] | number {
  const n = resultOrErrno(lib().flistxattr(fd, xattrBuffer, XATTR_MAX));
  if (n < 0) return n;
  return n === 0 ? [] : xattrBuffer.toString("utf8", 0, n - 1).split("\0");
}

/**
 * Extended attributes of an entry that cannot be opened (symlinks, devices). There is no *at form before Linux 6.13, so
 * the process steps into the folder: only for single-purpose processes, whose working folder nobody else relies on.
 */
export function setXattrEntry(dir: number, name: OsPath, attribute: OsPath, value: Uint8Array): number {
  const moved = resultOrErrno(lib().fchdir(dir));
  if (moved < 0) return moved;
  return resultOrErrno(lib().lsetxattr(nameA.set(name), cString(attribute), value, value.byteLength, 0));
}

/** As {@link setXattrEntry}, reading. */
export function getXattrEntry(dir: number, name: OsPath, attribute: OsPath): Uint8Array | number {
  const moved = resultOrErrno(lib().fchdir(dir));
  if (moved < 0) return moved;
  const n = resultOrErrno(lib().lgetxattr(nameA.set(name), cString(attribute), xattrBuffer, XATTR_MAX));
  return n < 0 ? n : Uint8Array.prototype.slice.call(xattrBuffer, 0, n);
}

/** As {@link setXattrEntry}, listing. */
export function listXattrsEntry(dir: number, name: OsPath): string[] | number {
  const moved = resultOrErrno(lib().fchdir(dir));
  if (moved < 0) return moved;
  const n = resultOrErrno(lib().llistxattr(nameA.set(name), xattrBuffer, XATTR_MAX));
  if (n < 0) return n;
  return n === 0 ? [] : xattrBuffer.toString("utf8", 0, n - 1).split("\0");
}

function procName(dir: number, name: OsPath): OsPath {
  if (typeof name === "string") return `/proc/self/fd/${dir}/${name}`;
  return Buffer.concat([Buffer.from(`/proc/self/fd/${dir}/`), name]);
}

/**
 * All extended attributes of an entry itself, by way of /proc: for threads, whose working folder is the whole process's.
 * What cannot be read is left out.
 */
export function getXattrEntryAt(dir: number, name: OsPath): [name: string, value: Uint8Array][] {
  const path = procName(dir, name);
  const n = resultOrErrno(lib().llistxattr(nameA.set(path), xattrBuffer, XATTR_MAX));
  if (n <= 0) return [];
  const found: [string, Uint8Array][] = [];
  for (const key of xattrBuffer.toString("utf8", 0, n - 1).split("\0")) {
    const length = resultOrErrno(lib().lgetxattr(nameA.set(path), cString(key), xattrBuffer, XATTR_MAX));
    if (length >= 0) found.push([key, Uint8Array.prototype.slice.call(xattrBuffer, 0, length)]);
  }
  return found;
}

/** Sets an extended attribute of an entry itself, by way of /proc. */
export function setXattrEntryAt(dir: number, name: OsPath, attribute: OsPath, value: Uint8Array): number {
  const path = nameA.set(procName(dir, name));
  return resultOrErrno(lib().lsetxattr(path, cString(attribute), value, value.byteLength, 0));
}

/** copy_file_range(2) from both current offsets. Returns the count, 0 at the end of the source. */
export function copyRange(fromFd: number, toFd: number, length: number): number {
  const result = Number(lib().copy_file_range(fromFd, null, toFd, null, BigInt(length), 0));
  return result < 0 ? resultOrErrno(-1) : result;
}

/** ioctl FICLONE: `toFd` shares all blocks of `fromFd`. EOPNOTSUPP, EXDEV or EINVAL where the file system cannot. */
export function cloneFile(fromFd: number, toFd: number): number {
  const FICLONE = 0x40049409;
  return resultOrErrno(lib().ioctl(toFd, FICLONE, fromFd));
}

/** The file creation mask of the whole process. Returns the old one. Only for single-purpose processes. */
export function setUmask(mask: number): number {
  return lib().umask(mask);
}

const PIVOT_ROOT: Readonly<Record<string, number>> = { x64: 155, arm64: 41, riscv64: 41 };

/**
 * Makes the mount at `path` the root of this process's mount namespace and drops the old root from it. Only in a
 * namespace of one's own, where nothing is shared; every thread of the process moves along.
 */
export function pivotInto(path: OsPath): number {
  const number = PIVOT_ROOT[process.arch];
  if (number === undefined) return -ERRNO.ENOSYS;
  let result = resultOrErrno(lib().chdir(nameA.set(path)));
  if (result < 0) return result;
  // pivot_root(".", ".") puts the old root on top of the new one; see pivot_root(2), "pivot_root(".", ".")".
  result = resultOrErrno(rawSyscall(number, cString("."), cString(".")));
  if (result < 0) return result;
  const MNT_DETACH = 2;
  result = resultOrErrno(umountLibrary().umount2(cString("."), MNT_DETACH));
  if (result < 0) return result;
  return resultOrErrno(lib().chdir(nameA.set("/")));
}

const umountLibrary = libc({ umount2: { args: [pointer, i32], returns: i32 } });
