import { open, readFile } from "node:fs/promises";
import { classified, isErrorClass, withContext } from "@stevedore/base/errors";
import type { ApplyJob, ApplyResult } from "@stevedore/oci/layer-job";
import { LAYER_FD } from "@stevedore/oci/layer-job";
import { TarParser } from "@stevedore/oci/tar/parser";
import { openEntry, pivotInto, readAt, setUmask, syncFileSystem } from "@stevedore/os/at-calls";
import { ERRNO, SyscallError } from "@stevedore/os/errno";
import { AT, closeQuietly, O, readInto, setPipeSize } from "@stevedore/os/fd";
import { MS, mountAll, mountOne, mountRaw, splitLayers } from "@stevedore/os/mount";
import { Root } from "@stevedore/os/path";
import { type Child, spawnChild } from "@stevedore/os/spawn";
import { UserNamespaces } from "@stevedore/os/userns";
import { CHUNK, decompress, detectCompression } from "./decompress.ts";
import { Unpacker } from "./unpack.ts";

/** What the mounts of a job mean for unpacking. */
interface Target {
  readonly overlay: boolean;
  readonly userXattr: boolean;
  readonly lowers: readonly Root[];
}

const GUARD = ["nodev", "nosuid", "noexec"];

/** The value of `key=` among mount options. */
function optionValue(options: readonly string[], key: string): string | undefined {
  return options.findLast((option) => option.startsWith(`${key}=`))?.slice(key.length + 1);
}

/**
 * Mounts the target at the job's mount point. As containerd does: a single overlay with an upperdir is not mounted, its
 * upper folder is written directly, whiteouts in overlayfs's own form; anything else is mounted and written through.
 */
async function mountTarget(job: ApplyJob, userNamespace: boolean): Promise<Target> {
  const [only] = job.mounts;
  if (only === undefined) throw classified("invalid-argument", "apply layer: no mounts given: invalid argument");
  // Whiteout devices cannot be made in a user namespace; there the overlay is mounted and written through.
  if (job.mounts.length === 1 && only.type === "overlay" && !userNamespace) {
    const upper = optionValue(only.options, "upperdir");
    if (upper !== undefined) {
      const lower = optionValue(only.options, "lowerdir");
      const lowers = lower === undefined ? [] : splitLayers(lower).map((path) => Root.open(path));
      mountOne({ type: "bind", source: upper, options: ["bind", ...GUARD] }, job.mountPoint);
      return { overlay: true, userXattr: only.options.includes("userxattr"), lowers };
    }
  }
  using namespaces = await UserNamespaces.for(job.mounts);
  mountAll(job.mounts, job.mountPoint, { userNamespaces: namespaces.descriptors });
  // A remount sets all flags anew, so a read-only target has to be told to stay so.
  const readOnly = job.mounts.at(-1)?.options.includes("ro") ?? false;
  const flags = MS.REMOUNT | MS.BIND | MS.NODEV | MS.NOSUID | MS.NOEXEC | (readOnly ? MS.RDONLY : 0);
  mountRaw("", job.mountPoint, { flags });
  return { overlay: false, userXattr: false, lowers: [] };
}

/** The blob's bytes: by offset when it is a file, so that a shared descriptor's position does not matter. */
function* readBlob(job: ApplyJob, seen: (bytes: Uint8Array) => void): Generator<Uint8Array, void, void> {
  let offset = 0;
  let byOffset = true;
  for (;;) {
    const buffer = Buffer.allocUnsafe(CHUNK);
    let n = byOffset ? readAt(LAYER_FD, buffer, offset) : readInto(LAYER_FD, buffer);
    if (n === -ERRNO.ESPIPE) {
      byOffset = false;
      n = readInto(LAYER_FD, buffer);
    }
    if (n < 0) throw new SyscallError({ syscall: "read", errno: -n, target: `blob ${job.digest}` });
    if (n === 0) return;
    offset += n;
    const bytes = buffer.subarray(0, n);
    seen(bytes);
    yield bytes;
  }
}

type HashName = "sha256" | "sha384" | "sha512";

function hashNameOf(digest: string): HashName {
  const [name] = digest.split(":");
  if (name === "sha512" || name === "sha384") return name;
  return "sha256";
}

