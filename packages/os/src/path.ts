import { realpathSync } from "node:fs";
import { basename, dirname } from "node:path";
import { classified } from "@stevedore/base/errors";
import { check, ERRNO, errnoText, failed, isErrno, resultOrErrno, SyscallError } from "./errno.ts";
import { AT, closeQuietly, O, OwnedFd, readInto } from "./fd.ts";
import { describePath, i32, i64, libc, nameA, nameB, type OsPath, pointer, rawSyscall, SYS, u32, u64 } from "./ffi.ts";
import { isAtOrBelow, readMountInfo } from "./mountinfo.ts";
import {
  type FileStat,
  type FileTime,
  getXattr,
  listXattrs,
  makeDevice,
  removeXattr,
  S,
  setXattr,
  statAt,
} from "./stat.ts";

/**
 * Paths inside a root that is not trusted: a container's rootfs, a layer being unpacked, a bundle about to be removed.
 * No string path ever crosses into such a tree. Every name is resolved by openat2(2) from the root's descriptor, and
 * what is done to a name is done relative to its parent's descriptor, never following the last component. Calls are
 * synchronous; each is one to three system calls of a few microseconds.
 */

/** Limits for openat2(2); from include/uapi/linux/openat2.h. */
export const RESOLVE = {
  /** Not across a mount point. */
  NO_XDEV: 1,
  NO_MAGICLINKS: 2,
  NO_SYMLINKS: 4,
  /** Nothing that would leave the folder: such a path fails with EXDEV. */
  BENEATH: 8,
  /** The folder is `/`: absolute symlinks and `..` stay inside it. */
  IN_ROOT: 16,
} as const;

const lib = libc({
  openat: { args: [i32, pointer, i32, u32], returns: i32 },
  mkdirat: { args: [i32, pointer, u32], returns: i32 },
  symlinkat: { args: [pointer, i32, pointer], returns: i32 },
  linkat: { args: [i32, pointer, i32, pointer, i32], returns: i32 },
  mknodat: { args: [i32, pointer, u32, u64], returns: i32 },
  unlinkat: { args: [i32, pointer, i32], returns: i32 },
  renameat2: { args: [i32, pointer, i32, pointer, u32], returns: i32 },
  readlinkat: { args: [i32, pointer, pointer, u32], returns: i32 },
  fchownat: { args: [i32, pointer, u32, u32, i32], returns: i32 },
  fchown: { args: [i32, u32, u32], returns: i32 },
  fchmod: { args: [i32, u32], returns: i32 },
  chmod: { args: [pointer, u32], returns: i32 },
  utimensat: { args: [i32, pointer, pointer, i32], returns: i32 },
  futimens: { args: [i32, pointer], returns: i32 },
  getdents64: { args: [i32, pointer, i64], returns: i32 },
});

const how = new Uint32Array(6); // struct open_how: three u64, little-endian on everything Bun runs on

/** openat2(2). Returns a descriptor (close-on-exec, the caller owns it) or minus the errno. */
function openHow(dir: number, path: OsPath, flags: number, mode: number, resolve: number): number {
  how[0] = flags | O.CLOEXEC;
  how[2] = mode;
  how[4] = resolve;
  for (let tries = 0; ; tries++) {
    const result = resultOrErrno(rawSyscall(SYS.openat2, dir, nameA.set(path), how as unknown as Uint8Array, 24));
    // EAGAIN: a rename or mount anywhere raced with a ".." of ours; openat2(2) says to try again.
    if (result !== -ERRNO.EAGAIN || tries >= RACE_TRIES) return result;
  }
}

/** A concurrent renamer can spoil several attempts in a row; beyond this somebody is attacking. */
const RACE_TRIES = 128;

/**
 * Opens `path` below descriptor `dir` under the limits of `resolve` ({@link RESOLVE}; magic links never). The caller
 * owns the descriptor.
 *
 * @throws the {@link SyscallError}; EXDEV and ELOOP mean that a limit was hit.
 */
export function openAt2(dir: number, path: OsPath, options: { flags: number; mode?: number; resolve: number }): number {
  const fd = openHow(dir, path, options.flags, options.mode ?? 0, options.resolve | RESOLVE.NO_MAGICLINKS);
  if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: path });
  return fd;
}

