import { createGunzip, createZstdDecompress, type Gunzip, type ZstdDecompress } from "node:zlib";
import { classified, messageOf } from "@stevedore/base/errors";

/** Bytes read from a blob at once, and handed out at once by a decompressor: large enough that calls do not count. */
export const CHUNK = 1 << 18;

export type Compression = "none" | "gzip" | "zstd";

/** By the first bytes (RFC 1952, RFC 8878 with its skippable frames), as containerd does for every layer it calls compressed. */
export function detectCompression(start: Uint8Array): Compression {
  const [a, b, c, d] = start;
  if (a === 0x1f && b === 0x8b && c === 0x08) return "gzip";
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return "zstd";
  if (a !== undefined && (a & 0xf0) === 0x50 && b === 0x2a && c === 0x4d && d === 0x18) return "zstd";
  return "none";
}

/** Longest run of decompressed chunks not looked at yet. */
const MAX_PENDING = 4;

/**
 * Feeds `input` through a decompressor and hands what comes out to `output`, in order. The decompressor works on its own
 * thread while `output` looks at the chunk before.
 *
 * @throws data-loss for a damaged or truncated stream; whatever `output` throws.
 */
export async function decompress(
  kind: Exclude<Compression, "none">,
  input: Iterable<Uint8Array>,
  output: (bytes: Uint8Array) => void,
): Promise<void> {
  const stream: Gunzip | ZstdDecompress =
    kind === "gzip" ? createGunzip({ chunkSize: CHUNK }) : createZstdDecompress({ chunkSize: CHUNK });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const pending: Uint8Array[] = [];
  let scheduled = false;
  let failed = false;
  const fail = (error: unknown): void => {
    if (failed) return;
    failed = true;
    pending.length = 0;
    reject(error);
    stream.destroy();
  };
  const drain = (): void => {
    scheduled = false;
    try {
      for (let bytes = pending.shift(); bytes !== undefined; bytes = pending.shift()) output(bytes);
    } catch (error) {
      fail(error);
    }
  };
  stream.on("data", (bytes: Uint8Array) => {
    if (failed) return;
    pending.push(bytes);
    // Looked at after this event, so that the next chunk is being decompressed meanwhile.
    if (pending.length >= MAX_PENDING) drain();
    else if (!scheduled) {
      scheduled = true;
      queueMicrotask(drain);
    }
  });
  stream.on("end", () => {
    drain();
    if (!failed) resolve();
  });
  stream.on("error", (error: unknown) => {
    fail(classified("data-loss", `decompress layer (${kind}): ${messageOf(error)}`, { cause: error }));
  });
  let wake: (() => void) | undefined;
  stream.on("drain", () => wake?.());
  stream.on("close", () => wake?.());
  const feed = async (): Promise<void> => {
    for (const bytes of input) {
      if (failed) return;
      if (!stream.write(bytes)) {
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        await promise;
      }
    }
    stream.end();
  };
  feed().catch(fail);
  await promise;
}
