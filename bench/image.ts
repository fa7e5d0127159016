// The big image of the import benchmark, made once and kept under build/bench/.
import { createCipheriv } from "node:crypto";
import { mkdir, rename, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { ociArchive } from "../tests/harness/images.ts";
import { type TarEntry, tar } from "../tests/harness/tar.ts";

/** The name the archive gives its image. */
export const BIG_IMAGE = "docker.io/library/big:bench";

const LAYERS = 9;
const FILES = 20_000;
const BYTES = 400_000_000;
/** The share of each file that does not compress; the rest repeats, as text and tables in real images do. */
const NOISE = 0.6;

/** Bytes that look random and are the same on every run. */
export function noise(length: number, seed: number): Uint8Array {
  const iv = Buffer.alloc(16);
  iv.writeUInt32BE(seed);
  return createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), iv).update(Buffer.alloc(length));
}

/** Sizes spread as real ones are: most files small, few large, all together about BYTES. */
function sizeOf(index: number): number {
  const spread = [0.05, 0.1, 0.2, 0.4, 0.6, 0.9, 1.25, 1.5, 2, 3];
  return Math.floor((BYTES / FILES) * (spread[index % spread.length] ?? 1));
}

function layer(number: number): Uint8Array {
  const from = Math.floor((FILES * number) / LAYERS);
  const to = Math.floor((FILES * (number + 1)) / LAYERS);
  const entries: TarEntry[] = [];
  const folders = new Set<string>();
  const text = Buffer.from("the quick brown fox jumps over the lazy dog\n");
  for (let index = from; index < to; index += 1) {
    const folder = `srv/layer${number}/part${index % 40}/`;
    if (!folders.has(folder)) {
      folders.add(folder);
      entries.push({ path: folder, type: "dir" });
    }
    const data = Buffer.alloc(sizeOf(index), text);
    data.set(noise(Math.floor(data.byteLength * NOISE), index));
    entries.push({ path: `${folder}file${index}`, data });
  }
  return tar(entries);
}

/** Makes the archive at `path` unless it is there: an OCI layout, nine gzip layers over busybox. */
export async function bigImage(path: string): Promise<void> {
  if ((await stat(path).catch(() => undefined)) !== undefined) return;
  await mkdir(dirname(path), { recursive: true });
  const layers = Array.from({ length: LAYERS }, (_, number) => layer(number));
  const archive = await ociArchive({ name: BIG_IMAGE, layers, compress: "gzip" });
  await Bun.write(`${path}.part`, archive);
  await rename(`${path}.part`, path);
}