/** Opens `path` inside the folder `root`, which is trusted and may itself be reached by symlinks. */
export function openInRoot(root: string, path: OsPath, flags: number, mode = 0): number {
  const dir = check(lib().openat(AT.FDCWD, nameA.set(root), O.PATH | O.DIRECTORY | O.CLOEXEC, 0), "open", root);
  try {
    return openAt2(dir, path, { flags, mode, resolve: RESOLVE.IN_ROOT });
  } finally {
    closeQuietly(dir);
  }
}

/** What a folder entry is; from DT_ in dirent.h. */
export const DT = { UNKNOWN: 0, FIFO: 1, CHR: 2, DIR: 4, BLK: 6, REG: 8, LNK: 10, SOCK: 12 } as const;

export interface DirEntry {
  /** Text when the name is UTF-8, else its bytes. */
  readonly name: OsPath;
  /** {@link DT}; UNKNOWN on file systems that do not say. */
  readonly type: number;
}

/** One getdents64 buffer: some 300 to 1,000 entries a call. */
const DENTS_SIZE = 32_768;

/** The entries of an open folder from its current offset on, without `.` and `..`, in the file system's order. */
export function* readDirectory(fd: number): Generator<DirEntry, void, void> {
  const buffer = Buffer.allocUnsafe(DENTS_SIZE);
  for (;;) {
    const n = resultOrErrno(lib().getdents64(fd, buffer, DENTS_SIZE));
    // ENOENT: it was removed while we held it, and so is empty.
    if (n === 0 || n === -ERRNO.ENOENT) return;
    if (n < 0) throw new SyscallError({ syscall: "read folder", errno: -n, target: `descriptor ${fd}` });
    for (let at = 0; at < n; ) {
      const length = buffer.readUInt16LE(at + 16);
      const type = buffer[at + 18] ?? DT.UNKNOWN;
      const start = at + 19;
      const end = buffer.indexOf(0, start);
      at += length;
      if (buffer[start] === 0x2e && (end === start + 1 || (end === start + 2 && buffer[start + 1] === 0x2e))) continue;
      const text = buffer.toString("utf8", start, end);
      yield { name: text.includes("\ufffd") ? Uint8Array.prototype.slice.call(buffer, start, end) : text, type };
    }
  }
}

/** All of {@link readDirectory} at once. */
export function listDirectory(fd: number): DirEntry[] {
  return [...readDirectory(fd)];
}

/** A folder kept open as the root of an untrusted tree. Owns its descriptor. */
export class Root implements Disposable {
  readonly #fd: OwnedFd;
  /** Parents seen last, by path: archives name one folder many times in a row. Held as O_PATH, so never stale as files. */
  readonly #parents = new Map<string, number>();

  /** Takes over `fd`, a folder opened by O_PATH or for reading. */
  constructor(fd: number) {
    this.#fd = new OwnedFd(fd);
  }

  /** Opens the folder `path`, which is trusted: its own symlinks are followed. @throws not-found; failed-precondition if it is no folder */
  static open(path: OsPath): Root {
    const flags = O.PATH | O.DIRECTORY | O.CLOEXEC;
    return new Root(check(lib().openat(AT.FDCWD, nameA.set(path), flags, 0), "open", path));
  }

  /** The root's own descriptor; borrowed. */
  get fd(): number {
    return this.#fd.fd;
  }

  close(): void {
    this.#forgetParents();
    this.#fd.close();
  }

  [Symbol.dispose](): void {
    this.#forgetParents();
    this.#fd[Symbol.dispose]();
  }

