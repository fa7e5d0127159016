import { check, failed } from "./errno.ts";
import { AT } from "./fd.ts";
import { cString, i32, libc, nameA, type OsPath, pointer, u32 } from "./ffi.ts";

/** File types inside a mode; from include/uapi/linux/stat.h. */
export const S = {
  IFMT: 0o170000,
  IFSOCK: 0o140000,
  IFLNK: 0o120000,
  IFREG: 0o100000,
  IFBLK: 0o060000,
  IFDIR: 0o040000,
  IFCHR: 0o020000,
  IFIFO: 0o010000,
  ISUID: 0o4000,
  ISGID: 0o2000,
  ISVTX: 0o1000,
} as const;

/** A moment as the kernel keeps it: seconds since 1970 (may be negative) and nanoseconds from 0 to 999,999,999. */
export interface FileTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** What statx(2) says about a file. */
export interface FileStat {
  /** Type and permission bits ({@link S}). */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  readonly ino: bigint;
  /** Bytes. */
  readonly size: number;
  /** 512-byte units allocated. */
  readonly blocks: number;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Of the device node itself. */
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  readonly atime: FileTime;
  readonly mtime: FileTime;
  readonly ctime: FileTime;
  /** Whether a mount sits exactly here. */
  readonly isMountRoot: boolean;
}

const lib = libc({ statx: { args: [i32, pointer, i32, u32, pointer], returns: i32 } });

/** The basic set; from include/uapi/linux/stat.h. */
const STATX_BASIC_STATS = 0x7ff;
const STATX_ATTR_MOUNT_ROOT = 0x2000;

const buffer = new ArrayBuffer(256);
const bytes = new Uint8Array(buffer);
const view = new DataView(buffer);

/**
 * statx(2) of `path` relative to folder `dir`; a final symlink is described, not followed, unless `follow`. An empty
 * path means the descriptor itself. Does not block beyond the file system's own lookup.
 */
export function statAt(dir: number, path: OsPath, options: { follow?: boolean } = {}): FileStat {
  const flags = (path.length === 0 ? AT.EMPTY_PATH : 0) | (options.follow === true ? 0 : AT.SYMLINK_NOFOLLOW);
  if (lib().statx(dir, nameA.set(path), flags, STATX_BASIC_STATS, bytes) < 0) throw failed("stat", path);
  return decode();
}

/** statx(2) of an open descriptor. */
export function statFd(fd: number): FileStat {
  check(lib().statx(fd, nameA.set(""), AT.EMPTY_PATH, STATX_BASIC_STATS, bytes), "stat", `descriptor ${fd}`);
  return decode();
}

/** statx(2) of a path as the process sees it, not following a final symlink. */
export function statPath(path: OsPath, options: { follow?: boolean } = {}): FileStat {
  return statAt(AT.FDCWD, path, options);
}

function time(at: number): FileTime {
  return { seconds: Number(view.getBigInt64(at, true)), nanoseconds: view.getUint32(at + 8, true) };
}

function decode(): FileStat {
  return {
    nlink: view.getUint32(16, true),
    uid: view.getUint32(20, true),
    gid: view.getUint32(24, true),
    mode: view.getUint16(28, true),
    ino: view.getBigUint64(32, true),
    size: Number(view.getBigUint64(40, true)),
    blocks: Number(view.getBigUint64(48, true)),
    atime: time(64),
    ctime: time(96),
    mtime: time(112),
    rdevMajor: view.getUint32(128, true),
    rdevMinor: view.getUint32(132, true),
    devMajor: view.getUint32(136, true),
    devMinor: view.getUint32(140, true),
    isMountRoot: (view.getUint32(8, true) & STATX_ATTR_MOUNT_ROOT) !== 0,
  };
}

export function isDirectory(stat: FileStat): boolean {
  return (stat.mode & S.IFMT) === S.IFDIR;
}

export function isRegular(stat: FileStat): boolean {
  return (stat.mode & S.IFMT) === S.IFREG;
}

export function isSymlink(stat: FileStat): boolean {
  return (stat.mode & S.IFMT) === S.IFLNK;
}

/** Which file this is, whatever it is called: equal for two names of one inode. */
export function fileIdentity(stat: FileStat): string {
  return `${stat.devMajor}:${stat.devMinor}:${stat.ino}`;
}

/** A device number as mknod(2) and glibc's dev_t want it. */
export function makeDevice(major: number, minor: number): bigint {
  const a = BigInt(major);
  const b = BigInt(minor);
  return ((a & 0xffff_f000n) << 32n) | ((a & 0xfffn) << 8n) | ((b & 0xffff_ff00n) << 12n) | (b & 0xffn);
}

const xattrLib = libc({
  lgetxattr: { args: [pointer, pointer, pointer, u32], returns: i32 },
  lsetxattr: { args: [pointer, pointer, pointer, u32, i32], returns: i32 },
  llistxattr: { args: [pointer, pointer, u32], returns: i32 },
  lremovexattr: { args: [pointer, pointer], returns: i32 },
});

/** XATTR_SIZE_MAX and XATTR_LIST_MAX; from include/uapi/linux/limits.h. */
const XATTR_MAX = 65_536;

const xattrBuffer = new Uint8Array(XATTR_MAX);

/** The value of an extended attribute of `path` (a final symlink is not followed), or undefined when it has none. */
export function getXattr(path: OsPath, name: string): Uint8Array | undefined {
  const n = xattrLib().lgetxattr(nameA.set(path), cString(name), xattrBuffer, XATTR_MAX);
  if (n >= 0) return xattrBuffer.slice(0, n);
  const error = failed("getxattr", path, name);
  if (error.code === "ENODATA" || error.code === "EOPNOTSUPP") return undefined;
  throw error;
}

/** Sets an extended attribute of `path` (a final symlink is not followed). */
export function setXattr(path: OsPath, name: string, value: Uint8Array): void {
  if (xattrLib().lsetxattr(nameA.set(path), cString(name), value, value.byteLength, 0) < 0) {
    throw failed("setxattr", path, name);
  }
}

/** Removes an extended attribute; one that is not there is fine. */
export function removeXattr(path: OsPath, name: string): void {
  if (xattrLib().lremovexattr(nameA.set(path), cString(name)) >= 0) return;
  const error = failed("removexattr", path, name);
  if (error.code !== "ENODATA") throw error;
}

/** The names of the extended attributes of `path`; empty where the file system has none. */
export function listXattrs(path: OsPath): string[] {
  const n = xattrLib().llistxattr(nameA.set(path), xattrBuffer, XATTR_MAX);
  if (n < 0) {
    const error = failed("listxattr", path);
    if (error.code === "EOPNOTSUPP") return [];
    throw error;
  }
  return n === 0 ? [] : new TextDecoder().decode(xattrBuffer.subarray(0, n - 1)).split("\0");
}
