import {
  chmodEntry,
  chmodOpen,
  chownEntry,
  chownOpen,
  cloneFile,
  copyRange,
  getXattrEntryAt,
  getXattrOpen,
  listXattrsOpen,
  makeFolder,
  makeLink,
  makeNode,
  makeSymlink,
  openEntry,
  openFolder,
  readLinkEntry,
  SEEK,
  seek,
  setXattrEntryAt,
  setXattrOpen,
  truncateOpen,
  utimesEntry,
  utimesOpen,
} from "./at-calls.ts";
import { ERRNO, SyscallError } from "./errno.ts";
import { AT, closeQuietly, O, readInto, writeFrom } from "./fd.ts";
import { describePath, type OsPath } from "./ffi.ts";
import { listDirectory, openAt2 } from "./path.ts";
import { type FileStat, fileIdentity, S, statAt, statFd } from "./stat.ts";

export interface CopyTreeResult {
  readonly entries: number;
  /** Bytes of regular files, holes left out. */
  readonly bytes: number;
}

/** Folders deeper than this are an attack or an accident. */
const MAX_DEPTH = 4_096;

/** The most one copy_file_range call takes: 1 GiB, below its own limit of 2 GiB. */
const RANGE = 1 << 30;

interface Copy {
  /** First copied name of each inode with several: descriptors do not last, so the path below the target. */
  readonly linked: Map<string, string>;
  readonly targetRoot: number;
  entries: number;
  bytes: number;
}

/**
 * Copies the tree at `from` into the existing, empty folder `to`, the folder's own attributes included: owners, modes,
 * times, extended attributes, hard links (inside the tree), devices, FIFOs, holes. Blocks are shared where the file
 * system can (reflink), else copied by the kernel. Sockets are left out, as are attributes the target refuses. What is in
 * `from` must not change meanwhile. Symlinks are copied, never followed. Blocks for as long as it takes: off the loop
 * through `@stevedore/os/blocking`.
 */
export function copyTree(from: string, to: string): CopyTreeResult {
  const source = openAt2(AT.FDCWD, from, { flags: O.RDONLY | O.DIRECTORY, resolve: 0 });
  let target = -1;
  try {
    target = openAt2(AT.FDCWD, to, { flags: O.RDONLY | O.DIRECTORY, resolve: 0 });
    const copy: Copy = { linked: new Map(), targetRoot: target, entries: 0, bytes: 0 };
    copyFolder(copy, source, target, { path: "", depth: 0 });
    return { entries: copy.entries, bytes: copy.bytes };
  } finally {
    closeQuietly(source);
    if (target >= 0) closeQuietly(target);
  }
}

function copyFolder(copy: Copy, source: number, target: number, at: { path: string; depth: number }): void {
  if (at.depth > MAX_DEPTH) throw new SyscallError({ syscall: "copy", errno: ERRNO.ENAMETOOLONG, target: at.path });
  for (const { name } of listDirectory(source)) copyEntry(copy, source, target, { ...at, name });
  const stat = statFd(source);
  attributes(target, source, stat, at.path);
  must(utimesOpen(target, stat.atime, stat.mtime), "utimes", at.path);
}

interface Place {
  readonly path: string;
  readonly depth: number;
  readonly name: OsPath;
}