  /**
   * Opens `path` inside the root. Symlinks are followed as if the root were `/`, the last one too unless O.NOFOLLOW.
   * With O.CREAT|O.EXCL a last symlink fails with EEXIST. The caller owns the descriptor.
   */
  open(path: OsPath, flags: number, mode = 0): number {
    const fd = openHow(this.fd, this.#inside(path), flags, mode, RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS);
    if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: path });
    return fd;
  }

  /** As {@link open}, but minus the errno instead of an error: for hot loops where failing is normal. */
  tryOpen(path: OsPath, flags: number, mode = 0): number {
    return openHow(this.fd, this.#inside(path), flags, mode, RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS);
  }

  /** A new root at folder `path` inside this one. The caller owns it. */
  subRoot(path: OsPath): Root {
    return new Root(this.open(path, O.PATH | O.DIRECTORY));
  }

  /** Creates a new file for writing; anything of that name fails with EEXIST. The caller owns the descriptor. */
  createFile(path: OsPath, mode = 0o600): number {
    return this.open(path, O.WRONLY | O.CREAT | O.EXCL | O.NOFOLLOW, mode);
  }

  /** Describes `path`; a last symlink itself, not what it points to. @throws not-found */
  stat(path: OsPath): FileStat {
    const { dir, name } = this.#split(path);
    return name.length === 0 ? statAt(dir, "") : statAt(dir, name);
  }

  /** As {@link stat}, or undefined when there is nothing of that name. */
  statIfAny(path: OsPath): FileStat | undefined {
    try {
      return this.stat(path);
    } catch (error) {
      if (isErrno(error, "ENOENT", "ENOTDIR")) return undefined;
      throw error;
    }
  }

  /**
   * A regular file's bytes, following symlinks inside the root.
   *
   * @throws out-of-range when it holds more than `maxBytes`; failed-precondition when it is no regular file.
   */
  read(path: OsPath, maxBytes: number): Uint8Array {
    // Non-blocking, so that a FIFO put in the file's place cannot hold us.
    const fd = this.open(path, O.RDONLY | O.NONBLOCK | O.NOCTTY);
    try {
      return readBounded(fd, maxBytes, path);
    } finally {
      closeQuietly(fd);
    }
  }

  /** A symlink's text as bytes. @throws invalid-argument when it is none */
  readLinkBytes(path: OsPath): Uint8Array {
    const { dir, name } = this.#split(path);
    const n = check(lib().readlinkat(dir, nameA.set(name), linkBuffer, linkBuffer.length), "readlink", path);
    return linkBuffer.slice(0, n);
  }

  /** A symlink's text. */
  readLink(path: OsPath): string {
    return new TextDecoder().decode(this.readLinkBytes(path));
  }

  /** Creates one folder. The mode is subject to the umask; follow with {@link chmod} where bits matter. @throws already-exists */
  mkdir(path: OsPath, mode = 0o755): void {
    const { dir, name } = this.#split(path);
    check(lib().mkdirat(dir, nameA.set(name), mode), "mkdir", path);
  }

  /**
   * Creates `path` and what is missing above it. Existing folders, also by symlinks inside the root, are used as they
   * are. Returns the paths it created, outermost first, for callers that set attributes on implied parents.
   */
  mkdirAll(path: string, mode = 0o755): string[] {
    const probe = this.tryOpen(path, O.PATH | O.DIRECTORY);
    if (probe >= 0) {
      closeQuietly(probe);
      return [];
    }
    const created: string[] = [];
    let so = "";
    for (const part of path.split("/")) {
      if (part === "" || part === ".") continue;
      so = so === "" ? part : `${so}/${part}`;
      const { dir, name } = this.#split(so);
      if (name.length === 0) continue;
      const result = resultOrErrno(lib().mkdirat(dir, nameA.set(name), mode));
      if (result >= 0) created.push(so);
      else if (result !== -ERRNO.EEXIST) throw new SyscallError({ syscall: "mkdir", errno: -result, target: so });
    }
    closeQuietly(this.open(path, O.PATH | O.DIRECTORY));
    return created;
  }

  /** Creates a symlink with text `target`, which is not looked at. @throws already-exists */
  symlink(target: OsPath, path: OsPath): void {
    const { dir, name } = this.#split(path);
    check(lib().symlinkat(nameB.set(target), dir, nameA.set(name)), "symlink", path);
  }

  /** Makes `path` another name of `existing`; a last symlink is linked itself, not what it points to. @throws already-exists */
  link(existing: OsPath, path: OsPath): void {
    const from = this.#split(existing);
    const oldDir = from.dir;
    const oldName = from.name;
    const { dir, name } = this.#split(path);
    check(lib().linkat(oldDir, nameB.set(oldName), dir, nameA.set(name), 0), "link", path);
  }

  /** Creates a device, FIFO, socket or empty file: `mode` with its type bits ({@link S}). @throws permission-denied without CAP_MKNOD */
  mknod(path: OsPath, mode: number, device: { major: number; minor: number } = { major: 0, minor: 0 }): void {
    const { dir, name } = this.#split(path);
    const number = makeDevice(device.major, device.minor);
    check(lib().mknodat(dir, nameA.set(name), mode, number), "mknod", path);
  }

  /** Removes a name that is no folder; one that is not there is reported as not-found. */
  unlink(path: OsPath): void {
    const { dir, name } = this.#split(path);
    check(lib().unlinkat(dir, nameA.set(name), 0), "unlink", path);
    this.#forgetParents(); // a symlink on the way to one of them may be what went
  }

  /** Removes an empty folder. */
  rmdir(path: OsPath): void {
    this.#forgetParents();
    const { dir, name } = this.#split(path);
    check(lib().unlinkat(dir, nameA.set(name), AT.REMOVEDIR), "rmdir", path);
  }

  /** Removes whatever `path` names with all below it, or nothing; see {@link removeTreeAt}. */
  removeAll(path: OsPath): void {
    const { dir, name } = this.#split(path);
    if (name.length === 0) throw classified("invalid-argument", `remove ${describePath(path)}: it is the root itself`);
    const result = resultOrErrno(lib().unlinkat(dir, nameA.set(name), 0));
    if (result === -ERRNO.EISDIR) removeTreeAt(dir, name);
    else if (result < 0 && result !== -ERRNO.ENOENT) {
      throw new SyscallError({ syscall: "unlink", errno: -result, target: path });
    }
    this.#forgetParents();
  }

  /** Renames inside the root. With `noReplace` an existing target is already-exists instead of being replaced. */
  rename(from: OsPath, to: OsPath, options: { noReplace?: boolean } = {}): void {
    const source = this.#split(from);
    const oldDir = source.dir;
    const oldName = source.name;
    const { dir, name } = this.#split(to);
    const RENAME_NOREPLACE = 1;
    const flags = options.noReplace === true ? RENAME_NOREPLACE : 0;
    check(lib().renameat2(oldDir, nameA.set(oldName), dir, nameB.set(name), flags), "rename", from);
    this.#forgetParents();
  }

  /** Sets owner and group of `path` itself. Clears set-id bits, so {@link chmod} comes after. */
  chown(path: OsPath, uid: number, gid: number): void {
    const { dir, name } = this.#split(path);
    const flags = AT.SYMLINK_NOFOLLOW | (name.length === 0 ? AT.EMPTY_PATH : 0);
    check(lib().fchownat(dir, nameA.set(name), uid, gid, flags), "chown", path);
  }

  /** Sets the permission bits of `path`; a last symlink is refused (ELOOP or EOPNOTSUPP), never followed. */
  chmod(path: OsPath, mode: number): void {
    const { dir, name } = this.#split(path);
    const fd = openHow(dir, name.length === 0 ? "." : name, O.PATH | O.NOFOLLOW, 0, RESOLVE.BENEATH | RESOLVE.NO_XDEV);
    if (fd < 0) throw new SyscallError({ syscall: "chmod", errno: -fd, target: path });
    try {
      check(lib().chmod(nameA.set(`/proc/self/fd/${fd}`), mode), "chmod", path);
    } finally {
      closeQuietly(fd);
    }
  }

  /** Sets access and modification time of `path` itself, symlinks included. */
  utimes(path: OsPath, atime: FileTime, mtime: FileTime): void {
    const { dir, name } = this.#split(path);
    const flags = AT.SYMLINK_NOFOLLOW | (name.length === 0 ? AT.EMPTY_PATH : 0);
    check(lib().utimensat(dir, nameA.set(name), timespecs(atime, mtime), flags), "utimes", path);
  }

  getXattr(path: OsPath, name: string): Uint8Array | undefined {
    return getXattr(this.#magic(path), name);
  }

  setXattr(path: OsPath, name: string, value: Uint8Array): void {
    setXattr(this.#magic(path), name, value);
  }

  removeXattr(path: OsPath, name: string): void {
    removeXattr(this.#magic(path), name);
  }

  listXattrs(path: OsPath): string[] {
    return listXattrs(this.#magic(path));
  }

  /** The entries of folder `path`. */
  list(path: OsPath): DirEntry[] {
    const fd = this.open(path, O.RDONLY | O.DIRECTORY);
    try {
      return listDirectory(fd);
    } finally {
      closeQuietly(fd);
    }
  }

  /** `/proc/self/fd/<parent>/<name>`: a name for calls that have no *at form; its last component is not followed by l-calls. */
  #magic(path: OsPath): OsPath {
    const { dir, name } = this.#split(path);
    if (name.length === 0) return `/proc/self/fd/${dir}/.`;
    if (typeof name === "string") return `/proc/self/fd/${dir}/${name}`;
    return Buffer.concat([Buffer.from(`/proc/self/fd/${dir}/`), name]);
  }

  /** openat2 refuses an empty path; the root itself is ".". */
  #inside(path: OsPath): OsPath {
    return path.length === 0 ? "." : path;
  }

  /** Parent descriptor (borrowed, valid until the next forget) and last component; no component means the root itself. */
  #split(path: OsPath): { dir: number; name: OsPath } {
    if (typeof path !== "string") return this.#splitBytes(path);
    let end = path.length;
    while (end > 0 && path.charCodeAt(end - 1) === 0x2f) end--;
    const slash = path.lastIndexOf("/", end - 1);
    const name = path.slice(slash + 1, end);
    if (name === "" || name === ".")
      return { dir: slash <= 0 ? this.fd : this.#parent(path.slice(0, slash)), name: "" };
    if (name === "..") throw classified("invalid-argument", `resolve ${JSON.stringify(path)}: ends in ".."`);
    return { dir: slash <= 0 ? this.fd : this.#parent(path.slice(0, slash)), name };
  }

  #splitBytes(path: Uint8Array): { dir: number; name: OsPath } {
    // Latin-1 text maps bytes one to one, so the same code finds the slashes; only the pieces go back to bytes.
    const text = Buffer.from(path).toString("latin1").replace(/\/+$/, "");
    const slash = text.lastIndexOf("/");
    const name = text.slice(slash + 1);
    if (name === "..") throw classified("invalid-argument", `resolve ${describePath(path)}: ends in ".."`);
    const parent = slash <= 0 ? this.fd : this.#parent(Buffer.from(text.slice(0, slash), "latin1"));
    return { dir: parent, name: name === "" || name === "." ? "" : Buffer.from(name, "latin1") };
  }

  #parent(path: OsPath): number {
    const key = typeof path === "string" ? path : `\0${Buffer.from(path).toString("latin1")}`;
    const known = this.#parents.get(key);
    if (known !== undefined) {
      this.#parents.delete(key); // back to the young end
      this.#parents.set(key, known);
      return known;
    }
    const fd = openHow(this.fd, path, O.PATH | O.DIRECTORY, 0, RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS);
    if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: path });
    if (this.#parents.size >= MAX_PARENTS) {
      // The one unused for longest goes: never one of the two the current call works with.
      for (const [oldKey, old] of this.#parents) {
        this.#parents.delete(oldKey);
        closeQuietly(old);
        break;
      }
    }
    this.#parents.set(key, fd);
    return fd;
  }

  #forgetParents(): void {
    for (const fd of this.#parents.values()) closeQuietly(fd);
    this.#parents.clear();
  }

  /**
   * Drops remembered parents. Needed when something else replaced a folder on the way by a symlink and the new meaning
   * of a path is wanted; forgetting is never needed for safety, since a remembered parent was resolved inside the root.
   */
  refresh(): void {
    this.#forgetParents();
  }
}

