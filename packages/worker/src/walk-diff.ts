import { classified } from "@stevedore/base/errors";
import type { TarTime } from "@stevedore/oci/tar/header";
import { decodeName, encodeName, nameBytes } from "@stevedore/oci/tar/names";
import { whiteoutName } from "@stevedore/oci/tar/whiteout";
import { encodeTarHeader, TAR_END, type TarEntryInit, tarPadding } from "@stevedore/oci/tar/writer";
import { getXattrEntry, listXattrsEntry, openEntry, openFolder, readAt, readLinkEntry } from "@stevedore/os/at-calls";
import { SyscallError } from "@stevedore/os/errno";
import { closeQuietly, O } from "@stevedore/os/fd";
import { DT, listDirectory } from "@stevedore/os/path";
import { type FileStat, fileIdentity, isDirectory, S, statAt } from "@stevedore/os/stat";

/**
 * The changes from one mounted tree to another, as an OCI layer: a double walk in name order, with containerd's rules for
 * what counts as changed (continuity's fs.Changes) and for what a changed entry looks like in the archive (pkg/archive's
 * ChangeWriter), so that the same trees give the same bytes and the same diff ID.
 */

export interface WalkDiffOptions {
  /** Folders opened for reading; borrowed. No lower: everything is added. */
  readonly lower: number | undefined;
  readonly upper: number;
  /** Later modification times are cut to this; seconds since 1970. */
  readonly sourceDateEpoch?: number;
}

/** Read and compared at once. */
const CHUNK = 1 << 18;

/** Folders deeper than this are an attack or an accident. */
const MAX_DEPTH = 4_096;

type Change = "add" | "modify" | "unmodified";

/** One name in one tree. */
interface Entry {
  readonly dir: number;
  readonly name: string;
  readonly stat: FileStat;
}

interface Place {
  /** Path of the folder from the root, "" for the root. */
  readonly path: string;
  readonly depth: number;
}

type Bytes = Generator<Uint8Array, void, void>;

export class WalkDiff {
  readonly #options: WalkDiffOptions;
  /** Folders that are in the archive already. */
  readonly #folders = new Set<string>();
  /** The name under which a linked inode is in the archive. */
  readonly #sources = new Map<string, string>();
  /** Names of linked inodes that did not change, in case another name of theirs did. */
  readonly #unchanged = new Map<string, string[]>();
  #entries = 0;
  #at = "";

  constructor(options: WalkDiffOptions) {
    this.#options = options;
  }

  get entries(): number {
    return this.#entries;
  }

  /** The path being looked at, for error messages. */
  get currentPath(): string {
    return this.#at;
  }

  /** The archive, in pieces that are the caller's to keep. */
  *archive(): Bytes {
    yield* this.#folder(this.#options.lower, this.#options.upper, { path: "", depth: 0 });
    yield TAR_END;
  }

