/** Writes images as an archive: an OCI layout with docker's manifest.json beside it, as `ctr images export` does. */
import { classified, encodeText, isErrorClass, type RequestContext } from "@stevedore/base";
import type { Descriptor } from "@stevedore/core";
import { Annotation } from "@stevedore/oci/annotations";
import { familiarName, parseDockerReference } from "@stevedore/oci/docker-reference";
import { parseManifest } from "@stevedore/oci/manifest";
import { isIndexType, isManifestType, isNonDistributable } from "@stevedore/oci/media-types";
import { normalizePlatform, type PlatformMatcher } from "@stevedore/oci/platform";
import { encodeTarHeader, TAR_END, tarPadding } from "@stevedore/oci/tar/index";
import type { ImageBackend } from "./backend.ts";
import { childBlobs, type ImageDescriptor, matchingManifests, readBlob } from "./tree.ts";

export interface ExportOptions {
  readonly images: readonly { readonly name: string; readonly target: Descriptor }[];
  /** Manifests of these platforms are exported. */
  readonly matcher: PlatformMatcher;
  /** Keep indexes whole and fail when a blob of any platform is missing. */
  readonly allPlatforms: boolean;
  /** Leave docker's manifest.json out. */
  readonly skipManifestJson?: boolean;
  readonly skipNonDistributable?: boolean;
  /** Takes the archive in order. */
  readonly write: (bytes: Uint8Array) => Promise<void> | void;
}

/** Bytes of a blob read at once. */
const CHUNK = 1024 * 1024;

interface IndexEntry extends ImageDescriptor {
  readonly annotations: Readonly<Record<string, string>>;
}

/** @throws not-found when a blob that belongs into the archive is not there */
export async function exportArchive(
  client: ImageBackend,
  context: RequestContext,
  options: ExportOptions,
): Promise<void> {
  const blobs = new Map<string, Descriptor>();
  const entries: IndexEntry[] = [];
  for (const { name, target } of options.images) {
    await collectBlobs({ client, context, options, blobs }, target);
    entries.push({ ...target, annotations: { ...target.annotations, ...nameAnnotations(name) } });
  }
  const documents: readonly (readonly [name: string, bytes: Uint8Array, mode: number])[] = [
    ["index.json", encodeText(JSON.stringify(indexDocument(entries))), 0o644],
    ...(options.skipManifestJson === true ? [] : await dockerDocument({ client, context, options, blobs })),
    ["oci-layout", encodeText(JSON.stringify({ imageLayoutVersion: "1.0.0" })), 0o444],
  ];
  const { write } = options;
  await write(encodeTarHeader({ type: "directory", name: "blobs/", mode: 0o755 }));
  await write(encodeTarHeader({ type: "directory", name: "blobs/sha256/", mode: 0o755 }));
  for (const digest of [...blobs.keys()].sort()) await writeBlob({ client, context, write }, digest);
  for (const [name, bytes, mode] of documents) {
    await write(encodeTarHeader({ type: "file", name, mode, size: bytes.byteLength }));
    await write(bytes);
    await write(tarPadding(bytes.byteLength));
  }
  await write(TAR_END);
}

function nameAnnotations(name: string): Record<string, string> {
  if (name === "") return {};
  let tag: string | undefined;
  try {
    ({ tag } = parseDockerReference(name));
  } catch (error) {
    // Names that docker would refuse are kept whole.
    if (!isErrorClass(error, "invalid-argument")) throw error;
  }
  return { [Annotation.imageName]: name, [Annotation.refName]: tag ?? name };
}

function indexDocument(entries: readonly IndexEntry[]): object {
  return {
    schemaVersion: 2,
    manifests: entries.map(({ mediaType, digest, size, annotations }) => ({ mediaType, digest, size, annotations })),
  };
}

interface Collecting {
  readonly client: ImageBackend;
  readonly context: RequestContext;
  readonly options: ExportOptions;
  readonly blobs: Map<string, Descriptor>;
}

async function collectBlobs(of: Collecting, descriptor: ImageDescriptor): Promise<void> {
  const { client, context, options, blobs } = of;
  if (blobs.has(descriptor.digest)) return;
  if (options.skipNonDistributable === true && isNonDistributable(descriptor.mediaType)) return;
  blobs.set(descriptor.digest, descriptor);
  if (!isManifestType(descriptor.mediaType) && !isIndexType(descriptor.mediaType)) return;
  for (const child of await childBlobs(client.content, context, descriptor)) {
    const unwanted = child.platform !== undefined && !options.matcher.match(normalizePlatform(child.platform));
    if (!options.allPlatforms && unwanted) continue;
    await collectBlobs(of, child);
  }
}

async function writeBlob(
  { client, context, write }: Pick<Collecting, "client" | "context"> & Pick<ExportOptions, "write">,
  digest: string,
): Promise<void> {
  const [algorithm = "", hex = ""] = digest.split(":");
  await using reader = await client.content.open(context, digest);
  await write(encodeTarHeader({ type: "file", name: `blobs/${algorithm}/${hex}`, mode: 0o444, size: reader.size }));
  for (let at = 0; at < reader.size; ) {
    const bytes = await reader.readAt(at, Math.min(CHUNK, reader.size - at));
    if (bytes.byteLength === 0)
      throw classified("data-loss", `export ${digest}: the blob ended at ${at} of ${reader.size} bytes`);
    await write(bytes);
    at += bytes.byteLength;
  }
  await write(tarPadding(reader.size));
}

/** Docker's manifest.json: one entry for each image's best manifest. */
async function dockerDocument(of: Collecting): Promise<[name: string, bytes: Uint8Array, mode: number][]> {
  const { client, context, options } = of;
  const images = new Map<string, { Config: string; RepoTags: string[] | null; Layers: string[] }>();
  for (const { name, target } of options.images) {
    const [best] = await matchingManifests(client.content, context, { target, matcher: options.matcher });
    if (best === undefined) continue;
    const bytes = await readBlob(client.content, context, best.descriptor);
    const { config, layers } = parseManifest(bytes, best.descriptor.mediaType);
    const entry = images.get(best.descriptor.digest) ?? {
      Config: blobPath(config.digest),
      RepoTags: null,
      Layers: layers.map(({ digest }) => blobPath(digest)),
    };
    const tag = dockerTag(name);
    if (tag !== undefined) entry.RepoTags = [...(entry.RepoTags ?? []), tag];
    images.set(best.descriptor.digest, entry);
  }
  if (images.size === 0) return [];
  return [["manifest.json", encodeText(JSON.stringify([...images.values()])), 0o644]];
}

function blobPath(digest: string): string {
  return `blobs/${digest.replace(":", "/")}`;
}

function dockerTag(name: string): string | undefined {
  try {
    const reference = parseDockerReference(name);
    return reference.tag === undefined ? undefined : familiarName(reference);
  } catch (error) {
    if (isErrorClass(error, "invalid-argument")) return undefined;
    throw error;
  }
}