/** Remembered parent folders of a {@link Root}: deep enough for depth-first archives, far below any descriptor limit. */
const MAX_PARENTS = 32;

const linkBuffer = new Uint8Array(4096);

const times = new BigInt64Array(4);

function timespecs(atime: FileTime, mtime: FileTime): Uint8Array {
  times[0] = BigInt(atime.seconds);
  times[1] = BigInt(atime.nanoseconds);
  times[2] = BigInt(mtime.seconds);
  times[3] = BigInt(mtime.nanoseconds);
  return new Uint8Array(times.buffer);
}

/** Sets owner and group of an open file. */
export function chownFd(fd: number, uid: number, gid: number): void {
  check(lib().fchown(fd, uid, gid), "chown", `descriptor ${fd}`);
}

/** Sets the permission bits of an open file. */
export function chmodFd(fd: number, mode: number): void {
  check(lib().fchmod(fd, mode), "chmod", `descriptor ${fd}`);
}

/** Sets the times of an open file. */
export function utimesFd(fd: number, atime: FileTime, mtime: FileTime): void {
  check(lib().futimens(fd, timespecs(atime, mtime)), "utimes", `descriptor ${fd}`);
}

function readBounded(fd: number, maxBytes: number, path: OsPath): Uint8Array {
  const stat = statAt(fd, "");
  if ((stat.mode & S.IFMT) !== S.IFREG) {
    throw classified("failed-precondition", `read ${describePath(path)}: not a regular file`);
  }
  const parts: Uint8Array[] = [];
  let total = 0;
  for (;;) {
    const chunk = new Uint8Array(Math.min(Math.max(stat.size - total, 0) + 1, 1 << 20));
    const n = readInto(fd, chunk);
    if (n < 0) throw new SyscallError({ syscall: "read", errno: -n, target: path });
    if (n === 0) return Buffer.concat(parts);
    total += n;
    if (total > maxBytes) {
      throw classified("out-of-range", `read ${describePath(path)}: longer than ${maxBytes} bytes`);
    }
    parts.push(n === chunk.length ? chunk : chunk.subarray(0, n));
  }
}