/** Whether ids are mapped here: then device nodes cannot be made. */
async function inUserNamespace(): Promise<boolean> {
  const map = await readFile("/proc/self/uid_map", "utf8");
  const fields = map.trim().split(/\s+/);
  return fields.join(" ") !== "0 0 4294967295";
}

/** Runs an apply job. The process must be in a mount namespace of its own. */
export async function runApply(job: ApplyJob): Promise<ApplyResult> {
  setUmask(0);
  const userNamespace = await inUserNamespace();
  await using gunzip = await startGunzip(job);
  const target = await mountTarget(job, userNamespace);
  const root = enterRoot(job.mountPoint);
  const unpacker = new Unpacker({
    root,
    overlay: target.overlay,
    userXattr: target.userXattr,
    lowers: target.lowers.map((lower) => lower.fd),
    skipDevices: userNamespace,
    markImplied: target.overlay && target.lowers.length === 0,
  });
  const parser = new TarParser(unpacker, { maxEntries: job.limits.maxEntries || Number.MAX_SAFE_INTEGER });
  try {
    const { diffId, size } = await feed(job, parser, gunzip);
    parser.end();
    unpacker.complete();
    if (job.syncFs) {
      const synced = syncFileSystem(root);
      if (synced < 0) throw new SyscallError({ syscall: "syncfs", errno: -synced });
    }
    return {
      kind: "applied",
      diffId,
      size,
      entries: parser.entries,
      implied: unpacker.implied,
      opaque: unpacker.opaque,
      warnings: unpacker.warnings,
    };
  } catch (error) {
    const name = parser.currentName;
    throw name === "" ? error : withContext(`entry ${JSON.stringify(name)}`, error);
  } finally {
    unpacker.close();
    closeQuietly(root);
    for (const lower of target.lowers) lower.close();
  }
}

/**
 * Makes the mounted target this process's root, so that not even a mistake here could reach outside. Where the kernel
 * refuses (the root is an initramfs), descriptors alone keep us inside.
 */
function enterRoot(mountPoint: string): number {
  const pivoted = pivotInto(mountPoint);
  if (pivoted < 0 && pivoted !== -ERRNO.EINVAL) {
    throw new SyscallError({ syscall: "pivot_root", errno: -pivoted, target: mountPoint });
  }
  const fd = openEntry(AT.FDCWD, pivoted < 0 ? mountPoint : "/", O.RDONLY | O.DIRECTORY);
  if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: mountPoint });
  return fd;
}

/** Larger than a pipe's default, so that neither side waits for the other often; what an unprivileged process may ask for. */
const PIPE_SIZE = 1 << 20;

/** What a shell and the dynamic loader end with for a program that cannot be run. */
const CANNOT_RUN: ReadonlySet<number> = new Set([126, 127]);

/** Another program at work on the blob. */
interface Gunzip extends AsyncDisposable {
  readonly child: Child;
  /** The first it has written; none when it has ended without. */
  readonly first: Uint8Array;
}

/**
 * The job's own gunzip, when the blob is a file that holds gzip. It has begun to write when this returns: the change of the root takes
 * the root of every process of this mount namespace, and a program that is still loading its libraries would not find them.
 */
async function startGunzip(job: ApplyJob): Promise<Gunzip | undefined> {
  if (job.gunzip.length === 0 || job.compression === "none") return undefined;
  const start = new Uint8Array(4);
  if (readAt(LAYER_FD, start, 0) < start.length || detectCompression(start) !== "gzip") return undefined;
  // The descriptor we were given shares its offset with others; this one does not.
  await using blob = await open(`/proc/self/fd/${LAYER_FD}`);
  let child: Child;
  try {
    child = spawnChild(job.gunzip, { stdin: { fd: blob.fd }, stdout: "pipe", stderr: "pipe" });
  } catch (error) {
    // Removed since the daemon looked for it.
    if (isErrorClass(error, "not-found") || isErrorClass(error, "permission-denied")) return undefined;
    throw error;
  }
  const out = child.stdout?.fd ?? -1;
  if (out >= 0) setPipeSize(out, PIPE_SIZE);
  const buffer = new Uint8Array(CHUNK);
  const n = readInto(out, buffer);
  if (n < 0) {
    await child[Symbol.asyncDispose]();
    throw new SyscallError({ syscall: "read", errno: -n, target: "gunzip" });
  }
  // Not a word of the layer: the program itself is broken, and our own gunzip is not.
  if (n === 0) {
    const { code, signal } = await child.exited;
    if (signal !== undefined || CANNOT_RUN.has(code)) {
      await child[Symbol.asyncDispose]();
      return undefined;
    }
  }
  return { child, first: buffer.subarray(0, n), [Symbol.asyncDispose]: async () => child[Symbol.asyncDispose]() };
}

