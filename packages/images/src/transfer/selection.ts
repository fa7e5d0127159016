import { classified } from "@stevedore/base";
import type { TransferStore } from "@stevedore/core";
import type { Descriptor as OciDescriptor } from "@stevedore/oci/manifest";
import { isConfigType, isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { allPlatforms, normalizePlatform, ordered, type PlatformMatcher } from "@stevedore/oci/platform";

/** Which children of a document a transfer into the store goes on with. */
export interface Selection {
  (parent: OciDescriptor, children: readonly OciDescriptor[]): readonly OciDescriptor[];
}

/** What the store's description asks for: its platforms, their metadata, and at most so many manifests. */
export function selectionOf({
  platforms,
  allMetadata,
  manifestLimit,
}: Pick<TransferStore, "platforms" | "allMetadata" | "manifestLimit">): Selection {
  const matcher = platformsOf({ platforms });
  const matches = (child: OciDescriptor): boolean => isFor(matcher, child);
  return (parent, children) => {
    const foreign = allMetadata && isManifestType(parent.mediaType) && !matches(parent);
    // A manifest that is named twice is the one that is wanted whole.
    const wanted = new Set(children.filter(matches).map(({ digest }) => digest));
    const kept = foreign
      ? children.filter(({ mediaType }) => isConfigType(mediaType))
      : children.filter((child) => matches(child) || (allMetadata && !wanted.has(child.digest)));
    if (manifestLimit === 0 || !isIndexType(parent.mediaType)) return kept;
    return kept.toSorted((a, b) => rank(matcher, a, b)).slice(0, manifestLimit);
  };
}

function platformsOf({ platforms }: Pick<TransferStore, "platforms">): PlatformMatcher {
  return platforms.length === 0 ? allPlatforms : ordered(platforms.map((each) => normalizePlatform(each)));
}

function isFor(matcher: PlatformMatcher, { platform }: OciDescriptor): boolean {
  return platform === undefined || matcher.match(normalizePlatform(platform));
}

/**
 * The same, where the top of the image must have something for the platforms that are wanted.
 *
 * @throws not-found, in containerd's words, when an index at the top has nothing for them
 */
export function someOf(store: TransferStore, top: { readonly digest: string }): Selection {
  const select = selectionOf(store);
  const matcher = platformsOf(store);
  return (parent, children) => {
    const isTop = parent.digest === top.digest && isIndexType(parent.mediaType);
    if (
      isTop &&
      store.documentsOnly !== true &&
      children.length > 0 &&
      !children.some((child) => isFor(matcher, child))
    ) {
      throw classified("not-found", `no match for platform in manifest ${parent.digest}: not found`);
    }
    return select(parent, children);
  };
}

function rank(matcher: PlatformMatcher, a: OciDescriptor, b: OciDescriptor): number {
  // What names no platform is taken last.
  if (a.platform === undefined || b.platform === undefined) {
    return Number(a.platform === undefined) - Number(b.platform === undefined);
  }
  return matcher.compare(normalizePlatform(a.platform), normalizePlatform(b.platform));
}
