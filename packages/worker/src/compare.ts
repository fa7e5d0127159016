import { mkdir } from "node:fs/promises";
import { createGzip, createZstdCompress, type Gzip, type ZstdCompress } from "node:zlib";
import { classified, withContext } from "@stevedore/base/errors";
import { type CompareJob, type CompareResult, type JobMount, LAYER_FD } from "@stevedore/oci/layer-job";
import { openEntry, pivotInto } from "@stevedore/os/at-calls";
import { ERRNO, SyscallError } from "@stevedore/os/errno";
import { AT, closeQuietly, O, writeAll } from "@stevedore/os/fd";
import { mountAll, mountOne } from "@stevedore/os/mount";
import { UserNamespaces } from "@stevedore/os/userns";
import { CHUNK } from "./decompress.ts";
import { WalkDiff } from "./walk-diff.ts";

/**
 * The same view without the right to write: an overlay loses its upper folder to the layers below (so that no work folder
 * is needed, which another mount may hold), a bind becomes read-only.
 */
export function readOnly(mount: JobMount): JobMount {
  if (mount.type !== "overlay") {
    const options = mount.options.filter((option) => option !== "rw" && option !== "ro");
    return { ...mount, options: [...options, "ro"] };
  }
  const upper = mount.options.find((option) => option.startsWith("upperdir="));
  if (upper === undefined) return mount;
  const folder = upper.slice("upperdir=".length);
  const lower = mount.options.find((option) => option.startsWith("lowerdir="));
  if (lower === undefined) return { type: "bind", source: folder, options: ["rbind", "ro"] };
  const rest = mount.options.filter((option) => !/^(upperdir|workdir|lowerdir)=/.test(option));
  return { ...mount, options: [`lowerdir=${folder}:${lower.slice("lowerdir=".length)}`, ...rest] };
}

/** Runs a compare job. The process must be in a mount namespace of its own. */
export async function runCompare(job: CompareJob): Promise<CompareResult> {
  mountOne({ type: "tmpfs", source: "tmpfs", options: ["mode=0700", "size=1m"] }, job.mountPoint);
  await mkdir(`${job.mountPoint}/lower`);
  await mkdir(`${job.mountPoint}/upper`);
  using namespaces = await UserNamespaces.for([...job.lower, ...job.upper]);
  const userNamespaces = namespaces.descriptors;
  mountAll(job.lower.map(readOnly), `${job.mountPoint}/lower`, { userNamespaces });
  mountAll(job.upper.map(readOnly), `${job.mountPoint}/upper`, { userNamespaces });
  const pivoted = pivotInto(job.mountPoint);
  if (pivoted < 0 && pivoted !== -ERRNO.EINVAL) {
    throw new SyscallError({ syscall: "pivot_root", errno: -pivoted, target: job.mountPoint });
  }
  const root = pivoted < 0 ? job.mountPoint : "";
  const lower = openRoot(`${root}/lower`);
  const upper = openRoot(`${root}/upper`);
  const walk = new WalkDiff({
    lower,
    upper,
    ...(job.sourceDateEpoch === undefined ? {} : { sourceDateEpoch: job.sourceDateEpoch }),
  });
  try {
    const hash = new Bun.CryptoHasher("sha256");
    let size = 0;
    const counted = (function* (): Generator<Uint8Array, void, void> {
      for (const bytes of gather(walk.archive())) {
        hash.update(bytes);
        size += bytes.length;
        yield bytes;
      }
    })();
    if (job.compression === "none") for (const bytes of counted) writeAll(LAYER_FD, bytes);
    else await compress(job.compression, counted, (bytes) => writeAll(LAYER_FD, bytes));
    return { kind: "compared", diffId: `sha256:${hash.digest("hex")}`, size, entries: walk.entries };
  } catch (error) {
    const at = walk.currentPath;
    throw at === "" ? error : withContext(`at ${JSON.stringify(at)}`, error);
  } finally {
    closeQuietly(lower);
    closeQuietly(upper);
  }
}

function openRoot(path: string): number {
  const fd = openEntry(AT.FDCWD, path, O.RDONLY | O.DIRECTORY);
  if (fd < 0) throw new SyscallError({ syscall: "open", errno: -fd, target: path });
  return fd;
}

/** Joins small pieces, so that neither the compressor nor the pipe sees 512 bytes at a time. */
function* gather(pieces: Iterable<Uint8Array>): Generator<Uint8Array, void, void> {
  let buffer = Buffer.allocUnsafe(CHUNK);
  let filled = 0;
  for (const bytes of pieces) {
    for (let at = 0; at < bytes.length; ) {
      const n = Math.min(bytes.length - at, CHUNK - filled);
      buffer.set(n === bytes.length ? bytes : bytes.subarray(at, at + n), filled);
      filled += n;
      at += n;
      if (filled < CHUNK) continue;
      yield buffer;
      buffer = Buffer.allocUnsafe(CHUNK);
      filled = 0;
    }
  }
  if (filled > 0) yield buffer.subarray(0, filled);
}

/** Feeds `input` through a compressor, whose work is done by another thread, and hands the result to `output`. */
async function compress(
  kind: "gzip" | "zstd",
  input: Iterable<Uint8Array>,
  output: (bytes: Uint8Array) => void,
): Promise<void> {
  const stream: Gzip | ZstdCompress =
    kind === "gzip" ? createGzip({ chunkSize: CHUNK }) : createZstdCompress({ chunkSize: CHUNK });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let wake: (() => void) | undefined;
  const fail = (error: unknown): void => {
    reject(error);
    stream.destroy();
    wake?.();
  };
  stream.on("data", (bytes: Uint8Array) => {
    try {
      output(bytes);
    } catch (error) {
      fail(error);
    }
  });
  stream.on("end", resolve);
  stream.on("error", (error: unknown) => fail(classified("internal", `compress layer (${kind})`, { cause: error })));
  stream.on("drain", () => wake?.());
  const feed = async (): Promise<void> => {
    for (const bytes of input) {
      if (stream.destroyed) return;
      if (stream.write(bytes)) continue;
      const waiting = Promise.withResolvers<void>();
      wake = waiting.resolve;
      await waiting.promise;
    }
    stream.end();
  };
  feed().catch(fail);
  await promise;
}
