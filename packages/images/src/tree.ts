/** Images as trees of blobs: reading documents, choosing a platform's manifest, measuring. */
import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { ContentStore, Descriptor } from "@stevedore/core";
import {
  childrenOf,
  configPlatform,
  type ImageConfig,
  MAX_DOCUMENT_SIZE,
  type Manifest,
  type Descriptor as OciDescriptor,
  parseImageConfig,
  parseIndex,
  parseManifest,
  parseManifestOrIndex,
} from "@stevedore/oci/manifest";
import { isConfigType, isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { formatPlatformAll, normalizePlatform, type Platform, type PlatformMatcher } from "@stevedore/oci/platform";

/** Indexes inside indexes that are followed. Real images have one; deeper nesting is an attack. */
const MAX_INDEX_DEPTH = 8;

/** A whole blob. @throws not-found; invalid-argument for one above `limit` bytes */
export async function readBlob(
  content: ContentStore,
  context: RequestContext,
  { digest, limit = MAX_DOCUMENT_SIZE }: { readonly digest: string; readonly limit?: number },
): Promise<Uint8Array> {
  const whole = await content.readWhole?.(context, digest, limit);
  if (whole !== undefined) return whole;
  await using reader = await content.open(context, digest);
  if (reader.size > limit) {
    throw classified(
      "invalid-argument",
      `read blob ${digest}: ${reader.size} bytes are more than ${limit}: invalid argument`,
    );
  }
  return await reader.readAt(0, reader.size);
}

/** A descriptor of an image with its platform, where the index names one. */
export type ImageDescriptor = Descriptor & { readonly platform?: Platform };

export function toImageDescriptor(descriptor: OciDescriptor): ImageDescriptor {
  const { mediaType, digest, size, annotations, platform } = descriptor;
  return {
    mediaType,
    digest,
    size,
    ...(annotations === undefined ? {} : { annotations }),
    ...(platform === undefined ? {} : { platform }),
  };
}

/** The blobs a blob points at; none for layers and configs. @throws not-found when the document is missing */
export async function childBlobs(
  content: ContentStore,
  context: RequestContext,
  of: Descriptor,
): Promise<readonly ImageDescriptor[]> {
  if (!isManifestType(of.mediaType) && !isIndexType(of.mediaType)) return [];
  const bytes = await readBlob(content, context, of);
  return childrenOf(parseManifestOrIndex(bytes, of.mediaType)).map(toImageDescriptor);
}

export interface PlatformManifest {
  readonly descriptor: ImageDescriptor;
  readonly manifest: Manifest;
  readonly config: ImageConfig;
  readonly platform: Platform;
}

/**
 * Every manifest below `target` that matches, best first. Manifests whose blobs are not there are left out, since images
 * are often kept for one platform only.
 */
export async function matchingManifests(
  content: ContentStore,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): Promise<PlatformManifest[]> {
  const found: PlatformManifest[] = [];
  await collect({ content, context, matcher: of.matcher, found }, { descriptor: of.target, depth: 0 });
  return found.sort((a, b) => of.matcher.compare(a.platform, b.platform));
}

interface Collecting {
  readonly content: ContentStore;
  readonly context: RequestContext;
  readonly matcher: PlatformMatcher;
  readonly found: PlatformManifest[];
}

async function collect(
  of: Collecting,
  at: { readonly descriptor: ImageDescriptor; readonly depth: number },
): Promise<void> {
  const { content, context, matcher, found } = of;
  const { descriptor, depth } = at;
  if (depth > MAX_INDEX_DEPTH) {
    throw classified(
      "invalid-argument",
      `read image ${descriptor.digest}: more than ${MAX_INDEX_DEPTH} nested indexes`,
    );
  }
  let bytes: Uint8Array;
  try {
    bytes = await readBlob(content, context, descriptor);
  } catch (error) {
    if (depth > 0 && isErrorClass(error, "not-found")) return;
    throw error;
  }
  if (isManifestType(descriptor.mediaType)) {
    if (descriptor.platform !== undefined && !matcher.match(normalizePlatform(descriptor.platform))) return;
    const manifest = parseManifest(bytes, descriptor.mediaType);
    if (!isConfigType(manifest.config.mediaType)) return;
    let config: ImageConfig;
    try {
      config = parseImageConfig(await readBlob(content, context, manifest.config));
    } catch (error) {
      if (depth > 0 && isErrorClass(error, "not-found")) return;
      throw error;
    }
    const platform = normalizePlatform(descriptor.platform ?? configPlatform(config));
    if (matcher.match(platform)) found.push({ descriptor, manifest, config, platform });
    return;
  }
  for (const child of parseIndex(bytes, descriptor.mediaType).manifests) {
    await collect(of, { descriptor: toImageDescriptor(child), depth: depth + 1 });
  }
}

/** The best manifest. @throws not-found when none matches */
export async function platformManifest(
  content: ContentStore,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): Promise<PlatformManifest> {
  const [best] = await matchingManifests(content, context, of);
  if (best === undefined) {
    throw classified("not-found", `no match for platform in manifest ${of.target.digest}: not found`);
  }
  return best;
}

/** Every platform an image is for, formatted, in order and once each. */
export async function imagePlatforms(
  content: ContentStore,
  context: RequestContext,
  target: Descriptor,
): Promise<string[]> {
  const all: string[] = [];
  const visit = async (descriptor: ImageDescriptor, depth: number): Promise<void> => {
    if (depth > MAX_INDEX_DEPTH) return;
    if (isManifestType(descriptor.mediaType)) {
      const platform = descriptor.platform ?? (await manifestPlatform(content, context, descriptor));
      if (platform !== undefined) all.push(formatPlatformAll(normalizePlatform(platform)));
      return;
    }
    for (const child of await childBlobs(content, context, descriptor)) await visit(child, depth + 1);
  };
  await visit(target, 0);
  return [...new Set(all)];
}

async function manifestPlatform(
  content: ContentStore,
  context: RequestContext,
  descriptor: Descriptor,
): Promise<Platform | undefined> {
  const manifest = parseManifest(await readBlob(content, context, descriptor), descriptor.mediaType);
  if (!isConfigType(manifest.config.mediaType)) return undefined;
  return configPlatform(parseImageConfig(await readBlob(content, context, manifest.config)));
}

/** Bytes of what a platform needs of an image: its indexes, the manifest, config and layers. */
export async function imageSize(
  content: ContentStore,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): Promise<number> {
  let total = 0;
  const visit = async (descriptor: ImageDescriptor, depth: number): Promise<void> => {
    total += descriptor.size;
    if (depth > MAX_INDEX_DEPTH) return;
    const children = await childBlobs(content, context, descriptor);
    if (isManifestType(descriptor.mediaType)) {
      for (const child of children) total += child.size;
      return;
    }
    const matching = children
      .filter((child) => child.platform === undefined || of.matcher.match(normalizePlatform(child.platform)))
      .sort((a, b) => compareByPlatform(of.matcher, a, b));
    const [best] = matching;
    if (best !== undefined) await visit(best, depth + 1);
  };
  await visit(of.target, 0);
  return total;
}

function compareByPlatform(matcher: PlatformMatcher, a: ImageDescriptor, b: ImageDescriptor): number {
  if (a.platform === undefined || b.platform === undefined) return 0;
  return matcher.compare(normalizePlatform(a.platform), normalizePlatform(b.platform));
}
