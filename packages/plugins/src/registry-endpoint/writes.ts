/** What a push changes: manifests and the image records that keep them. */
import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { ContentStore, ImageStore, LeaseManager, NewImage } from "@stevedore/core";
import { childGcLabels, Label } from "@stevedore/oci/annotations";
import { digestOf, parseDigest } from "@stevedore/oci/digest";
import {
  childrenOf,
  type Descriptor,
  type Index,
  MAX_DOCUMENT_SIZE,
  type Manifest,
  parseManifestOrIndex,
} from "@stevedore/oci/manifest";
import { isIndexType, isManifestType, isNonDistributable } from "@stevedore/oci/media-types";
import { RegistryError } from "./answers.ts";
import type { ManifestReference } from "./route.ts";
import { UPLOAD_LIFE_MS } from "./uploads.ts";

export interface WriteStores {
  /** Of the daemon's service: changes are announced as events. */
  readonly images: ImageStore;
  readonly content: ContentStore;
  readonly leases: LeaseManager;
  /** Whether another namespace that is served has a blob, so that a client was told it is there. Absent: there is none. */
  readonly served?: (context: RequestContext, digest: string) => Promise<boolean>;
}

/** On the image that keeps a manifest which was pushed by its digest alone. */
const HELD = "stevedore.registry/held";

