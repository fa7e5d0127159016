import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { availableParallelism } from "node:os";
import {
  classified,
  createLogger,
  isErrorClass,
  type Logger,
  messageOf,
  type RequestContext,
  withContext,
} from "@stevedore/base";
import type { ContentReader, ContentStore, ContentWriter } from "@stevedore/core/content";
import type { CompareOptions, Differ } from "@stevedore/core/diff";
import type { Descriptor } from "@stevedore/core/images";
import type { Mount } from "@stevedore/core/mount";
import { Pool } from "@stevedore/core/pool";
import { type CompareJob, DEFAULT_LAYER_LIMITS, type LayerJob, type LayerLimits } from "@stevedore/oci/layer-job";
import { type Compression, diffCompression, MediaType } from "@stevedore/oci/media-types";
import { OwnedFd, pipe } from "@stevedore/os/fd";
import { FdWriter, readChunks } from "@stevedore/os/io";
import { planStream, processStream, type StreamProcessor } from "./stream-processors.ts";
import { runWorker } from "./worker-process.ts";

/** containerd's pkg/labels: the digest of a compressed layer's tar. */
const UNCOMPRESSED_LABEL = "containerd.io/uncompressed";

export interface WalkingDifferOptions {
  readonly content: ContentStore;
  /** How to start the layer worker: this binary and its hidden subcommand, or from the sources bun and worker/src/main.ts. */
  readonly workerCommand: readonly string[];
  /** A folder of ours; `mount` is made in it, on which workers mount in their own namespaces. */
  readonly stateDir: string;
  /** Workers at once. Default: one per core. */
  readonly workers?: number;
  readonly limits?: Partial<LayerLimits>;
  /**
   * A faster gunzip than the worker's own, with its arguments; empty for none. Default: `igzip -d -c` where it is installed,
   * unless CONTAINERD_DISABLE_IGZIP is set, as containerd has it.
   */
  readonly gunzip?: readonly string[];
  /** In the order of the config file; a later one is asked first. */
  readonly streamProcessors?: readonly StreamProcessor[];
  readonly logger?: Logger;
}

/**
 * containerd's walking differ: applies tar layers to mounts, and makes layers by walking two mounted trees. The work is
 * done by worker processes, at most one per core; a cancelled call kills its worker.
 */
export function createWalkingDiffer(options: WalkingDifferOptions): Differ {
  const pool = new Pool(options.workers ?? availableParallelism(), "a layer worker");
  const log = options.logger ?? createLogger();
  const limits: LayerLimits = { ...DEFAULT_LAYER_LIMITS, ...options.limits };
  const gunzip = options.gunzip ?? installedGunzip();
  const mountPoint = `${options.stateDir}/mount`;
  let ready: Promise<unknown> | undefined;

  const work = async (
    job: LayerJob,
    signal: AbortSignal,
    fd: number,
  ): Promise<Awaited<ReturnType<typeof runWorker>>> => {
    ready ??= mkdir(mountPoint, { recursive: true, mode: 0o700 });
    await ready;
    return runWorker(job, { command: [...options.workerCommand, options.stateDir], signal, fds: [fd] });
  };

  return {
    apply: async (context, descriptor, applyOptions) => {
      const plan = planStream(descriptor.mediaType, options.streamProcessors ?? []);
      const packed =
        plan.mediaType === MediaType.ociLayer ? "none" : compressionOf(plan.mediaType, descriptor.mediaType);
      const processed = plan.steps.length > 0;
      await using reader = await openBlob(options.content, context, descriptor);
      const job: LayerJob = {
        kind: "apply",
        mounts: applyOptions.mounts,
        compression: packed === "none" ? "none" : "detect",
        gunzip,
        // What a processor makes of the blob has another digest; the blob's own was checked when it was stored.
        digest: processed ? "" : descriptor.digest,
        size: processed ? -1 : reader.size,
        mountPoint,
        parent: process.pid,
        syncFs: applyOptions.syncFs ?? false,
        limits,
      };
      const start = performance.now();
      try {
        const result = await pool.run(
          () =>
            withBlob(reader, { signal: context.signal, piped: processed }, (fd) => {
              const use = (from: number): ReturnType<typeof work> => work(job, context.signal, from);
              if (!processed) return use(fd);
              return processStream(plan.steps, fd, { payloads: applyOptions.payloads, signal: context.signal, use });
            }),
          context.signal,
        );
        if (result.kind === "applied" && result.warnings.length > 0) {
          log.warn("layer unpacked with warnings", {
            digest: descriptor.digest,
            warnings: result.warnings.slice(0, 10),
          });
        }
        log.debug("diff applied", {
          d: `${Math.round(performance.now() - start)}ms`,
          digest: descriptor.digest,
          size: descriptor.size,
          media: descriptor.mediaType,
        });
        return { mediaType: MediaType.ociLayer, digest: result.diffId, size: result.size };
      } catch (error) {
        context.signal.throwIfAborted();
        throw withContext(`failed to apply layer ${descriptor.digest}`, error);
      }
    },
    compare: async (context, lower, compareOptions) => {
      const mediaType = compareOptions.mediaType === "" ? MediaType.ociLayerGzip : compareOptions.mediaType;
      const compression = packingOf(mediaType);
      const epoch = compareOptions.sourceDateEpoch;
      const job: CompareJob = {
        kind: "compare",
        lower,
        upper: compareOptions.upper,
        mountPoint,
        parent: process.pid,
        compression,
        ...(epoch === undefined ? {} : { sourceDateEpoch: Math.floor(epoch.getTime() / 1000) }),
      };
      return pool.run(
        () =>
          compareInto(
            context,
            options.content,
            { ...compareOptions, mediaType },
            (fd) => work(job, context.signal, fd),
            log,
          ),
        context.signal,
      );
    },
  } satisfies Differ;
}