export interface RemoveTreeOptions {
  /**
   * Folders inside the tree that have served as mount points (`rootfs`), relative to it. Their rmdir comes first and
   * has to succeed or find nothing: a busy or filled one means that something is, or was lately, mounted there.
   */
  readonly mountPoints?: readonly string[];
}

/**
 * Removes the folder `path` and all below it, as design.md "Deleting trees" has it: nothing may be mounted at or below
 * it by mountinfo; the mount points' rmdir succeeds; then entries go one by one, folders opened by openat2 without
 * crossing a mount and without following a symlink. A path that is missing is fine. Blocks for as long as it takes
 * (some 5 µs a file): through `@stevedore/os/blocking` off the loop.
 *
 * @throws failed-precondition when something is mounted there, nothing having been removed; the {@link SyscallError} of
 *   the first entry that cannot be removed.
 */
export function removeTree(path: string, options: RemoveTreeOptions = {}): void {
  let parentPath: string;
  try {
    parentPath = realpathSync(dirname(path));
  } catch (error) {
    if (isErrno(error, "ENOENT")) return;
    throw error;
  }
  const name = basename(path);
  if (name === "" || name === "." || name === "..") {
    throw classified("invalid-argument", `remove ${path}: not a folder's name`);
  }
  const resolved = parentPath === "/" ? `/${name}` : `${parentPath}/${name}`;
  refuseMounted(resolved);
  const flags = O.PATH | O.DIRECTORY | O.CLOEXEC;
  using parent = new OwnedFd(check(lib().openat(AT.FDCWD, nameA.set(parentPath), flags, 0), "open", parentPath));
  const points = options.mountPoints ?? [];
  if (points.length > 0) {
    const top = openHow(parent.fd, name, flags, 0, STRICT);
    if (top === -ERRNO.ENOENT) return;
    if (top < 0) throw new SyscallError({ syscall: "remove", errno: -top, target: resolved });
    using root = new Root(top);
    for (const point of points) removeMountPoint(root, point, resolved);
  }
  removeTreeAt(parent.fd, name, resolved);
}

