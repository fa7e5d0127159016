/** Imports image archives: OCI layouts and docker's, plain or compressed. */

import { createGunzip, createZstdDecompress } from "node:zlib";
import { classified, encodeText, isErrorClass, type RequestContext } from "@stevedore/base";
import type { Descriptor, Image } from "@stevedore/core";
import { Annotation } from "@stevedore/oci/annotations";
import { digestOf } from "@stevedore/oci/digest";
import { normalizeImageName, parseDockerReference } from "@stevedore/oci/docker-reference";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { MAX_DOCUMENT_SIZE, parseImageConfig, parseIndex } from "@stevedore/oci/manifest";
import { isIndexType, isManifestType, MediaType } from "@stevedore/oci/media-types";
import { normalizePlatform, type PlatformMatcher } from "@stevedore/oci/platform";
import { readTar, type TarEntry } from "@stevedore/oci/tar/index";
import type { ImageBackend } from "./backend.ts";
import { labelTree } from "./children-labels.ts";
import { openWriter } from "./ingest.ts";
import { through } from "./through.ts";
import { readBlob } from "./tree.ts";

export interface ImportOptions {
  /** Prefix for names of an archive that only has tags: `<base>:<tag>`. */
  readonly baseName?: string;
  /** Also name images by digest, `<base>@<digest>`. */
  readonly digests?: boolean;
  /** With {@link digests}, leave named images without the extra name. */
  readonly skipDigestForNamed?: boolean;
  /** A name for the whole index. */
  readonly indexName?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** Only manifests of these platforms become images; absent: all. An index stays whole. */
  readonly platforms?: PlatformMatcher;
  /** Store docker layers gzipped. */
  readonly compressBlobs?: boolean;
}

/** Most entries an archive may have; images have hundreds. */
const MAX_ENTRIES = 100_000;

interface Archive {
  /** Digest of each file's bytes, by cleaned path. */
  readonly blobs: Map<string, Descriptor>;
  readonly links: Map<string, string>;
  layoutVersion: string | undefined;
  dockerManifest: Uint8Array | undefined;
  index: Uint8Array | undefined;
}

/**
 * Imports every image of an archive and returns them. Call it in a leased context. Nothing but the names the archive and
 * the options give is created or moved.
 *
 * @throws invalid-argument `unrecognized image format` and for damaged archives; out-of-range for documents that are too
 *   large
 */
export async function importArchive(
  client: ImageBackend,
  context: RequestContext,
  of: ImportOptions & { readonly source: AsyncIterable<Uint8Array> },
): Promise<Image[]> {
  const index = await storeArchive(client, context, of);
  return createImages({ client, context }, index, of);
}

/**
 * Stores the blobs of an archive and returns its index, which names its images; none of them is created. Call it in a
 * leased context: nothing holds the blobs.
 *
 * @throws as {@link importArchive}
 */
export async function storeArchive(
  client: ImageBackend,
  context: RequestContext,
  of: Pick<ImportOptions, "compressBlobs"> & {
    readonly source: AsyncIterable<Uint8Array>;
    /** The bytes are a plain tar, whatever they begin with. Default: what their first bytes say. */
    readonly plain?: boolean;
  },
): Promise<Descriptor> {
  const archive: Archive = {
    blobs: new Map(),
    links: new Map(),
    layoutVersion: undefined,
    dockerManifest: undefined,
    index: undefined,
  };
  let count = 0;
  for await (const entry of readTar(of.plain === true ? of.source : await decompressed(of.source))) {
    context.signal.throwIfAborted();
    if (++count > MAX_ENTRIES)
      throw classified("invalid-argument", `import: more than ${MAX_ENTRIES} entries: invalid argument`);
    await takeEntry({ client, context, archive }, entry);
  }
  return archiveIndex({ client, context, archive }, of);
}

interface Importing {
  readonly client: ImageBackend;
  readonly context: RequestContext;
  readonly archive: Archive;
}

function cleanPath(name: string): string {
  const parts: string[] = [];
  for (const part of name.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") parts.pop();
    else parts.push(part);
  }
  return parts.join("/");
}

async function takeEntry({ client, context, archive }: Importing, entry: TarEntry): Promise<void> {
  const { header } = entry;
  const path = cleanPath(header.name);
  if (header.type === "symlink") {
    archive.links.set(path, cleanPath(`${path.split("/").slice(0, -1).join("/")}/${header.linkName}`));
    return;
  }
  if (header.type !== "file") return;
  if (path === "oci-layout") {
    const layout = parseJson(await entry.bytes(MAX_DOCUMENT_SIZE));
    const version = isJsonObject(layout) ? layout["imageLayoutVersion"] : undefined;
    archive.layoutVersion = typeof version === "string" ? version : "";
    return;
  }
  if (path === "manifest.json") {
    archive.dockerManifest = await entry.bytes(MAX_DOCUMENT_SIZE);
    return;
  }
  if (path === "index.json") {
    archive.index = await entry.bytes(MAX_DOCUMENT_SIZE);
    return;
  }
  const named = /^blobs\/([a-z0-9]+)\/([0-9a-f]+)$/.exec(path);
  const expected = named === null ? undefined : `${named[1]}:${named[2]}`;
  const digest = await storeBlob({ client, context }, entry, { path, ...(expected === undefined ? {} : { expected }) });
  archive.blobs.set(path, { mediaType: "", digest, size: header.size });
}

