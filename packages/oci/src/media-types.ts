import { classified } from "@stevedore/base";

/** Media types of the OCI image specification, of Docker's before it, and of containerd's own blobs. */
export const MediaType = {
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  ociLayerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  ociLayerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
  ociLayerNonDistributable: "application/vnd.oci.image.layer.nondistributable.v1.tar",
  ociLayerNonDistributableGzip: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
  ociLayerNonDistributableZstd: "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
  ociLayerEncrypted: "application/vnd.oci.image.layer.v1.tar+encrypted",
  ociLayerGzipEncrypted: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
  ociEmpty: "application/vnd.oci.empty.v1+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerManifestList: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayer: "application/vnd.docker.image.rootfs.diff.tar",
  dockerLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
  dockerLayerZstd: "application/vnd.docker.image.rootfs.diff.tar.zstd",
  dockerLayerForeign: "application/vnd.docker.image.rootfs.foreign.diff.tar",
  dockerLayerForeignGzip: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
  dockerSchema1Manifest: "application/vnd.docker.distribution.manifest.v1+prettyjws",
  checkpoint: "application/vnd.containerd.container.criu.checkpoint.criu.tar",
  checkpointPreDump: "application/vnd.containerd.container.criu.checkpoint.predump.tar",
  checkpointResource: "application/vnd.containerd.container.resource.tar",
  checkpointRw: "application/vnd.containerd.container.rw.tar",
  checkpointConfig: "application/vnd.containerd.container.checkpoint.config.v1+proto",
  checkpointOptions: "application/vnd.containerd.container.checkpoint.options.v1+proto",
  checkpointRuntimeName: "application/vnd.containerd.container.checkpoint.runtime.name",
  checkpointRuntimeOptions: "application/vnd.containerd.container.checkpoint.runtime.options+proto",
  erofsLayer: "application/vnd.erofs.layer.v1",
  inToto: "application/vnd.in-toto+json",
} as const;

/** Manifests of OCI and Docker. */
export function isManifestType(mediaType: string): boolean {
  return mediaType === MediaType.ociManifest || mediaType === MediaType.dockerManifest;
}

/** Indexes of OCI and Docker. */
export function isIndexType(mediaType: string): boolean {
  return mediaType === MediaType.ociIndex || mediaType === MediaType.dockerManifestList;
}

/** Image configs of OCI and Docker. */
export function isConfigType(mediaType: string): boolean {
  return mediaType === MediaType.ociConfig || mediaType === MediaType.dockerConfig;
}

/** Image configs, and those of containerd's checkpoints: blobs without children. */
export function isKnownConfig(mediaType: string): boolean {
  return isConfigType(mediaType) || mediaType === MediaType.checkpoint || mediaType === MediaType.checkpointConfig;
}

const LAYER_BASES: ReadonlySet<string> = new Set([
  MediaType.dockerLayer,
  MediaType.dockerLayerGzip,
  MediaType.dockerLayerZstd,
  MediaType.dockerLayerForeign,
  MediaType.dockerLayerForeignGzip,
  MediaType.erofsLayer,
]);

/** Layers of OCI and Docker, packed or not. */
export function isLayerType(mediaType: string): boolean {
  return mediaType.startsWith("application/vnd.oci.image.layer.") || LAYER_BASES.has(split(mediaType).base);
}

/** Layers that may not be pushed to other registries. */
export function isNonDistributable(mediaType: string): boolean {
  return (
    mediaType.startsWith("application/vnd.oci.image.layer.nondistributable.") ||
    mediaType.startsWith("application/vnd.docker.image.rootfs.foreign.")
  );
}

/** Types of Docker, before OCI. */
export function isDockerType(mediaType: string): boolean {
  return mediaType.startsWith("application/vnd.docker.");
}

/** How a layer's tar is packed. `unknown` is Docker's plain type, which in practice may hold gzip: look at the bytes. */
export type Compression = "none" | "gzip" | "zstd" | "unknown";

/**
 * The compression a layer's media type promises. A wrapped type (`+encrypted`) says none.
 *
 * @throws not-implemented for what is no tar layer.
 */
export function diffCompression(mediaType: string): Compression {
  const { base, suffixes } = split(mediaType);
  switch (base) {
    case MediaType.dockerLayer:
    case MediaType.dockerLayerForeign:
      return suffixes.length > 0 ? "none" : "unknown";
    case MediaType.dockerLayerGzip:
    case MediaType.dockerLayerForeignGzip:
      return suffixes.length > 0 ? "none" : "gzip";
    case MediaType.dockerLayerZstd:
      return suffixes.length > 0 ? "none" : "zstd";
    case MediaType.ociLayer:
    case MediaType.ociLayerNonDistributable: {
      const last = suffixes.toSorted().at(-1);
      return last === "gzip" || last === "zstd" ? last : "none";
    }
    default:
      throw classified("not-implemented", `unrecognised mediatype ${mediaType}: not implemented`);
  }
}

/** Suffixes of a media type that are looked at; real ones have at most two. */
const MAX_SUFFIXES = 50;

function split(mediaType: string): { readonly base: string; readonly suffixes: readonly string[] } {
  const [base = "", ...suffixes] = mediaType.split("+", MAX_SUFFIXES);
  return { base, suffixes };
}
