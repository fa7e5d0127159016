/** Two folders compared file by file, for what a container could see of them. */
import { setImmediate } from "node:timers/promises";
import { ERRNO, isErrno, SyscallError } from "@stevedore/os";
import { getXattrEntryAt, openEntry, openFolder, readAt, readLinkEntry } from "@stevedore/os/at-calls";
import { closeQuietly, O } from "@stevedore/os/fd";
import { listDirectory, Root } from "@stevedore/os/path";
import { type FileStat, S, statAt, statFd } from "@stevedore/os/stat";

/** One difference: where, below the root, and what. */
export interface TreeDifference {
  readonly path: string;
  readonly what: string;
}

/** Bytes compared at a time. */
const PIECE = 1 << 18;
/** The loop is others' at least so often, milliseconds; the reading of one large file is not interrupted. */
const TURN_MS = 10;
const turns = { last: 0 };
/** Folders inside folders that are followed; deeper than any path can be opened by name. */
const MAX_DEPTH = 4096;
/** The overlay's own notes. */
const OVERLAY_XATTR = /^(?:trusted|user)\.overlay\./;

/**
 * Compares two trees: types, modes, owners, devices, links, extended attributes and the bytes of files; times of files too, but not of
 * folders, which the making of what is in them changes. Reaches no file by a path: each name is opened below its folder, and no symlink is followed.
 * Blocks for each file's reading, and lets others run between files.
 * @param expected absolute path of how it should be
 * @param found absolute path of how it is
 */
export async function* compareTrees(
  expected: string,
  found: string,
  signal: AbortSignal,
): AsyncGenerator<TreeDifference> {
  using stack = new DisposableStack();
  const a = opened(stack, openFolder(stack.use(Root.open(expected)).fd, ".", O.RDONLY), expected);
  const b = opened(stack, openFolder(stack.use(Root.open(found)).fd, ".", O.RDONLY), found);
  yield* attributes(statFd(a), statFd(b), "/");
  yield* folders({ a, b, path: "", depth: 0, signal });
}

interface Pair {
  readonly a: number;
  readonly b: number;
  readonly path: string;
  readonly depth: number;
  readonly signal: AbortSignal;
}

async function* folders({ a, b, path, depth, signal }: Pair): AsyncGenerator<TreeDifference> {
  if (depth > MAX_DEPTH) throw new SyscallError({ syscall: "compare folders", errno: ERRNO.ELOOP, target: path });
  const byText = (fd: number): ReadonlyMap<string, string | Uint8Array> =>
    new Map(listDirectory(fd).map(({ name }) => [Buffer.from(name).toString("latin1"), name]));
  const [left, right] = [byText(a), byText(b)];
  for (const [key, name] of right) {
    if (!left.has(key)) yield { path: below(path, name), what: "is there and should not be" };
  }
  for (const [key, name] of left) {
    signal.throwIfAborted();
    if (performance.now() - turns.last > TURN_MS) {
      await setImmediate();
      turns.last = performance.now();
    }
    const here = below(path, name);
    if (!right.has(key)) {
      yield { path: here, what: "is missing" };
      continue;
    }
    // An overlay lists whiteouts in folders that only one layer has, and says of each that it is not there.
    const [wanted, is] = [statOrNone(a, name), statOrNone(b, name)];
    if (wanted === undefined || is === undefined) {
      if (wanted !== is) yield { path: here, what: wanted === undefined ? "is there and should not be" : "is missing" };
      continue;
    }
    if ((wanted.mode & S.IFMT) !== (is.mode & S.IFMT)) {
      yield { path: here, what: `is ${kindOf(is)}, should be ${kindOf(wanted)}` };
      continue;
    }
    yield* attributes(wanted, is, here);
    yield* xattrs(getXattrEntryAt(a, name), getXattrEntryAt(b, name), here);
    const type = wanted.mode & S.IFMT;
    if (type === S.IFDIR) {
      using stack = new DisposableStack();
      const inA = opened(stack, openFolder(a, name, O.RDONLY), here);
      const inB = opened(stack, openFolder(b, name, O.RDONLY), here);
      yield* folders({ a: inA, b: inB, path: here, depth: depth + 1, signal });
    } else if (type === S.IFLNK) {
      const [to, goes] = [linkText(a, name), linkText(b, name)];
      if (to !== goes) yield { path: here, what: `points to ${goes}, should point to ${to}` };
    } else if (type === S.IFREG && wanted.size === is.size && !sameBytes({ a, b, name, path: here, size: is.size })) {
      yield { path: here, what: "has other bytes" };
    }
  }
}