async function storeBlob(
  { client, context }: { readonly client: ImageBackend; readonly context: RequestContext },
  entry: TarEntry,
  of: { readonly path: string; readonly expected?: string },
): Promise<string> {
  const size = entry.header.size;
  try {
    await using writer = await openWriter(client.content, context, {
      ref: `tar-${of.path}`,
      total: size,
      ...(of.expected === undefined ? {} : { expected: of.expected }),
    });
    if (writer.status().offset > 0) await writer.truncate(0);
    for await (const chunk of entry.body()) await writer.write(chunk);
    const digest = writer.digest();
    try {
      return await writer.commit(context, { size, ...(of.expected === undefined ? {} : { expected: of.expected }) });
    } catch (error) {
      if (isErrorClass(error, "already-exists") && digest !== "") return digest;
      throw error;
    }
  } catch (error) {
    // A blob that is there already need not be read again when its name tells its digest.
    if (isErrorClass(error, "already-exists") && of.expected !== undefined) return of.expected;
    throw error;
  }
}

/** Stores a document we made and returns its descriptor. */
async function storeDocument(
  { client, context }: { readonly client: ImageBackend; readonly context: RequestContext },
  of: { readonly bytes: Uint8Array; readonly mediaType: string; readonly ref: string },
): Promise<Descriptor> {
  const digest = digestOf(of.bytes);
  const size = of.bytes.byteLength;
  try {
    await using writer = await openWriter(client.content, context, {
      ref: `${of.ref}-${digest}`,
      total: size,
      expected: digest,
    });
    if (writer.status().offset > 0) await writer.truncate(0);
    await writer.write(of.bytes);
    await writer.commit(context, { size, expected: digest });
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
  }
  return { mediaType: of.mediaType, digest, size };
}

async function archiveIndex(importing: Importing, options: Pick<ImportOptions, "compressBlobs">): Promise<Descriptor> {
  const { archive } = importing;
  // Docker writes both forms; as the peer, the OCI layout is taken when it is complete.
  if (archive.layoutVersion !== undefined && archive.index !== undefined) {
    if (archive.layoutVersion !== "1.0.0") {
      throw classified("invalid-argument", `unsupported OCI version ${archive.layoutVersion}: invalid argument`);
    }
    parseIndex(archive.index, MediaType.ociIndex);
    return storeDocument(importing, { bytes: archive.index, mediaType: MediaType.ociIndex, ref: "import-index" });
  }
  if (archive.dockerManifest === undefined) {
    throw classified("invalid-argument", "unrecognized image format");
  }
  return dockerIndex(importing, archive.dockerManifest, options);
}

interface DockerImage {
  readonly config: string;
  readonly tags: readonly string[];
  readonly layers: readonly string[];
}

function parseDockerManifest(bytes: Uint8Array): DockerImage[] {
  const list = parseJson(bytes);
  if (!Array.isArray(list)) throw classified("invalid-argument", "read manifest.json: not a list: invalid argument");
  return list.map((item) => {
    if (!isJsonObject(item))
      throw classified("invalid-argument", "read manifest.json: an entry is no object: invalid argument");
    const texts = (key: string): string[] => {
      const value = item[key];
      if (value === undefined || value === null) return [];
      if (!Array.isArray(value))
        throw classified("invalid-argument", `read manifest.json: ${key} is no list: invalid argument`);
      return value.filter((text): text is string => typeof text === "string");
    };
    const config = item["Config"];
    if (typeof config !== "string")
      throw classified("invalid-argument", "read manifest.json: Config is missing: invalid argument");
    return { config, tags: texts("RepoTags"), layers: texts("Layers") };
  });
}

