import { classified } from "@stevedore/base/errors";
import { chmodEntry, chownEntry, openEntry, openFolder } from "./at-calls.ts";
import { SyscallError } from "./errno.ts";
import { AT, O, OwnedFd } from "./fd.ts";
import type { OsPath } from "./ffi.ts";
import { listDirectory } from "./path.ts";
import { isDirectory, isRegular, S, statAt } from "./stat.ts";

/** A run of ids of a user namespace: as the OCI specification's LinuxIDMapping. */
export interface IdRange {
  /** First id inside. */
  readonly containerID: number;
  /** What it is outside. */
  readonly hostID: number;
  /** How many. */
  readonly size: number;
}

/** A tree that is deeper than any image needs. */
const MAX_DEPTH = 2_048;

/** Set-uid and set-gid: a change of the owner takes them away. */
const SET_ID = 0o6000;

/**
 * Gives everything below `folder`, and itself, to the ids outside that its owners are inside. No symlink is followed. Blocks until done: it is for
 * command lines, which have nothing else to do.
 *
 * @throws invalid-argument for an owner that no range holds; what the system calls fail with.
 */
export function mapOwners(
  folder: string,
  maps: { readonly uid: readonly IdRange[]; readonly gid: readonly IdRange[] },
): void {
  const change = (dir: number, name: OsPath, shown: string): boolean => {
    const stat = statAt(dir, name);
    const [uid, gid] = [
      outside(maps.uid, stat.uid, { what: "uid", shown }),
      outside(maps.gid, stat.gid, { what: "gid", shown }),
    ];
    checked(chownEntry(dir, name, uid, gid), "chown", shown);
    if (isRegular(stat) && (stat.mode & SET_ID) !== 0)
      checked(chmodEntry(dir, name, stat.mode & ~S.IFMT), "chmod", shown);
    return isDirectory(stat);
  };
  const below = (dir: number, shown: string, depth: number): void => {
    if (depth > MAX_DEPTH)
      throw classified("invalid-argument", `change owners in ${folder}: deeper than ${MAX_DEPTH} folders`);
    for (const { name } of listDirectory(dir)) {
      const path = `${shown}/${String(name)}`;
      if (!change(dir, name, path)) continue;
      using child = new OwnedFd(checked(openFolder(dir, name, O.RDONLY), "open folder", path));
      below(child.fd, path, depth + 1);
    }
  };
  change(AT.FDCWD, folder, folder);
  using root = new OwnedFd(checked(openEntry(AT.FDCWD, folder, O.RDONLY | O.DIRECTORY), "open folder", folder));
  below(root.fd, folder, 0);
}

function outside(
  ranges: readonly IdRange[],
  id: number,
  of: { readonly what: string; readonly shown: string },
): number {
  for (const { containerID, hostID, size } of ranges) {
    if (id >= containerID && id < containerID + size) return hostID + id - containerID;
  }
  throw classified("invalid-argument", `change owner of ${of.shown}: no mapping holds its ${of.what} ${id}`);
}

function checked(result: number, syscall: string, target: string): number {
  if (result < 0) throw new SyscallError({ syscall, errno: -result, target });
  return result;
}