function removeMountPoint(root: Root, point: string, tree: string): void {
  const { dir, name } = { dir: dirname(point), name: basename(point) };
  const folder = openHow(root.fd, dir, O.PATH | O.DIRECTORY, 0, STRICT);
  if (folder === -ERRNO.ENOENT) return;
  if (folder < 0) throw new SyscallError({ syscall: "remove", errno: -folder, target: `${tree}/${point}` });
  try {
    const result = resultOrErrno(lib().unlinkat(folder, nameA.set(name), AT.REMOVEDIR));
    if (result >= 0 || result === -ERRNO.ENOENT) return;
    throw classified("failed-precondition", `remove ${tree}: mount point ${point} is in use: ${errnoText(-result)}`, {
      cause: new SyscallError({ syscall: "rmdir", errno: -result, target: `${tree}/${point}` }),
    });
  } finally {
    closeQuietly(folder);
  }
}

function refuseMounted(path: string): void {
  for (const mount of readMountInfo()) {
    if (isAtOrBelow(path, mount.mountPoint)) {
      throw classified("failed-precondition", `remove ${path}: ${mount.mountPoint} is mounted`);
    }
  }
}

/** How a folder to be removed may be reached: right here, over no mount, by no symlink. */
const STRICT = RESOLVE.BENEATH | RESOLVE.NO_XDEV | RESOLVE.NO_SYMLINKS | RESOLVE.NO_MAGICLINKS;

