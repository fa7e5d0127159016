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
  const matcher: PlatformMatcher =
    platforms.length === 0 ? allPlatforms : ordered(platforms.map((each) => normalizePlatform(each)));
  const matches = ({ platform }: OciDescriptor): boolean =>
    platform === undefined || matcher.match(normalizePlatform(platform));
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

function rank(matcher: PlatformMatcher, a: OciDescriptor, b: OciDescriptor): number {
  // What names no platform is taken last.
  if (a.platform === undefined || b.platform === undefined) {
    return Number(a.platform === undefined) - Number(b.platform === undefined);
  }
  return matcher.compare(normalizePlatform(a.platform), normalizePlatform(b.platform));
}