/** What the program writes, then whether it was content. @throws data-loss in its own words */
async function readGunzip({ child, first }: Gunzip, output: (bytes: Uint8Array) => void): Promise<void> {
  const out = child.stdout?.fd ?? -1;
  const buffer = new Uint8Array(CHUNK);
  if (first.length > 0) output(first);
  while (first.length > 0) {
    const n = readInto(out, buffer);
    if (n < 0) throw new SyscallError({ syscall: "read", errno: -n, target: "gunzip" });
    if (n === 0) break;
    output(n === buffer.length ? buffer : buffer.subarray(0, n));
  }
  const { code } = await child.exited;
  if (code === 0) return;
  const said = new Uint8Array(1024);
  const n = child.stderr === undefined ? 0 : readInto(child.stderr.fd, said);
  const text = new TextDecoder().decode(said.subarray(0, Math.max(n, 0))).trim();
  throw classified("data-loss", `decompress layer (gzip): status ${code}${text === "" ? "" : `: ${text}`}`);
}

async function feed(
  job: ApplyJob,
  parser: TarParser,
  gunzip: Gunzip | undefined,
): Promise<{ diffId: string; size: number }> {
  const { limits } = job;
  const algorithm = hashNameOf(job.digest);
  const compressed = new Bun.CryptoHasher(algorithm);
  let read = 0;
  const input = readBlob(job, (bytes) => {
    compressed.update(bytes);
    read += bytes.length;
  });
  const first = input.next();
  const start = first.done === true ? new Uint8Array() : first.value;
  const kind = job.compression === "none" ? "none" : detectCompression(start);
  const chunks = (function* (): Generator<Uint8Array, void, void> {
    yield start;
    yield* input;
  })();
  // A plain layer is its own diff: one digest serves both.
  const plain = kind === "none" && algorithm === "sha256";
  const uncompressed = new Bun.CryptoHasher("sha256");
  let size = 0;
  const output = (bytes: Uint8Array): void => {
    size += bytes.length;
    if (limits.maxBytes > 0 && size > limits.maxBytes) throw tooLarge(job, `more than ${limits.maxBytes} bytes`);
    if (
      limits.maxRatio > 0 &&
      size > limits.ratioFloor &&
      size > (gunzip === undefined ? read : job.size) * limits.maxRatio
    ) {
      throw tooLarge(job, `more than ${limits.maxRatio} times its compressed size`);
    }
    if (!plain) uncompressed.update(bytes);
    parser.push(bytes);
  };
  if (kind === "none") for (const bytes of chunks) output(bytes);
  else if (gunzip !== undefined) await readGunzip(gunzip, output);
  else await decompress(kind, chunks, output);
  for (const _ of chunks); // what follows the compressed stream is part of the blob's digest
  const digest = `${algorithm}:${compressed.digest("hex")}`;
  if (job.size >= 0 && read !== job.size) {
    throw classified("data-loss", `read blob: ${read} bytes, expected ${job.size}`);
  }
  if (job.digest !== "" && digest !== job.digest) {
    throw classified("data-loss", `read blob: digest ${digest}, expected ${job.digest}`);
  }
  const diffId = plain ? digest : `sha256:${uncompressed.digest("hex")}`;
  return { diffId, size };
}

function tooLarge(job: ApplyJob, what: string): Error {
  return classified("resource-exhausted", `layer unpacks to ${what} (blob of ${job.size} bytes): resource exhausted`);
}