function copyEntry(copy: Copy, source: number, target: number, place: Place): void {
  const { name } = place;
  const stat = statAt(source, name);
  const kind = stat.mode & S.IFMT;
  // A name that is not UTF-8 cannot be part of a remembered path; such a file is copied once per name.
  const path = typeof name === "string" ? (place.path === "" ? name : `${place.path}/${name}`) : "";
  const shown = path === "" ? describePath(name) : path;
  copy.entries++;
  if (kind !== S.IFDIR && stat.nlink > 1 && path !== "") {
    const identity = fileIdentity(stat);
    const first = copy.linked.get(identity);
    if (first !== undefined) {
      must(makeLink(copy.targetRoot, first, target, name), "link", shown);
      return;
    }
    copy.linked.set(identity, path);
  }
  switch (kind) {
    case S.IFDIR: {
      must(makeFolder(target, name, 0o700), "mkdir", shown);
      const from = must(openFolder(source, name, O.RDONLY), "open", shown);
      const to = openFolder(target, name, O.RDONLY);
      try {
        copyFolder(copy, from, must(to, "open", shown), { path: path === "" ? shown : path, depth: place.depth + 1 });
      } finally {
        closeQuietly(from);
        if (to >= 0) closeQuietly(to);
      }
      return;
    }
    case S.IFREG: {
      const from = must(openEntry(source, name, O.RDONLY), "open", shown);
      const to = openEntry(target, name, O.WRONLY | O.CREAT | O.EXCL, 0o600);
      try {
        copy.bytes += copyData(from, must(to, "create", shown), stat.size, shown);
        attributes(to, from, stat, shown);
        must(utimesOpen(to, stat.atime, stat.mtime), "utimes", shown);
      } finally {
        closeQuietly(from);
        if (to >= 0) closeQuietly(to);
      }
      return;
    }
    case S.IFLNK: {
      const text = readLinkEntry(source, name);
      if (typeof text === "number") throw new SyscallError({ syscall: "readlink", errno: -text, target: shown });
      must(makeSymlink(target, name, text), "symlink", shown);
      break;
    }
    case S.IFCHR:
    case S.IFBLK:
    case S.IFIFO: {
      const device = { major: stat.rdevMajor, minor: stat.rdevMinor };
      must(makeNode(target, name, kind | 0o600, device), "mknod", shown);
      break;
    }
    default:
      copy.entries--;
      return; // a socket means nothing without the process that bound it
  }
  must(chownEntry(target, name, stat.uid, stat.gid), "chown", shown);
  for (const [key, value] of getXattrEntryAt(source, name)) setXattrEntryAt(target, name, key, value);
  if (kind !== S.IFLNK) setMode(target, name, stat.mode & 0o7777);
  must(utimesEntry(target, name, stat.atime, stat.mtime), "utimes", shown);
}

/** Before Linux 6.6 a device's mode cannot be set without following a link; the tree is nobody else's yet, so it may. */
function setMode(dir: number, name: OsPath, mode: number): void {
  if (chmodEntry(dir, name, mode) !== -ERRNO.ENOSYS) return;
  const fd = openEntry(dir, name, O.PATH);
  if (fd < 0) return;
  try {
    must(chmodOpen(fd, mode), "chmod", name);
  } catch {
    // O_PATH descriptors refuse fchmod on old kernels: the mode stays 0600, which grants less.
  } finally {
    closeQuietly(fd);
  }
}

/** Owner, attributes, mode: in that order, since chown clears set-id bits and capabilities. */
function attributes(target: number, source: number, stat: FileStat, shown: OsPath): void {
  must(chownOpen(target, stat.uid, stat.gid), "chown", shown);
  const names = listXattrsOpen(source);
  for (const name of typeof names === "number" ? [] : names) {
    const value = getXattrOpen(source, name);
    if (typeof value !== "number") setXattrOpen(target, name, value);
  }
  must(chmodOpen(target, stat.mode & 0o7777), "chmod", shown);
}

function copyData(from: number, to: number, size: number, shown: OsPath): number {
  if (size === 0) return 0;
  if (cloneFile(from, to) >= 0) return size;
  let bytes = 0;
  let byKernel = true;
  for (let at = 0; at < size; ) {
    const start = seek(from, at, SEEK.DATA);
    if (start === -ERRNO.ENXIO) break; // only a hole is left
    if (start < 0) throw new SyscallError({ syscall: "lseek", errno: -start, target: shown });
    const end = Math.min(must(seek(from, start, SEEK.HOLE), "lseek", shown), size);
    must(seek(from, start, SEEK.SET), "lseek", shown);
    must(seek(to, start, SEEK.SET), "lseek", shown);
    for (let left = end - start; left > 0; ) {
      let n = byKernel ? copyRange(from, to, Math.min(left, RANGE)) : -ERRNO.EXDEV;
      if (n < 0) {
        byKernel = false;
        n = copyByHand(from, to, left, shown);
      }
      if (n === 0) break;
      left -= n;
      bytes += n;
    }
    at = end;
  }
  must(truncateOpen(to, size), "truncate", shown);
  return bytes;
}

const buffer = new Uint8Array(1 << 18);

function copyByHand(from: number, to: number, most: number, shown: OsPath): number {
  const n = must(readInto(from, most < buffer.length ? buffer.subarray(0, most) : buffer), "read", shown);
  for (let at = 0; at < n; ) at += must(writeFrom(to, buffer.subarray(at, n)), "write", shown);
  return n;
}

function must(result: number, syscall: string, target: OsPath): number {
  if (result < 0) throw new SyscallError({ syscall, errno: -result, target });
  return result;
}
