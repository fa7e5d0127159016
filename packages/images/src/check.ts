import type { RequestContext } from "@stevedore/base";
import type { ContentStore, Descriptor } from "@stevedore/core";
import type { PlatformMatcher } from "@stevedore/oci/platform";
import { hasBlob } from "./ingest.ts";
import { matchingManifests, toImageDescriptor } from "./tree.ts";

/** How much of what a platform needs of an image is there. Config and layers count, as in the peer. */
export interface BlobCheck {
  readonly required: number;
  readonly present: number;
  readonly missing: number;
  readonly requiredBytes: number;
  readonly presentBytes: number;
}

/** Counts the blobs of the best manifest of an image. Zero of everything when no manifest matches. */
export async function imageBlobs(
  content: ContentStore,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): Promise<BlobCheck> {
  const [best] = await matchingManifests(content, context, of);
  const blobs = best === undefined ? [] : [best.manifest.config, ...best.manifest.layers].map(toImageDescriptor);
  let present = 0;
  let presentBytes = 0;
  let requiredBytes = 0;
  for (const { digest, size } of blobs) {
    requiredBytes += size;
    if (!(await hasBlob(content, context, digest))) continue;
    present++;
    presentBytes += size;
  }
  return { required: blobs.length, present, missing: blobs.length - present, requiredBytes, presentBytes };
}