/** Folders held open at once while descending; what lies deeper is moved up to the top and removed from there. */
const MAX_DEPTH = 64;

/**
 * Removes folder `name` of descriptor `parent` with all below it. Does not look at mountinfo: the kernel itself refuses
 * to cross into a mount (EXDEV) and to remove a mount point (EBUSY). Missing is fine; no folder is ENOTDIR.
 */
export function removeTreeAt(parent: number, name: OsPath, shown: string = describePath(name)): void {
  const top = openHow(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW, 0, STRICT);
  if (top === -ERRNO.ENOENT) return;
  if (top < 0) throw new SyscallError({ syscall: "remove", errno: -top, target: shown });
  try {
    emptyFolder(top, { top, depth: 0, moved: 0, shown });
  } finally {
    closeQuietly(top);
  }
  const result = resultOrErrno(lib().unlinkat(parent, nameA.set(name), AT.REMOVEDIR));
  if (result < 0 && result !== -ERRNO.ENOENT)
    throw new SyscallError({ syscall: "rmdir", errno: -result, target: shown });
}

interface Removal {
  readonly top: number;
  depth: number;
  moved: number;
  readonly shown: string;
}

function emptyFolder(fd: number, state: Removal): void {
  // Folders moved up by deep trees appear in the top one after it was read, so it is read until it stays empty.
  for (let rounds = 0; rounds <= state.moved + 1; rounds++) {
    const entries = listDirectory(fd);
    if (entries.length === 0) return;
    for (const { name, type } of entries) removeEntry(fd, name, type, state);
    if (fd !== state.top) return;
    rewind(fd);
  }
}

function removeEntry(fd: number, name: OsPath, type: number, state: Removal): void {
  const fail = (syscall: string, negative: number): SyscallError =>
    new SyscallError({ syscall, errno: -negative, target: `${state.shown}/…/${describePath(name)}` });
  if (type !== DT.DIR) {
    const result = resultOrErrno(lib().unlinkat(fd, nameA.set(name), 0));
    if (result >= 0 || result === -ERRNO.ENOENT) return;
    if (result !== -ERRNO.EISDIR) throw fail("unlink", result);
  }
  const empty = resultOrErrno(lib().unlinkat(fd, nameA.set(name), AT.REMOVEDIR));
  if (empty >= 0 || empty === -ERRNO.ENOENT) return;
  if (empty !== -ERRNO.ENOTEMPTY && empty !== -ERRNO.EEXIST) throw fail("rmdir", empty);
  if (state.depth >= MAX_DEPTH) {
    state.moved++;
    const up = `.removing-${state.moved}-${process.pid}`;
    const moved = resultOrErrno(lib().renameat2(fd, nameA.set(name), state.top, nameB.set(up), 1));
    if (moved < 0) throw fail("rename", moved);
    return;
  }
  const child = openHow(fd, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW, 0, STRICT);
  if (child === -ERRNO.ENOENT) return;
  if (child < 0) throw fail("open", child);
  state.depth++;
  try {
    emptyFolder(child, state);
  } finally {
    state.depth--;
    closeQuietly(child);
  }
  const result = resultOrErrno(lib().unlinkat(fd, nameA.set(name), AT.REMOVEDIR));
  if (result < 0 && result !== -ERRNO.ENOENT) throw fail("rmdir", result);
}

const seekLib = libc({ lseek: { args: [i32, i64, i32], returns: i64 } });

function rewind(fd: number): void {
  if (Number(seekLib().lseek(fd, 0, 0)) < 0) throw failed("lseek");
}