/** A manifest as it was pushed. */
export interface PushedManifest {
  /** The image's name without tag or digest: host and path. */
  readonly repository: string;
  readonly reference: ManifestReference;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

export interface StoredManifest {
  readonly digest: string;
  readonly subject?: string;
}

/**
 * Stores a manifest and names it. One that was pushed by its digest is kept by an image named so, until an index holds it.
 * @throws RegistryError MANIFEST_INVALID, DIGEST_INVALID, SIZE_INVALID, MANIFEST_BLOB_UNKNOWN
 */
export async function storeManifest(
  stores: WriteStores,
  context: RequestContext,
  { repository, reference, mediaType, bytes }: PushedManifest,
): Promise<StoredManifest> {
  if (bytes.length > MAX_DOCUMENT_SIZE) {
    throw new RegistryError("SIZE_INVALID", `manifest has more than ${MAX_DOCUMENT_SIZE} bytes`);
  }
  if (!isManifestType(mediaType) && !isIndexType(mediaType)) {
    throw new RegistryError(
      "MANIFEST_INVALID",
      `found media type "${mediaType}", want an OCI or Docker manifest or index`,
    );
  }
  const wanted = "digest" in reference ? reference.digest : undefined;
  const digest = digestOf(bytes, wanted === undefined ? undefined : parseDigest(wanted).algorithm);
  if (wanted !== undefined && wanted !== digest) {
    throw new RegistryError("DIGEST_INVALID", `manifest has digest ${digest}, its URL says ${wanted}`);
  }
  const document = parseManifestOrIndex(bytes, mediaType);
  // Holds all that the manifest names from here on: a collection may run between the look and the record.
  const lease = `registry-manifest-${crypto.randomUUID()}`;
  await stores.leases.create(context, {
    id: lease,
    labels: { [Label.gcExpire]: new Date(Date.now() + UPLOAD_LIFE_MS).toISOString() },
  });
  try {
    const held = { ...context, lease };
    const children = distributed(document);
    await expectPresent(stores, held, lease, children);
    await storeBytes(stores.content, held, digest, bytes, childGcLabels(children));
    const [name, own] =
      "tag" in reference ? [`${repository}:${reference.tag}`, {}] : [`${repository}@${digest}`, { [HELD]: "true" }];
    await point(stores.images, held, { name, labels: own, target: { mediaType, digest, size: bytes.length } });
    if ("manifests" in document) await forgetHeld(stores.images, context, repository, document);
  } finally {
    await stores.leases.delete(context, lease).catch(() => undefined);
  }
  return { digest, ...(document.subject === undefined ? {} : { subject: document.subject.digest }) };
}

/** What a registry must have: layers that may not be distributed are elsewhere. */
function distributed(document: Manifest | Index): readonly Descriptor[] {
  return childrenOf(document).filter(({ mediaType }) => !isNonDistributable(mediaType));
}

async function expectPresent(
  stores: WriteStores,
  context: RequestContext,
  lease: string,
  children: readonly Descriptor[],
): Promise<void> {
  const missing: { digest: string }[] = [];
  for (const { digest, size } of children) {
    await stores.leases.addResource(context, lease, { id: digest, type: "content" });
    try {
      const info = await stores.content.info(context, digest);
      if (info.size !== size) {
        throw new RegistryError("MANIFEST_INVALID", `${digest} has ${info.size} bytes, the manifest says ${size}`);
      }
    } catch (error) {
      if (!isErrorClass(error, "not-found")) throw error;
      const served = (await stores.served?.(context, digest)) === true;
      if (!served || !(await takeShared(stores.content, context, { digest, size }))) missing.push({ digest });
    }
  }
  if (missing.length > 0) throw new RegistryError("MANIFEST_BLOB_UNKNOWN", undefined, { detail: missing });
}

/** Takes over a blob that another namespace has and shares. @returns whether it is there now */
async function takeShared(
  content: ContentStore,
  context: RequestContext,
  { digest, size }: { readonly digest: string; readonly size: number },
): Promise<boolean> {
  const ref = `registry-share-${crypto.randomUUID()}`;
  try {
    await using writer = await content.writer(context, { ref, total: size, expected: digest });
    if (writer.status().offset === size) {
      await writer.commit(context, { size, expected: digest });
      return true;
    }
  } catch (error) {
    if (isErrorClass(error, "already-exists")) return true;
    throw error;
  }
  await content.abort(context, ref).catch(() => undefined);
  return false;
}

async function storeBytes(
  content: ContentStore,
  context: RequestContext,
  digest: string,
  bytes: Uint8Array,
  labels: Readonly<Record<string, string>>,
): Promise<void> {
  try {
    await using writer = await content.writer(context, {
      ref: `registry-manifest-${crypto.randomUUID()}`,
      total: bytes.length,
      expected: digest,
    });
    // Another namespace that shares its content has it whole already.
    if (writer.status().offset === 0) await writer.write(bytes);
    await writer.commit(context, { size: bytes.length, expected: digest, labels });
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
    const fields = Object.keys(labels).map((key) => `labels.${key}`);
    if (fields.length > 0) await content.update(context, { digest, labels }, fields);
  }
}

async function point(images: ImageStore, context: RequestContext, image: NewImage): Promise<void> {
  try {
    await images.create(context, image);
  } catch (error) {
    if (!isErrorClass(error, "already-exists")) throw error;
    await images.update(context, image, ["target"]);
  }
}

/** Manifests that were pushed by digest need no name of their own once an index holds them. */
async function forgetHeld(
  images: ImageStore,
  context: RequestContext,
  repository: string,
  { manifests }: Index,
): Promise<void> {
  for (const { digest } of manifests) {
    const name = `${repository}@${digest}`;
    try {
      // Such names are made by pulls as well, whose they stay.
      if ((await images.get(context, name)).labels[HELD] !== undefined) await images.delete(context, name);
    } catch (error) {
      ignoreNotFound(error);
    }
  }
}

function ignoreNotFound(error: unknown): void {
  if (!isErrorClass(error, "not-found")) throw error;
}

/**
 * Takes a tag, or every name of a digest in a repository, away. The content goes with the next collection.
 * @throws RegistryError MANIFEST_UNKNOWN
 */
export async function removeManifest(
  images: ImageStore,
  context: RequestContext,
  repositories: readonly string[],
  reference: ManifestReference,
): Promise<void> {
  let removed = 0;
  for (const repository of repositories) {
    const named =
      "tag" in reference
        ? [`${repository}:${reference.tag}`]
        : (await images.list(context, [`target.digest==${reference.digest}`]))
            .map(({ name }) => name)
            .filter((name) => name.startsWith(`${repository}:`) || name === `${repository}@${reference.digest}`);
    for (const name of named) {
      try {
        await images.delete(context, name);
        removed += 1;
      } catch (error) {
        ignoreNotFound(error);
      }
    }
  }
  if (removed === 0) throw new RegistryError("MANIFEST_UNKNOWN", undefined, { detail: reference });
}