  *#folder(lower: number | undefined, upper: number, place: Place): Bytes {
    if (place.depth > MAX_DEPTH) throw classified("out-of-range", `walk ${place.path}: folders nested too deeply`);
    const before = lower === undefined ? [] : names(lower);
    const after = names(upper);
    let i = 0;
    let j = 0;
    while (i < before.length || j < after.length) {
      const old = before[i];
      const now = after[j];
      const order = old === undefined ? 1 : now === undefined ? -1 : compareNames(old, now);
      if (order < 0 && old !== undefined) {
        i++;
        this.#at = join(place.path, old);
        yield* this.#whiteout(place, old);
      } else if (now !== undefined) {
        j++;
        if (order === 0) i++;
        this.#at = join(place.path, now);
        const to: Entry = { dir: upper, name: now, stat: statAt(upper, encodeName(now)) };
        const from: Entry | undefined =
          order === 0 && lower !== undefined
            ? { dir: lower, name: now, stat: statAt(lower, encodeName(now)) }
            : undefined;
        yield* this.#compare(from, to, place);
      }
    }
  }

  *#compare(from: Entry | undefined, to: Entry, place: Place): Bytes {
    const path = join(place.path, to.name);
    const folder = isDirectory(to.stat);
    if (from === undefined) yield* this.#change("add", to, place);
    else if (!sameFile(from, to)) yield* this.#change("modify", to, place);
    else if (!folder && to.stat.nlink > 1) yield* this.#change("unmodified", to, place);
    if (!folder) return;
    const child = open(to.dir, to.name);
    const old = from !== undefined && isDirectory(from.stat) ? open(from.dir, from.name) : undefined;
    try {
      yield* this.#folder(old, child, { path, depth: place.depth + 1 });
    } finally {
      closeQuietly(child);
      if (old !== undefined) closeQuietly(old);
    }
  }

  /** A deletion: an empty file of the first second of 1970, with no mode, as containerd writes it. */
  *#whiteout(place: Place, name: string): Bytes {
    const path = join(place.path, whiteoutName(name));
    yield* this.#parents(path);
    yield this.#header({ type: "file", name: path });
  }

  *#change(change: Change, entry: Entry, place: Place): Bytes {
    const { stat } = entry;
    const type = typeOf(stat);
    if (type === undefined) return; // a socket means nothing without the process that bound it
    const path = join(place.path, entry.name);
    let header: TarEntryInit = {
      type,
      name: path,
      mode: stat.mode & 0o7777,
      uid: stat.uid,
      gid: stat.gid,
      mtime: this.#mtime(stat),
      size: type === "file" ? stat.size : 0,
      ...(type === "symlink" ? { linkName: readLink(entry) } : {}),
      ...(type === "char" || type === "block" ? { devMajor: stat.rdevMajor, devMinor: stat.rdevMinor } : {}),
    };
    let more: readonly string[] = [];
    if (type !== "directory" && stat.nlink > 1) {
      const identity = fileIdentity(stat);
      const source = this.#sources.get(identity);
      if (source !== undefined) header = { ...header, type: "link", linkName: source, size: 0 };
      else if (change === "unmodified") {
        const others = this.#unchanged.get(identity) ?? [];
        others.push(path);
        this.#unchanged.set(identity, others);
        return;
      } else {
        this.#sources.set(identity, path);
        more = this.#unchanged.get(identity) ?? [];
        this.#unchanged.delete(identity);
      }
    }
    const xattrs = xattrsOf(entry);
    if (xattrs.size > 0) header = { ...header, xattrs };
    yield* this.#parents(path);
    if (type === "directory") {
      if (this.#folders.has(path)) return;
      this.#folders.add(path);
    }
    yield this.#header(header);
    if (header.type === "file" && stat.size > 0) yield* this.#content(entry);
    for (const extra of more) {
      yield* this.#parents(extra);
      yield this.#header({ ...header, type: "link", name: extra, linkName: path, size: 0 });
    }
  }

  *#content(entry: Entry): Bytes {
    const fd = openEntry(entry.dir, encodeName(entry.name), O.RDONLY | O.NONBLOCK);
    if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: this.#at });
    try {
      for (let at = 0; at < entry.stat.size; ) {
        const buffer = Buffer.allocUnsafe(Math.min(CHUNK, entry.stat.size - at));
        const n = readAt(fd, buffer, at);
        if (n < 0) throw new SyscallError({ syscall: "read", errno: -n, target: this.#at });
        if (n === 0) throw classified("aborted", `short write copying file ${this.#at}: it became shorter meanwhile`);
        at += n;
        yield buffer.subarray(0, n);
      }
    } finally {
      closeQuietly(fd);
    }
    yield tarPadding(entry.stat.size);
  }

  /** Folders above a changed path are in the archive too, outermost first. */
  *#parents(path: string): Bytes {
    const parts = path.split("/").slice(0, -1);
    for (let i = 1; i <= parts.length; i++) {
      const parent = parts.slice(0, i).join("/");
      if (this.#folders.has(parent)) continue;
      this.#folders.add(parent);
      const above = i === 1 ? this.#options.upper : open(this.#options.upper, parts.slice(0, i - 1).join("/"));
      try {
        const name = parts[i - 1] ?? "";
        const entry: Entry = { dir: above, name, stat: statAt(above, encodeName(name)) };
        const xattrs = xattrsOf(entry);
        yield this.#header({
          type: "directory",
          name: parent,
          mode: entry.stat.mode & 0o7777,
          uid: entry.stat.uid,
          gid: entry.stat.gid,
          mtime: this.#mtime(entry.stat),
          ...(xattrs.size > 0 ? { xattrs } : {}),
        });
      } finally {
        if (above !== this.#options.upper) closeQuietly(above);
      }
    }
  }

  #header(entry: TarEntryInit): Uint8Array {
    this.#entries++;
    return encodeTarHeader(entry);
  }

  /** Whole seconds, as the peer's layers have them. */
  #mtime(stat: FileStat): TarTime {
    const epoch = this.#options.sourceDateEpoch;
    const { seconds } = stat.mtime;
    return { seconds: epoch !== undefined && seconds >= epoch ? epoch : seconds, nanoseconds: 0 };
  }
}

function join(folder: string, name: string): string {
  return folder === "" ? name : `${folder}/${name}`;
}

function open(dir: number, name: string): number {
  const fd = openFolder(dir, encodeName(name), O.RDONLY);
  if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: name });
  return fd;
}

