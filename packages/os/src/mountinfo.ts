import { readFileSync } from "node:fs";
import { classified } from "@stevedore/base/errors";

/** One line of /proc/<pid>/mountinfo, escapes undone. See proc_pid_mountinfo(5). */
export interface MountInfo {
  readonly id: number;
  readonly parent: number;
  readonly major: number;
  readonly minor: number;
  /** Folder of the file system that forms the root of this mount. */
  readonly root: string;
  /** Where it is mounted, as seen from the process's root. */
  readonly mountPoint: string;
  /** Per-mount options, in order. */
  readonly options: readonly string[];
  /** Optional fields: `shared:1`, `master:2` … */
  readonly optional: readonly string[];
  readonly type: string;
  readonly source: string;
  /** Per-superblock options, comma-separated as the kernel has them. */
  readonly superOptions: string;
}

/** The kernel writes space, tab, newline, backslash and # as three octal digits. */
function unescape(text: string): string {
  if (!text.includes("\\")) return text;
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/**
 * Parses the text of a mountinfo file. Names that are not UTF-8 keep U+FFFD.
 *
 * @throws data-loss on a line that is none.
 */
export function parseMountInfo(text: string): MountInfo[] {
  const mounts: MountInfo[] = [];
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const fields = line.split(" ");
    const dash = fields.indexOf("-", 6);
    const [id, parent, device = "", root, mountPoint, options] = fields;
    const [major, minor] = device.split(":");
    if (dash < 0 || root === undefined || mountPoint === undefined || options === undefined || minor === undefined) {
      throw classified("data-loss", `parse mountinfo: malformed line ${JSON.stringify(line)}`);
    }
    mounts.push({
      id: Number(id),
      parent: Number(parent),
      major: Number(major),
      minor: Number(minor),
      root: unescape(root),
      mountPoint: unescape(mountPoint),
      options: options.split(","),
      optional: fields.slice(6, dash),
      type: unescape(fields[dash + 1] ?? ""),
      source: unescape(fields[dash + 2] ?? ""),
      superOptions: unescape(fields[dash + 3] ?? ""),
    });
  }
  return mounts;
}

/** The mounts of a process (default this one), in mount order. Reads /proc; does not block for long. */
export function readMountInfo(pid: number | "self" = "self"): MountInfo[] {
  return parseMountInfo(readFileSync(`/proc/${pid}/mountinfo`, "utf8"));
}

/** Whether `path` is `root` or lies below it; both absolute and without `.`, `..` and double slashes. */
export function isAtOrBelow(root: string, path: string): boolean {
  return path === root || root === "/" || path.startsWith(`${root}/`);
}

/** The mounts at `path` and below it, in mount order. `path` is absolute and resolved. */
export function mountsAtOrBelow(path: string, mounts: readonly MountInfo[] = readMountInfo()): MountInfo[] {
  return mounts.filter((mount) => isAtOrBelow(path, mount.mountPoint));
}

/** The topmost mount exactly at `path`, or undefined when `path` is no mount point. */
export function mountAt(path: string, mounts: readonly MountInfo[] = readMountInfo()): MountInfo | undefined {
  return mounts.findLast((mount) => mount.mountPoint === path);
}

/** The mount that holds `path`: the longest mount point above it, the latest of equals. @throws not-found */
export function mountHolding(path: string, mounts: readonly MountInfo[] = readMountInfo()): MountInfo {
  let best: MountInfo | undefined;
  for (const mount of mounts) {
    if (!isAtOrBelow(mount.mountPoint, path)) continue;
    if (best === undefined || mount.mountPoint.length >= best.mountPoint.length) best = mount;
  }
  if (best === undefined) throw classified("not-found", `find mount of ${path}: no mount holds it`);
  return best;
}
