import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { getXattrEntryAt, readLinkEntry } from "./at-calls.ts";
import { AT, closeQuietly, O } from "./fd.ts";
import { describePath } from "./ffi.ts";
import { listDirectory, openAt2 } from "./path.ts";
import { fileIdentity, S, statAt } from "./stat.ts";

/** Only for tests: a tree as text, one line per entry, so that two trees can be compared by `toEqual`. */

export interface DescribeTreeOptions {
  /** Modification times of what is no folder, in whole seconds. Default true. */
  readonly times?: boolean;
  /** Modification times of folders. Default false: creating an entry changes them. */
  readonly folderTimes?: boolean;
  /** Attributes of the trusted namespace. Default false. */
  readonly trusted?: boolean;
}

/** Lines `path type mode owner size time links content attributes`, sorted; names of one inode are told as a group. */
export function describeTree(path: string, options: DescribeTreeOptions = {}): string[] {
  const { times = true, folderTimes = false, trusted = false } = options;
  const lines: string[] = [];
  const groups = new Map<string, string[]>();
  const walk = (fd: number, at: string): void => {
    for (const { name } of listDirectory(fd)) {
      const here = `${at}/${describePath(name)}`;
      const stat = statAt(fd, name);
      const kind = stat.mode & S.IFMT;
      const folder = kind === S.IFDIR;
      const parts = [here, stat.mode.toString(8), `${stat.uid}:${stat.gid}`];
      if (kind === S.IFREG) {
        const bytes = readFileSync(`/proc/self/fd/${fd}/${describePath(name)}`);
        parts.push(String(stat.size), createHash("sha1").update(bytes).digest("hex").slice(0, 10));
      }
      if (kind === S.IFLNK) parts.push(Buffer.from(readLinkEntry(fd, name) as Uint8Array).toString());
      if (kind === S.IFCHR || kind === S.IFBLK) parts.push(`${stat.rdevMajor}:${stat.rdevMinor}`);
      if (folder ? folderTimes : times) parts.push(`@${stat.mtime.seconds}`);
      for (const [key, value] of getXattrEntryAt(fd, name).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
        if (trusted || !key.startsWith("trusted.")) parts.push(`${key}=${Buffer.from(value).toString("hex")}`);
      }
      lines.push(parts.join(" "));
      if (!folder && stat.nlink > 1) {
        const group = groups.get(fileIdentity(stat)) ?? [];
        group.push(here);
        groups.set(fileIdentity(stat), group);
      }
      if (!folder) continue;
      const child = openAt2(fd, name, { flags: O.RDONLY | O.DIRECTORY | O.NOFOLLOW, resolve: 0 });
      try {
        walk(child, here);
      } finally {
        closeQuietly(child);
      }
    }
  };
  const top = openAt2(AT.FDCWD, path, { flags: O.RDONLY | O.DIRECTORY, resolve: 0 });
  try {
    walk(top, "");
  } finally {
    closeQuietly(top);
  }
  for (const group of groups.values()) if (group.length > 1) lines.push(`linked: ${group.toSorted().join(" ")}`);
  return lines.toSorted();
}
