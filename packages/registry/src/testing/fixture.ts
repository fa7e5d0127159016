/** Small helpers that tests of the client share. */
import { digestOf, MediaType } from "@stevedore/oci";
import { createRegistryClient, type RegistryClient, type RegistryClientOptions } from "../client.ts";
import type { RegistryLimits } from "../limits.ts";
import type { TestRegistry } from "./test-registry.ts";

/** Limits that make tries follow each other soon. Time-outs stay long: a busy machine must not look like a dead host. */
export const SOON: Partial<RegistryLimits> = {
  backoffMs: 1,
  backoffMaxMs: 5,
  retryAfterMaxMs: 2_000,
  stallBytes: 1024,
  attempts: 3,
};

/** A client with {@link SOON}. */
export function quickClient(options: Partial<RegistryClientOptions> = {}): RegistryClient {
  return createRegistryClient({
    userAgent: "containerd/2.3.4+test",
    ...options,
    limits: { ...SOON, ...options.limits },
  });
}

/** Bytes that differ everywhere. */
export function someBytes(size: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(size);
  let state = seed;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** Reads a body whole. */
export async function collect(body: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of body) parts.push(part);
  return Buffer.concat(parts);
}

/** An image of one config and one layer in a test registry. */
export function putImage(
  registry: TestRegistry,
  repository: string,
  tag: string,
): {
  readonly manifest: Uint8Array;
  readonly digest: string;
  readonly layer: Uint8Array;
  readonly layerDigest: string;
} {
  const layer = someBytes(300_000, Bun.hash.crc32(`${repository}:${tag}`));
  const layerDigest = registry.putBlob(repository, layer);
  const config = Buffer.from(
    JSON.stringify({ architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [layerDigest] } }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MediaType.ociManifest,
      config: { mediaType: MediaType.ociConfig, digest: registry.putBlob(repository, config), size: config.byteLength },
      layers: [{ mediaType: MediaType.ociLayerGzip, digest: layerDigest, size: layer.byteLength }],
    }),
  );
  return { manifest, digest: registry.putManifest(repository, manifest, { tag }), layer, layerDigest };
}

/** A descriptor of bytes. */
export function descriptorOf(
  bytes: Uint8Array,
  mediaType: string = MediaType.ociLayerGzip,
): {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
} {
  return { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
}

/** What a promise rejects with. @throws when it does not */
export async function failureFrom(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
  throw new Error("it did not fail");
}