async function dockerIndex(
  importing: Importing,
  bytes: Uint8Array,
  options: Pick<ImportOptions, "compressBlobs">,
): Promise<Descriptor> {
  const { client, context, archive } = importing;
  const find = (path: string): Descriptor => {
    const clean = cleanPath(path);
    const found = archive.blobs.get(clean) ?? archive.blobs.get(archive.links.get(clean) ?? "");
    if (found === undefined) {
      throw classified("invalid-argument", `image config ${JSON.stringify(path)} not found`);
    }
    return found;
  };
  const manifests: Record<string, unknown>[] = [];
  for (const image of parseDockerManifest(bytes)) {
    const config = find(image.config);
    const parsed = parseImageConfig(await readBlob(client.content, context, config));
    const layers: Descriptor[] = [];
    for (const path of image.layers) layers.push(await dockerLayer(importing, find(path), options));
    const document = {
      schemaVersion: 2,
      mediaType: MediaType.dockerManifest,
      config: { mediaType: MediaType.dockerConfig, digest: config.digest, size: config.size },
      layers: layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
    };
    const stored = await storeDocument(importing, {
      bytes: encodeText(JSON.stringify(document)),
      mediaType: MediaType.dockerManifest,
      ref: "manifest",
    });
    const platform = {
      architecture: parsed.architecture,
      os: parsed.os,
      ...(parsed.variant === undefined ? {} : { variant: parsed.variant }),
    };
    const described = { mediaType: stored.mediaType, digest: stored.digest, size: stored.size };
    if (image.tags.length === 0) manifests.push({ ...described, platform });
    for (const tag of image.tags) {
      const name = normalizeImageName(tag);
      const { tag: ref } = parseDockerReference(tag);
      manifests.push({
        ...described,
        annotations: { [Annotation.imageName]: name, [Annotation.refName]: ref ?? "latest" },
        platform,
      });
    }
  }
  return storeDocument(importing, {
    bytes: encodeText(JSON.stringify({ schemaVersion: 2, manifests })),
    mediaType: MediaType.ociIndex,
    ref: "index",
  });
}

const GZIP_MAGIC = [0x1f, 0x8b];
const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

function startsWith(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, at) => bytes[at] === byte);
}

/** A layer of a docker archive says nothing of its compression; its first bytes do. */
async function dockerLayer(
  importing: Importing,
  layer: Descriptor,
  options: Pick<ImportOptions, "compressBlobs">,
): Promise<Descriptor> {
  const { client, context } = importing;
  await using reader = await client.content.open(context, layer.digest);
  const head = await reader.readAt(0, ZSTD_MAGIC.length);
  if (startsWith(head, GZIP_MAGIC)) return { ...layer, mediaType: MediaType.dockerLayerGzip };
  if (startsWith(head, ZSTD_MAGIC)) return { ...layer, mediaType: MediaType.ociLayerZstd };
  if (options.compressBlobs !== true) return { ...layer, mediaType: MediaType.dockerLayer };
  const { compressLayer } = await import("./compress-layer.ts");
  return await compressLayer(client, context, layer);
}

/** Chooses the decompressor by the first bytes. */
async function decompressed(source: AsyncIterable<Uint8Array>): Promise<AsyncIterable<Uint8Array>> {
  const iterator = source[Symbol.asyncIterator]();
  const first = await iterator.next();
  const head = first.done === true ? new Uint8Array() : first.value;
  const whole = (async function* (): AsyncGenerator<Uint8Array> {
    if (first.done !== true) yield first.value;
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) yield next.value;
  })();
  if (startsWith(head, GZIP_MAGIC)) return through(whole, createGunzip());
  if (startsWith(head, ZSTD_MAGIC)) return through(whole, createZstdDecompress());
  return whole;
}

/** Names of an index's manifests, then images created or moved to them. */
async function createImages(
  { client, context }: { readonly client: ImageBackend; readonly context: RequestContext },
  index: Descriptor,
  options: ImportOptions,
): Promise<Image[]> {
  await labelTree(client.content, context, index);
  const document = parseIndex(await readBlob(client.content, context, index), MediaType.ociIndex);
  const wanted: { name: string; target: Descriptor }[] = [];
  if (options.indexName !== undefined && options.indexName !== "")
    wanted.push({ name: options.indexName, target: index });
  for (const { mediaType, digest, size, annotations, platform } of document.manifests) {
    if (!isManifestType(mediaType) && !isIndexType(mediaType)) continue;
    if (platform !== undefined && options.platforms?.match(normalizePlatform(platform)) === false) continue;
    const target = { mediaType, digest, size };
    const name = nameOf(annotations ?? {}, options.baseName ?? "");
    if (name !== "") wanted.push({ name, target });
    const byDigest = options.digests === true && !(options.skipDigestForNamed === true && name !== "");
    if (byDigest && options.baseName !== undefined) wanted.push({ name: `${options.baseName}@${digest}`, target });
  }
  const images: Image[] = [];
  for (const { name, target } of wanted)
    images.push(await putImage({ client, context }, { name, target }, options.labels ?? {}));
  return images;
}

function nameOf(annotations: Readonly<Record<string, string>>, base: string): string {
  const full = annotations[Annotation.imageName];
  if (full !== undefined && full !== "") return full;
  const ref = annotations[Annotation.refName];
  if (ref === undefined || ref === "") return "";
  if (base !== "") return `${base}:${ref}`;
  // Without a base, only a ref that is a whole reference is a name.
  return ref.includes("/") || ref.includes(":") ? ref : "";
}

async function putImage(
  { client, context }: { readonly client: ImageBackend; readonly context: RequestContext },
  image: { readonly name: string; readonly target: Descriptor },
  labels: Readonly<Record<string, string>>,
): Promise<Image> {
  try {
    return await client.images.create(context, { ...image, labels });
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
    const fields = ["target", ...Object.keys(labels).map((key) => `labels.${key}`)];
    return client.images.update(context, { ...image, labels }, fields);
  }
}
