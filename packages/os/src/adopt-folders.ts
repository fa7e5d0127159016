import {
  chmodOpen,
  chownOpen,
  getXattrOpen,
  listXattrsOpen,
  openFolder,
  setXattrOpen,
  utimesOpen,
} from "./at-calls.ts";
import { ERRNO, SyscallError } from "./errno.ts";
import { AT, closeQuietly, O } from "./fd.ts";
import type { OsPath } from "./ffi.ts";
import { DT, listDirectory, openAt2, RESOLVE } from "./path.ts";
import { removeXattr, S, statFd } from "./stat.ts";

/** Folders deeper than this are an attack or an accident. */
const MAX_DEPTH = 4_096;

/**
 * Gives every folder below `upper` that carries the extended attribute `mark` the owner, mode, attributes and times of the
 * folder of the same path in the nearest of `lowers` that has one (something else in its place ends the search), and
 * removes the mark. Only entered when `upper` itself carries the mark. Symlinks are not followed. Blocks for as long as
 * it takes: off the loop through `@stevedore/os/blocking`.
 *
 * @returns the folders that carried the mark.
 */
export function adoptFolders(upper: string, lowers: readonly string[], mark: string): number {
  const root = openPlain(upper);
  const below: number[] = [];
  let adopted = 0;
  try {
    if (typeof getXattrOpen(root, mark) === "number") return 0;
    for (const lower of lowers) below.push(openPlain(lower));
    const walk = (fd: number, path: string, depth: number): void => {
      for (const { name, type } of listDirectory(fd)) {
        if (type !== DT.DIR && type !== DT.UNKNOWN) continue;
        const child = openFolder(fd, name, O.RDONLY);
        if (child === -ERRNO.ENOENT || child === -ERRNO.ENOTDIR || child === -ERRNO.ELOOP) continue;
        if (child < 0) throw new SyscallError({ syscall: "open", errno: -child, target: name });
        try {
          const text = typeof name === "string" ? name : new TextDecoder().decode(name);
          const at = path === "" ? text : `${path}/${text}`;
          if (depth < MAX_DEPTH) walk(child, at, depth + 1);
          if (typeof getXattrOpen(child, mark) === "number") continue;
          adopted++;
          if (typeof name === "string") inherit(child, at, below);
          removeXattr(`/proc/self/fd/${child}/.`, mark);
        } finally {
          closeQuietly(child);
        }
      }
    };
    walk(root, "", 0);
    removeXattr(upper, mark);
    return adopted;
  } finally {
    for (const fd of below) closeQuietly(fd);
    closeQuietly(root);
  }
}

function openPlain(path: string): number {
  return openAt2(AT.FDCWD, path, { flags: O.RDONLY | O.DIRECTORY, resolve: 0 });
}

function inherit(fd: number, path: OsPath, lowers: readonly number[]): void {
  for (const lower of lowers) {
    let source: number;
    try {
      const resolve = RESOLVE.BENEATH | RESOLVE.NO_SYMLINKS;
      source = openAt2(lower, path, { flags: O.RDONLY | O.NOFOLLOW | O.NONBLOCK | O.NOCTTY, resolve });
    } catch (error) {
      if (error instanceof SyscallError && error.errno === ERRNO.ENOENT) continue;
      return; // a link, a whiteout, a device: the folder is new
    }
    try {
      const stat = statFd(source);
      if ((stat.mode & S.IFMT) !== S.IFDIR) return;
      must(chownOpen(fd, stat.uid, stat.gid), "chown", path);
      const names = listXattrsOpen(source);
      for (const name of typeof names === "number" ? [] : names) {
        if (name.startsWith("trusted.")) continue;
        const value = getXattrOpen(source, name);
        if (typeof value !== "number") setXattrOpen(fd, name, value);
      }
      must(chmodOpen(fd, stat.mode & 0o7777), "chmod", path);
      must(utimesOpen(fd, stat.atime, stat.mtime), "utimes", path);
      return;
    } finally {
      closeQuietly(source);
    }
  }
}

function must(result: number, syscall: string, target: OsPath): void {
  if (result < 0) throw new SyscallError({ syscall, errno: -result, target });
}
