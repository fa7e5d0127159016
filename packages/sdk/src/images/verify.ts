/** Whether the blobs of an image are what their digests say. */
import { classified, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { ContentStore, Descriptor } from "@stevedore/core";
import { Digester, parseDigest } from "@stevedore/oci/digest";
import { childrenOf, configPlatform, parseImageConfig, parseManifestOrIndex } from "@stevedore/oci/manifest";
import { isConfigType, isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { normalizePlatform, type PlatformMatcher } from "@stevedore/oci/platform";
import { type ImageDescriptor, readBlob, toImageDescriptor } from "./tree.ts";

/** What was found of a blob. */
export type BlobState =
  | { readonly kind: "ok" }
  /** Not in the store. */
  | { readonly kind: "missing" }
  /** In the store, with other bytes; `reason` tells how they differ. */
  | { readonly kind: "damaged"; readonly reason: string };

export interface VerifiedBlob {
  readonly descriptor: ImageDescriptor;
  readonly state: BlobState;
}

/** Bytes read at a time. */
const PIECE = 1 << 20;
/** Documents inside documents that are followed. Real images have two. */
const MAX_DEPTH = 8;
/** Blobs of one image that are looked at. */
const MAX_BLOBS = 10_000;

/**
 * Reads every blob of an image that is there and compares it with its digest and size. Blobs of platforms that do not match are
 * looked at when they are there, and not missed when they are not.
 * @yields each blob once, documents before what they name
 */
export async function* verifyBlobs(
  content: ContentStore,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): AsyncGenerator<VerifiedBlob> {
  const seen = new Set<string>();
  const waiting: { descriptor: ImageDescriptor; depth: number; wanted: boolean }[] = [
    { descriptor: of.target, depth: 0, wanted: true },
  ];
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const { descriptor, depth, wanted } = next;
    if (seen.has(descriptor.digest)) continue;
    if (seen.size >= MAX_BLOBS) {
      throw classified(
        "resource-exhausted",
        `verify ${of.target.digest}: more than ${MAX_BLOBS} blobs: resource exhausted`,
      );
    }
    seen.add(descriptor.digest);
    const state = await verifyBlob(content, context, descriptor);
    if (state.kind === "missing" && !wanted) continue;
    yield { descriptor, state };
    if (state.kind !== "ok") continue;
    const children = await childrenIfAny(content, context, descriptor);
    if (children.length > 0 && depth >= MAX_DEPTH) {
      throw classified("invalid-argument", `verify ${of.target.digest}: more than ${MAX_DEPTH} nested documents`);
    }
    // A manifest whose platform only its config tells.
    const mine =
      wanted && (descriptor.platform !== undefined || !isManifestType(descriptor.mediaType))
        ? wanted
        : wanted && (await matchesByConfig(content, context, children, of.matcher));
    for (const child of children) {
      const matches = child.platform === undefined || of.matcher.match(normalizePlatform(child.platform));
      waiting.push({ descriptor: child, depth: depth + 1, wanted: mine && matches });
    }
  }
}

/** Compares one blob with its descriptor. @throws what the store throws, not-found excepted */
export async function verifyBlob(
  content: ContentStore,
  context: RequestContext,
  { digest, size }: Descriptor,
): Promise<BlobState> {
  try {
    const hash = new Digester(parseDigest(digest).algorithm);
    await using reader = await content.open(context, digest);
    if (reader.size !== size) {
      return { kind: "damaged", reason: `it has ${reader.size} bytes, its descriptor says ${size}` };
    }
    for (let at = 0; at < size; ) {
      const bytes = await reader.readAt(at, Math.min(PIECE, size - at));
      if (bytes.length === 0) return { kind: "damaged", reason: `it ends at byte ${at} of ${size}` };
      hash.update(bytes);
      at += bytes.length;
    }
    const found = hash.digest();
    return found === digest ? { kind: "ok" } : { kind: "damaged", reason: `its bytes have the digest ${found}` };
  } catch (error) {
    if (isErrorClass(error, "not-found")) return { kind: "missing" };
    throw error;
  }
}

async function childrenIfAny(
  content: ContentStore,
  context: RequestContext,
  of: ImageDescriptor,
): Promise<readonly ImageDescriptor[]> {
  if (!isManifestType(of.mediaType) && !isIndexType(of.mediaType)) return [];
  return childrenOf(parseManifestOrIndex(await readBlob(content, context, of), of.mediaType)).map(toImageDescriptor);
}

async function matchesByConfig(
  content: ContentStore,
  context: RequestContext,
  children: readonly ImageDescriptor[],
  matcher: PlatformMatcher,
): Promise<boolean> {
  const config = children.find(({ mediaType }) => isConfigType(mediaType));
  if (config === undefined) return true;
  try {
    return matcher.match(normalizePlatform(configPlatform(parseImageConfig(await readBlob(content, context, config)))));
  } catch (error) {
    if (isErrorClass(error, "not-found")) return true;
    // A config that cannot be read is told as a damaged blob when its turn comes, or is not an image's.
    return messageOf(error) !== "";
  }
}