/** Names in byte order, as Go sorts them. */
function names(fd: number): string[] {
  const found: string[] = [];
  const again = open(fd, "."); // an offset of its own
  try {
    for (const { name, type } of listDirectory(again)) {
      if (type !== DT.SOCK) found.push(typeof name === "string" ? name : decodeName(name));
    }
  } finally {
    closeQuietly(again);
  }
  return found.sort(compareNames);
}

/** UTF-16 order and byte order agree below the surrogates. */
const HIGH = /[\ud800-\uffff]/;

function compareNames(a: string, b: string): number {
  if (a === b) return 0;
  if (HIGH.test(a) || HIGH.test(b)) return Buffer.compare(nameBytes(a), nameBytes(b));
  return a < b ? -1 : 1;
}

function typeOf(stat: FileStat): TarEntryInit["type"] | undefined {
  switch (stat.mode & S.IFMT) {
    case S.IFREG:
      return "file";
    case S.IFDIR:
      return "directory";
    case S.IFLNK:
      return "symlink";
    case S.IFCHR:
      return "char";
    case S.IFBLK:
      return "block";
    case S.IFIFO:
      return "fifo";
    default:
      return undefined;
  }
}

function readLink(entry: Entry): string {
  const text = readLinkEntry(entry.dir, encodeName(entry.name));
  if (typeof text === "number") throw new SyscallError({ syscall: "readlink", errno: -text, target: entry.name });
  return decodeName(text);
}

/**
 * Attributes that travel in a layer: file capabilities, as in containerd, and user.*, which containerd loses (see
 * docs/decisions/0053). overlayfs's own are not content.
 */
function travels(name: string): boolean {
  return name === "security.capability" || (name.startsWith("user.") && !name.startsWith("user.overlay."));
}

function xattrsOf(entry: Entry): Map<string, Uint8Array> {
  const found = new Map<string, Uint8Array>();
  const listed = listXattrsEntry(entry.dir, encodeName(entry.name));
  if (typeof listed === "number") return found;
  for (const name of listed) {
    if (!travels(name)) continue;
    const value = getXattrEntry(entry.dir, encodeName(entry.name), name);
    if (typeof value !== "number") found.set(name, value);
  }
  return found;
}

function sameXattrs(a: Entry, b: Entry): boolean {
  const left = xattrsOf(a);
  const right = xattrsOf(b);
  if (left.size !== right.size) return false;
  for (const [name, value] of left) {
    const other = right.get(name);
    if (other === undefined || Buffer.compare(value, other) !== 0) return false;
  }
  return true;
}

/** Whether an entry is unchanged. */
function sameFile(from: Entry, to: Entry): boolean {
  const a = from.stat;
  const b = to.stat;
  if (a.ino === b.ino && a.devMajor === b.devMajor && a.devMinor === b.devMinor) return true;
  if (a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid) return false;
  if (a.rdevMajor !== b.rdevMajor || a.rdevMinor !== b.rdevMinor) return false;
  if (!sameXattrs(from, to)) return false;
  if (isDirectory(b)) return true;
  if (a.size !== b.size || a.mtime.seconds !== b.mtime.seconds) return false;
  // Times that came out of an archive have whole seconds and say little; then the content decides.
  if (a.mtime.nanoseconds !== 0 || b.mtime.nanoseconds !== 0) return a.mtime.nanoseconds === b.mtime.nanoseconds;
  if ((b.mode & S.IFMT) === S.IFLNK) return readLink(from) === readLink(to);
  if ((b.mode & S.IFMT) !== S.IFREG || b.size === 0) return true;
  return sameContent(from, to);
}

const left = Buffer.allocUnsafe(CHUNK);
const right = Buffer.allocUnsafe(CHUNK);

function sameContent(from: Entry, to: Entry): boolean {
  const a = openEntry(from.dir, encodeName(from.name), O.RDONLY | O.NONBLOCK);
  if (a < 0) throw new SyscallError({ syscall: "open", errno: -a, target: from.name });
  const b = openEntry(to.dir, encodeName(to.name), O.RDONLY | O.NONBLOCK);
  try {
    if (b < 0) throw new SyscallError({ syscall: "open", errno: -b, target: to.name });
    for (let at = 0; at < to.stat.size; ) {
      const n = readAt(a, left, at);
      const m = readAt(b, right, at);
      if (n < 0 || m < 0) throw new SyscallError({ syscall: "read", errno: Math.max(-n, -m), target: to.name });
      if (n !== m || n === 0) return false;
      if (left.compare(right, 0, m, 0, n) !== 0) return false;
      at += n;
    }
    return true;
  } finally {
    closeQuietly(a);
    if (b >= 0) closeQuietly(b);
  }
}
