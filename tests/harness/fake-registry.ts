// A registry in memory, behind the interface that the daemon's transfers use: counts what is asked for, and fails as it is told.
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { classified, concatBytes } from "@stevedore/base";
import type { Descriptor, OpenRegistry, RegistrySession } from "@stevedore/core";

export const OCI = {
  index: "application/vnd.oci.image.index.v1+json",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar+gzip",
} as const;

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** What a fetch does instead of giving the blob. */
export type Fault = (bytes: Uint8Array, signal: AbortSignal) => AsyncIterable<Uint8Array>;

/** What a fake image is made of. */
export type FakeImage = {
  /** Text of each layer's tar, lowest first. */
  readonly layers: readonly string[];
  readonly architecture?: string;
};

/** Bytes handed out at once. */
const PIECE = 4096;

export class FakeRegistry {
  readonly blobs = new Map<string, Uint8Array>();
  readonly tags = new Map<string, Descriptor>();
  /** In order. */
  readonly fetched: { readonly digest: string; readonly offset: number }[] = [];
  readonly pushed: { readonly digest: string; readonly tag: boolean; readonly mountFrom: readonly string[] }[] = [];
  /** By digest; taken when used. */
  readonly faults = new Map<string, Fault>();
  /** Milliseconds before each piece. */
  delayMs = 0;

  put(bytes: Uint8Array | string, mediaType: string): Descriptor {
    const data = typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes;
    const digest = sha256(data);
    this.blobs.set(digest, data);
    return { mediaType, digest, size: data.byteLength };
  }

  /** Stores an image and gives its manifest's descriptor. */
  image({ layers, architecture = "amd64" }: FakeImage): Descriptor {
    const stored = layers.map((text) => this.put(gzipSync(text), OCI.layer));
    const config = this.put(
      JSON.stringify({
        architecture,
        os: "linux",
        config: {},
        rootfs: { type: "layers", diff_ids: layers.map((text) => sha256(new TextEncoder().encode(text))) },
      }),
      OCI.config,
    );
    return this.put(
      JSON.stringify({ schemaVersion: 2, mediaType: OCI.manifest, config, layers: stored }),
      OCI.manifest,
    );
  }

  /** Stores an index over images by architecture, and gives its descriptor. */
  index(images: Readonly<Record<string, Descriptor>>): Descriptor {
    const manifests = Object.entries(images).map(([architecture, descriptor]) => ({
      ...descriptor,
      platform: { os: "linux", architecture },
    }));
    return this.put(JSON.stringify({ schemaVersion: 2, mediaType: OCI.index, manifests }), OCI.index);
  }

  timesFetched(digest: string): number {
    return this.fetched.filter((each) => each.digest === digest).length;
  }

  readonly open: OpenRegistry = async () => Promise.resolve(this.#session());

  #session(): RegistrySession {
    return {
      resolve: async (reference) => {
        const descriptor = this.tags.get(reference);
        if (descriptor === undefined) throw classified("not-found", `${reference}: not found`);
        return Promise.resolve({ name: reference, descriptor });
      },
      fetch: (_reference, { digest }, { offset, signal }) => this.#fetch(digest, offset, signal),
      push: async (_reference, descriptor, { open, mountFrom, tag, onProgress }) => {
        this.pushed.push({ digest: descriptor.digest, tag, mountFrom });
        if (this.blobs.has(descriptor.digest)) return "exists";
        const parts: Uint8Array[] = [];
        for await (const bytes of open(0)) parts.push(bytes);
        const whole = concatBytes(parts);
        onProgress?.(whole.byteLength);
        this.blobs.set(sha256(whole), whole);
        return "pushed";
      },
      [Symbol.asyncDispose]: async () => Promise.resolve(),
    };
  }

  async *#fetch(digest: string, offset: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    this.fetched.push({ digest, offset });
    const bytes = this.blobs.get(digest);
    if (bytes === undefined) throw classified("not-found", `blob ${digest}: not found`);
    const fault = this.faults.get(digest);
    this.faults.delete(digest);
    if (fault !== undefined) {
      yield* fault(bytes.subarray(offset), signal);
      return;
    }
    for (let at = offset; at < bytes.byteLength; at += PIECE) {
      signal.throwIfAborted();
      if (this.delayMs > 0) await Bun.sleep(this.delayMs);
      yield bytes.slice(at, at + PIECE);
    }
  }
}