function* attributes(wanted: FileStat, is: FileStat, path: string): Generator<TreeDifference> {
  const differs = (what: string, should: string | number, found: string | number): TreeDifference => ({
    path,
    what: `${what} is ${found}, should be ${should}`,
  });
  const mode = (stat: FileStat): string => (stat.mode & ~S.IFMT).toString(8).padStart(4, "0");
  if (mode(wanted) !== mode(is)) yield differs("mode", mode(wanted), mode(is));
  if (wanted.uid !== is.uid || wanted.gid !== is.gid) {
    yield differs("owner", `${wanted.uid}:${wanted.gid}`, `${is.uid}:${is.gid}`);
  }
  if (wanted.rdevMajor !== is.rdevMajor || wanted.rdevMinor !== is.rdevMinor) {
    yield differs("device", `${wanted.rdevMajor}:${wanted.rdevMinor}`, `${is.rdevMajor}:${is.rdevMinor}`);
  }
  if ((wanted.mode & S.IFMT) !== S.IFREG) return;
  if (wanted.size !== is.size) yield differs("size", wanted.size, is.size);
  if (wanted.mtime.seconds !== is.mtime.seconds || wanted.mtime.nanoseconds !== is.mtime.nanoseconds) {
    yield differs("time of change", timeText(wanted), timeText(is));
  }
}

function* xattrs(
  wanted: readonly (readonly [string, Uint8Array])[],
  is: readonly (readonly [string, Uint8Array])[],
  path: string,
): Generator<TreeDifference> {
  const kept = (all: typeof wanted): ReadonlyMap<string, string> =>
    new Map(
      all
        .filter(([name]) => !OVERLAY_XATTR.test(name))
        .map(([name, value]) => [name, Buffer.from(value).toString("hex")]),
    );
  const [should, found] = [kept(wanted), kept(is)];
  for (const name of new Set([...should.keys(), ...found.keys()])) {
    if (should.get(name) === found.get(name)) continue;
    const how = found.has(name) ? (should.has(name) ? "has another value" : "should not be there") : "is missing";
    yield { path, what: `extended attribute ${name} ${how}` };
  }
}

interface FilePair {
  readonly a: number;
  readonly b: number;
  readonly name: string | Uint8Array;
  readonly path: string;
  readonly size: number;
}

function sameBytes({ a, b, name, path, size }: FilePair): boolean {
  using stack = new DisposableStack();
  const left = opened(stack, openEntry(a, name, O.RDONLY), path);
  const right = opened(stack, openEntry(b, name, O.RDONLY), path);
  const [x, y] = [Buffer.allocUnsafe(PIECE), Buffer.allocUnsafe(PIECE)];
  for (let at = 0; at < size; ) {
    const [n, m] = [readAt(left, x, at), readAt(right, y, at)];
    if (n !== m || n <= 0 || !x.subarray(0, n).equals(y.subarray(0, m))) return false;
    at += n;
  }
  return true;
}

/** The descriptor that a call gave, closed with the stack. */
function opened(stack: DisposableStack, fd: number, path: string): number {
  if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: path });
  stack.defer(() => closeQuietly(fd));
  return fd;
}

function statOrNone(folder: number, name: string | Uint8Array): FileStat | undefined {
  try {
    return statAt(folder, name);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return undefined;
    throw error;
  }
}

function linkText(folder: number, name: string | Uint8Array): string {
  const text = readLinkEntry(folder, name);
  return typeof text === "number" ? "?" : Buffer.from(text).toString("utf8");
}

function below(path: string, name: string | Uint8Array): string {
  return `${path === "/" ? "" : path}/${Buffer.from(name).toString("utf8")}`;
}

const KINDS: ReadonlyMap<number, string> = new Map([
  [S.IFDIR, "a folder"],
  [S.IFREG, "a file"],
  [S.IFLNK, "a symlink"],
  [S.IFCHR, "a character device"],
  [S.IFBLK, "a block device"],
  [S.IFIFO, "a FIFO"],
  [S.IFSOCK, "a socket"],
]);

function kindOf({ mode }: FileStat): string {
  return KINDS.get(mode & S.IFMT) ?? "something else";
}

function timeText({ mtime }: FileStat): string {
  return `${mtime.seconds}.${String(mtime.nanoseconds).padStart(9, "0")}`;
}
