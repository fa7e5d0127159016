import { isKnownConfig, isLayerType, isManifestType } from "./media-types.ts";

/** Annotations of the OCI image specification that containerd reads or writes. */
export const Annotation = {
  refName: "org.opencontainers.image.ref.name",
  created: "org.opencontainers.image.created",
  title: "org.opencontainers.image.title",
  version: "org.opencontainers.image.version",
  revision: "org.opencontainers.image.revision",
  baseDigest: "org.opencontainers.image.base.digest",
  baseName: "org.opencontainers.image.base.name",
  /** Image name inside an archive made by `ctr images export`. */
  imageName: "io.containerd.image.name",
  /** Set by referrers support: the digest a manifest refers to. */
  manifestSubject: "io.containerd.manifest.subject",
} as const;

/** Names of labels that containerd and its clients give meaning to. They are part of the interface. */
export const Label = {
  /** Prefix of all labels that steer garbage collection. */
  gcPrefix: "containerd.io/gc.",
  /** Keeps an object alive by itself; the value is a time. */
  gcRoot: "containerd.io/gc.root",
  /** Prefix, then optionally `.<n>` or `/<n>`: keeps the content named by the value. */
  gcRefContent: "containerd.io/gc.ref.content",
  gcRefContentConfig: "containerd.io/gc.ref.content.config",
  /** Followed by the layer's or manifest's index. */
  gcRefContentLayer: "containerd.io/gc.ref.content.l.",
  gcRefContentManifest: "containerd.io/gc.ref.content.m.",
  gcRefContentReferrer: "containerd.io/gc.ref.content.referrer.sha256.",
  /** Followed by a snapshotter's name: keeps the snapshot named by the value. */
  gcRefSnapshot: "containerd.io/gc.ref.snapshot.",
  gcRefImage: "containerd.io/gc.ref.image",
  /** On a lease: it holds only what is named in it, not what that refers to. */
  gcFlat: "containerd.io/gc.flat",
  /** On a lease: RFC 3339 time after which it is void. */
  gcExpire: "containerd.io/gc.expire",
  gcBackRefContent: "containerd.io/gc.bref.content.",
  gcBackRefImage: "containerd.io/gc.bref.image.",
  /** Followed by a registry host: repositories a blob was fetched from, comma-separated. */
  distributionSource: "containerd.io/distribution.source.",
  /** On compressed content: the digest of the unpacked tar. */
  uncompressed: "containerd.io/uncompressed",
  /** On a snapshot: name of the image layer it was unpacked from; read by remote snapshotters. */
  snapshotRef: "containerd.io/snapshot.ref",
  /** On a namespace: defaults for its clients. */
  defaultRuntime: "containerd.io/defaults/runtime",
  defaultSnapshotter: "containerd.io/defaults/snapshotter",
  defaultSandboxer: "containerd.io/defaults/sandboxer",
  sharedNamespace: "containerd.io/namespace.shareable",
  imageManifestDigest: "io.containerd.manifest-digest",
  /** Prefix under which a container keeps its image's config labels that steer stopping. */
  imageStopSignal: "io.containerd.image.config.stop-signal",
  /** Read by the restart monitor. */
  restartStatus: "containerd.io/restart.status",
  restartLogUri: "containerd.io/restart.loguri",
  restartPolicy: "containerd.io/restart.policy",
  restartCount: "containerd.io/restart.count",
  restartExplicitlyStopped: "containerd.io/restart.explicitly-stopped",
} as const;

/** Label prefixes that only daemon and client code may set: values from images must never reach them. */
const RESERVED_PREFIXES: readonly string[] = ["containerd.io/", "io.containerd.", "io.cri-containerd", "stevedore."];

/** Whether a label key steers the daemon, so that an image's own labels must not set it. */
export function isReservedLabel(key: string): boolean {
  return RESERVED_PREFIXES.some((prefix) => key.startsWith(prefix));
}

/**
 * The label on a parent blob that keeps a child alive. One that ends in a dot gets the child's number behind it.
 *
 * @param annotations the child descriptor's.
 */
export function childGcLabel(mediaType: string, annotations: Readonly<Record<string, string>> = {}): string {
  if (annotations[Annotation.manifestSubject] !== undefined) return Label.gcRefContentReferrer;
  if (isKnownConfig(mediaType)) return Label.gcRefContentConfig;
  if (isManifestType(mediaType)) return Label.gcRefContentManifest;
  if (isLayerType(mediaType)) return Label.gcRefContentLayer;
  return `${Label.gcRefContent}.`;
}

/** The labels on a parent blob that keep its children alive: each child's digest, numbered where {@link childGcLabel} says so. */
export function childGcLabels(
  children: Iterable<{
    readonly mediaType: string;
    readonly digest: string;
    readonly annotations?: Readonly<Record<string, string>>;
  }>,
): Readonly<Record<string, string>> {
  const counts = new Map<string, number>();
  const labels: Record<string, string> = {};
  for (const { mediaType, digest, annotations } of children) {
    const key = childGcLabel(mediaType, annotations);
    const count = counts.get(key) ?? 0;
    counts.set(key, count + 1);
    labels[key.endsWith(".") ? `${key}${count}` : key] = digest;
  }
  return labels;
}
