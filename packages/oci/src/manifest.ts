import { classified } from "@stevedore/base";
import {
  type Check,
  expectConforming,
  isAnything,
  isCount,
  isSafeInteger,
  isString,
  listOf,
  optional,
  recordOf,
  shape,
  withoutNulls,
} from "./json-check.ts";
import { isJsonObject, type JsonObject, parseJson } from "./json-lossless.ts";
import { isIndexType, isManifestType } from "./media-types.ts";
import type { Platform } from "./platform.ts";

/** Points at a blob. Unknown fields are dropped by the parsers here; to pass a document on, pass its bytes. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  readonly urls?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  /** The blob itself, base64. */
  readonly data?: string;
  readonly platform?: Platform;
  readonly artifactType?: string;
}

/** An image manifest. */
export interface Manifest {
  readonly schemaVersion: number;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** An image index or Docker manifest list. */
export interface Index {
  readonly schemaVersion: number;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly manifests: readonly Descriptor[];
  readonly subject?: Descriptor;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** The part of an image config that tells how to run it. */
export interface RunConfig {
  readonly User?: string;
  readonly ExposedPorts?: Readonly<Record<string, unknown>>;
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Volumes?: Readonly<Record<string, unknown>>;
  readonly WorkingDir?: string;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly StopSignal?: string;
  readonly ArgsEscaped?: unknown;
}

/** How one layer came to be. */
export interface HistoryEntry {
  readonly created?: string;
  readonly created_by?: string;
  readonly author?: string;
  readonly comment?: string;
  readonly empty_layer?: unknown;
}

/** An image config, with the spec's own key names. */
export interface ImageConfig {
  readonly created?: string;
  readonly author?: string;
  readonly architecture: string;
  readonly os: string;
  readonly variant?: string;
  readonly "os.version"?: string;
  readonly "os.features"?: readonly string[];
  readonly config?: RunConfig;
  readonly rootfs: { readonly type: string; readonly diff_ids: readonly string[] };
  readonly history?: readonly HistoryEntry[];
}

/** Most bytes of a manifest, index or config that are read: containerd's limit. */
export const MAX_DOCUMENT_SIZE = 8 << 20;

/** Most layers or manifests of one document. 127 layers can be mounted; indexes have some dozens of entries. */
const MAX_ENTRIES = 10_000;

/**
 * Reads an image manifest.
 *
 * @param mediaType what the descriptor said: it must be a manifest's, and the document must not look like anything else
 * (CVE-2021-41190: one blob read as manifest by one client and as index by another).
 * @throws invalid-argument
 */
export function parseManifest(bytes: Uint8Array, mediaType: string): Manifest {
  if (!isManifestType(mediaType)) throw unexpected(mediaType);
  const document = parseDocument(bytes, mediaType);
  const found = expectConforming<ManifestDocument>(document, "manifest", MANIFEST);
  const layers = (found.layers ?? []).map(toDescriptor);
  return {
    schemaVersion: found.schemaVersion ?? 0,
    ...pick(found, "mediaType", "artifactType", "annotations"),
    config: toDescriptor(found.config),
    layers,
    ...(found.subject === undefined ? {} : { subject: toDescriptor(found.subject) }),
  };
}

/** Reads an image index or a Docker manifest list; see {@link parseManifest}. */
export function parseIndex(bytes: Uint8Array, mediaType: string): Index {
  if (!isIndexType(mediaType)) throw unexpected(mediaType);
  const document = parseDocument(bytes, mediaType);
  const found = expectConforming<IndexDocument>(document, "index", INDEX);
  return {
    schemaVersion: found.schemaVersion ?? 0,
    ...pick(found, "mediaType", "artifactType", "annotations"),
    manifests: (found.manifests ?? []).map(toDescriptor),
    ...(found.subject === undefined ? {} : { subject: toDescriptor(found.subject) }),
  };
}

/** Reads an image config. @throws invalid-argument */
export function parseImageConfig(bytes: Uint8Array): ImageConfig {
  const document = withoutNulls(parseJson(bytes, { maxSize: MAX_DOCUMENT_SIZE }));
  const found = expectConforming<ConfigDocument>(document, "image config", CONFIG);
  return {
    ...found,
    architecture: found.architecture ?? "",
    os: found.os ?? "",
    rootfs: { type: found.rootfs?.type ?? "", diff_ids: found.rootfs?.diff_ids ?? [] },
  };
}

/** The platform an image config was made for. */
export function configPlatform(config: ImageConfig): Platform {
  const { os, architecture, variant, "os.version": osVersion, "os.features": osFeatures } = config;
  return {
    os,
    architecture,
    ...(variant === undefined ? {} : { variant }),
    ...(osVersion === undefined ? {} : { osVersion }),
    ...(osFeatures === undefined ? {} : { osFeatures }),
  };
}

/** The blobs a manifest or index points at, in containerd's order: config, then layers; or the manifests. */
export function childrenOf(document: Manifest | Index): readonly Descriptor[] {
  return "manifests" in document ? document.manifests : [document.config, ...document.layers];
}

/**
 * Reads a document of either kind by its descriptor's media type.
 *
 * @throws invalid-argument; not-found for any other media type, as the peer answers.
 */
export function parseManifestOrIndex(bytes: Uint8Array, mediaType: string): Manifest | Index {
  if (isManifestType(mediaType)) return parseManifest(bytes, mediaType);
  if (isIndexType(mediaType)) return parseIndex(bytes, mediaType);
  throw unexpected(mediaType);
}

/**
 * Refuses documents that could be read as something else than `mediaType` says.
 *
 * @throws invalid-argument "media-type: …" in the peer's words.
 */
export function validateMediaType(document: JsonObject, mediaType: string): void {
  // Go's decoder ignores case, so that another spelling would be a field for it and none for us.
  for (const key of Object.keys(document)) {
    const meant = TELLING_KEYS.get(key.toLowerCase());
    if (meant !== undefined && meant !== key) {
      throw classified("invalid-argument", `media-type: ambiguous field ${JSON.stringify(key)}`);
    }
  }
  const has = (key: string): boolean => isFilled(document[key]);
  const own = typeof document["mediaType"] === "string" ? document["mediaType"] : "";
  if (has("fsLayers")) throw classified("invalid-argument", "media-type: schema 1 not supported");
  if (isManifestType(mediaType) && (has("manifests") || isIndexType(own))) {
    throw classified("invalid-argument", `media-type: expected manifest but found index (${mediaType})`);
  }
  if (isIndexType(mediaType) && (has("config") || has("layers") || isManifestType(own))) {
    throw classified("invalid-argument", `media-type: expected index but found manifest (${mediaType})`);
  }
}

/** Fields that tell one kind of document from another, by their lower-case spelling. */
const TELLING_KEYS: ReadonlyMap<string, string> = new Map(
  ["mediaType", "config", "layers", "manifests", "fsLayers"].map((key) => [key.toLowerCase(), key]),
);

/** The peer counts any value that is there, also null and empty ones. */
function isFilled(value: unknown): boolean {
  return value !== undefined;
}

function parseDocument(bytes: Uint8Array, mediaType: string): unknown {
  const document = parseJson(bytes, { maxSize: MAX_DOCUMENT_SIZE });
  if (!isJsonObject(document)) throw classified("invalid-argument", `read ${mediaType}: found no json object`);
  validateMediaType(document, mediaType);
  return withoutNulls(document);
}

function unexpected(mediaType: string): Error {
  return classified("not-found", `unexpected media type ${mediaType}: not found`);
}

interface PlatformDocument {
  readonly os?: string;
  readonly architecture?: string;
  readonly variant?: string;
  readonly "os.version"?: string;
  readonly "os.features"?: readonly string[];
}

interface DescriptorDocument {
  readonly mediaType?: string;
  readonly digest: string;
  readonly size: number;
  readonly urls?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly data?: string;
  readonly platform?: PlatformDocument;
  readonly artifactType?: string;
}

interface ManifestDocument {
  readonly schemaVersion?: number;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly config: DescriptorDocument;
  readonly layers?: readonly DescriptorDocument[];
  readonly subject?: DescriptorDocument;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface IndexDocument {
  readonly schemaVersion?: number;
  readonly mediaType?: string;
  readonly artifactType?: string;
  readonly manifests?: readonly DescriptorDocument[];
  readonly subject?: DescriptorDocument;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface ConfigDocument extends Omit<ImageConfig, "architecture" | "os" | "rootfs"> {
  readonly architecture?: string;
  readonly os?: string;
  readonly rootfs?: { readonly type?: string; readonly diff_ids?: readonly string[] };
}

const text = optional(isString);
const texts = optional(limited(listOf(isString)));
const textMap = optional(recordOf(isString));

function limited(check: Check): Check {
  return (value, path) =>
    Array.isArray(value) && value.length > MAX_ENTRIES
      ? `${path}: found ${value.length} entries, want at most ${MAX_ENTRIES}`
      : check(value, path);
}

const PLATFORM = shape<PlatformDocument>({
  os: text,
  architecture: text,
  variant: text,
  "os.version": text,
  "os.features": texts,
});

const DESCRIPTOR = shape<DescriptorDocument>({
  mediaType: text,
  digest: isString,
  size: isCount,
  urls: texts,
  annotations: textMap,
  data: text,
  platform: optional(PLATFORM),
  artifactType: text,
});

const MANIFEST = shape<ManifestDocument>({
  schemaVersion: optional(isSafeInteger),
  mediaType: text,
  artifactType: text,
  config: DESCRIPTOR,
  layers: optional(limited(listOf(DESCRIPTOR))),
  subject: optional(DESCRIPTOR),
  annotations: textMap,
});

const INDEX = shape<IndexDocument>({
  schemaVersion: optional(isSafeInteger),
  mediaType: text,
  artifactType: text,
  manifests: optional(limited(listOf(DESCRIPTOR))),
  subject: optional(DESCRIPTOR),
  annotations: textMap,
});

const CONFIG = shape<ConfigDocument>({
  created: text,
  author: text,
  architecture: text,
  os: text,
  variant: text,
  "os.version": text,
  "os.features": texts,
  config: optional(
    shape<RunConfig>({
      User: text,
      ExposedPorts: optional(recordOf(isAnything)),
      Env: texts,
      Entrypoint: texts,
      Cmd: texts,
      Volumes: optional(recordOf(isAnything)),
      WorkingDir: text,
      Labels: textMap,
      StopSignal: text,
      ArgsEscaped: isAnything,
    }),
  ),
  rootfs: optional(shape<{ type?: string; diff_ids?: readonly string[] }>({ type: text, diff_ids: texts })),
  history: optional(
    limited(
      listOf(
        shape<HistoryEntry>({ created: text, created_by: text, author: text, comment: text, empty_layer: isAnything }),
      ),
    ),
  ),
});

function toDescriptor(found: DescriptorDocument): Descriptor {
  const { platform } = found;
  return {
    mediaType: found.mediaType ?? "",
    digest: found.digest,
    size: found.size,
    ...pick(found, "urls", "annotations", "data", "artifactType"),
    ...(platform === undefined ? {} : { platform: toPlatform(platform) }),
  };
}

function toPlatform(found: PlatformDocument): Platform {
  const { "os.version": osVersion, "os.features": osFeatures } = found;
  return {
    os: found.os ?? "",
    architecture: found.architecture ?? "",
    ...pick(found, "variant"),
    ...(osVersion === undefined ? {} : { osVersion }),
    ...(osFeatures === undefined ? {} : { osFeatures }),
  };
}

/** Only these keys, and only those that are there. */
function pick<T extends object, K extends keyof T>(from: T, ...keys: readonly K[]): Partial<Pick<T, K>> {
  const made: Partial<Pick<T, K>> = {};
  for (const key of keys) if (from[key] !== undefined) made[key] = from[key];
  return made;
}
