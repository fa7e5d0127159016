import type { Descriptor } from "@stevedore/core";
import { Annotation } from "@stevedore/oci/annotations";
import { isIndexType, isKnownConfig, isLayerType, isManifestType } from "@stevedore/oci/media-types";

/** The ref under which a blob is ingested, and its name in progress: containerd's, so that either goes on with the other's. */
export function refKey({ mediaType, digest, annotations }: Descriptor): string {
  const name = annotations?.[Annotation.refName];
  const key = name === undefined ? digest : `${name}@${digest}`;
  if (isManifestType(mediaType)) return `manifest-${key}`;
  if (isIndexType(mediaType)) return `index-${key}`;
  if (isLayerType(mediaType)) return `layer-${key}`;
  if (isKnownConfig(mediaType)) return `config-${key}`;
  return `unknown-${key}`;
}