/** @throws not-implemented, in containerd's words, so that the next differ is asked. */
function compressionOf(mediaType: string, asked: string): Compression {
  try {
    return diffCompression(mediaType);
  } catch (error) {
    throw classified("not-implemented", `failed to get stream processor for ${asked}: no processor for media-type`, {
      cause: error,
    });
  }
}

function installedGunzip(): readonly string[] {
  if ((process.env["CONTAINERD_DISABLE_IGZIP"] ?? "") !== "") return [];
  const path = Bun.which("igzip");
  return path === null ? [] : [path, "-d", "-c"];
}

function packingOf(mediaType: string): CompareJob["compression"] {
  switch (mediaType) {
    case MediaType.ociLayer:
      return "none";
    case MediaType.ociLayerGzip:
      return "gzip";
    case MediaType.ociLayerZstd:
      return "zstd";
    default:
      throw classified("not-implemented", `unsupported diff media type: ${mediaType}: not implemented`);
  }
}

async function openBlob(
  content: ContentStore,
  context: RequestContext,
  descriptor: Descriptor,
): Promise<ContentReader> {
  try {
    return await content.open(context, descriptor.digest);
  } catch (error) {
    throw withContext("failed to get reader from content store", error);
  }
}

/** What is read from a store that has no local file at once. */
const COPY_CHUNK = 1 << 20;

/** Calls `use` with a descriptor for the blob: the store's own file, or a pipe fed meanwhile. */
async function withBlob<T>(
  reader: ContentReader,
  { signal, piped }: { readonly signal: AbortSignal; readonly piped: boolean },
  use: (fd: number) => Promise<T>,
): Promise<T> {
  if (reader.fd !== undefined && !piped) return use(reader.fd);
  const ends = pipe();
  using read = new OwnedFd(ends.read);
  using write = new FdWriter(ends.write);
  const feed = async (): Promise<void> => {
    try {
      for (let at = 0; at < reader.size; ) {
        const bytes = await reader.readAt(at, COPY_CHUNK);
        if (bytes.byteLength === 0) break;
        await write.write(bytes, signal);
        at += bytes.byteLength;
      }
    } catch (error) {
      // The worker says why it stopped reading.
      if (!isErrorClass(error, "unavailable")) throw error;
    } finally {
      write.close();
    }
  };
  const used = use(read.fd).finally(() => read.close());
  const [result] = await Promise.all([used, feed()]);
  return result;
}

async function compareInto(
  context: RequestContext,
  content: ContentStore,
  options: CompareOptions & { readonly upper: readonly Mount[] },
  work: (fd: number) => ReturnType<typeof runWorker>,
  log: Logger,
): Promise<Descriptor> {
  const generated = options.ref === "";
  const ref = generated ? uniqueRef() : options.ref;
  let writer: ContentWriter;
  try {
    writer = await content.writer(context, { ref });
  } catch (error) {
    throw withContext("failed to open writer", error);
  }
  let committed = false;
  try {
    if (!generated) await writer.truncate(0);
    const result = await streamDiff(writer, work, context.signal);
    const plain = options.mediaType === MediaType.ociLayer;
    const labels = plain ? options.labels : { ...options.labels, [UNCOMPRESSED_LABEL]: result.diffId };
    const expected = writer.digest();
    try {
      await writer.commit(context, { expected, labels });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw withContext("failed to commit", error);
    }
    committed = true;
    const info = await content.info(context, expected);
    // A blob that was there before may lack the label.
    if (!plain && info.labels[UNCOMPRESSED_LABEL] === undefined) {
      const added = { ...info.labels, [UNCOMPRESSED_LABEL]: result.diffId };
      await content.update(context, { digest: expected, labels: added }, [`labels.${UNCOMPRESSED_LABEL}`]);
    }
    return { mediaType: options.mediaType, digest: info.digest, size: info.size };
  } finally {
    await writer[Symbol.asyncDispose]();
    if (!committed && generated) {
      try {
        await content.abort({ ...context, signal: new AbortController().signal }, ref);
      } catch (error) {
        log.warn("failed to delete diff upload", { ref, error: messageOf(error) });
      }
    }
  }
}

async function streamDiff(
  writer: ContentWriter,
  work: (fd: number) => ReturnType<typeof runWorker>,
  signal: AbortSignal,
): Promise<Awaited<ReturnType<typeof runWorker>>> {
  const ends = pipe();
  using write = new OwnedFd(ends.write);
  const copy = async (): Promise<void> => {
    for await (const chunk of readChunks(ends.read, { own: true, signal })) await writer.write(chunk);
  };
  const copied = copy();
  const worked = work(write.fd);
  // The child has its own copy by the time the spawn returned; ours would keep the pipe from ending.
  const closed = worked.then(
    () => write.close(),
    () => write.close(),
  );
  try {
    const [result] = await Promise.all([worked, copied, closed]);
    return result;
  } catch (error) {
    await Promise.allSettled([worked, copied, closed]);
    signal.throwIfAborted();
    throw withContext("failed to write diff", error);
  }
}

/** Shaped as containerd's: nanoseconds and a few random characters. */
function uniqueRef(): string {
  return `${Date.now()}${String(process.hrtime.bigint() % 1_000_000n).padStart(6, "0")}-${randomBytes(3).toString("base64url")}`;
}
