import { classified, withContext } from "@stevedore/base";
import { microsOf, momentOfMicros } from "@stevedore/base/moment";
import { type FieldMask, goQuote, type Image, mergeLabels, type NewImage, validateLabels } from "@stevedore/core";
import { parseDigest } from "@stevedore/oci/digest";
import { contentNode, EXPIRE_LABEL, imageNode } from "../nodes.ts";
import { decodeLabels, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import { later, type Transaction } from "../transaction.ts";
import { addToLease, ensureNamespace, removeFromLease, type Scope, touch, touchLabels } from "./shared.ts";

export interface ImageRow {
  name: string;
  labels: string;
  media_type: string;
  digest: string;
  size: number;
  annotations: string;
  created_at: number;
  updated_at: number;
}

export function imageOf(row: ImageRow): Image {
  const annotations = decodeLabels(row.annotations);
  return {
    name: row.name,
    labels: decodeLabels(row.labels),
    target: {
      mediaType: row.media_type,
      digest: row.digest,
      size: row.size,
      ...(Object.keys(annotations).length > 0 ? { annotations } : {}),
    },
    createdAt: momentOfMicros(row.created_at),
    updatedAt: momentOfMicros(row.updated_at),
  };
}

const select = statement<ImageRow, [string, string]>("SELECT * FROM images WHERE namespace = ? AND name = ?");
const write = statement<never, [string, string, string, string, string, number, string, number, number]>(
  `INSERT INTO images (namespace, name, labels, media_type, digest, size, annotations, created_at, updated_at)
   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET labels = excluded.labels,
   media_type = excluded.media_type, digest = excluded.digest, size = excluded.size,
   annotations = excluded.annotations, updated_at = excluded.updated_at`,
);
const drop = statement<{ name: string }, [string, string]>(
  "DELETE FROM images WHERE namespace = ? AND name = ? RETURNING name",
);

export function createImage(tx: Transaction, args: { readonly scope: Scope; readonly image: NewImage }): Image {
  const { scope, image } = args;
  validateImage(image);
  ensureNamespace(tx, scope.namespace);
  if (Object.hasOwn(image.labels, EXPIRE_LABEL)) addToLease(tx, scope, "images", image.name);
  if (select(tx.db).get(scope.namespace, image.name) !== null) {
    throw classified("already-exists", `image ${goQuote(image.name)}: already exists`);
  }
  const at = image.createdAt ?? momentOfMicros(tx.now);
  return put(tx, scope, { ...image, createdAt: at, updatedAt: at });
}

export function updateImage(
  tx: Transaction,
  args: { readonly scope: Scope; readonly image: NewImage; readonly fields: FieldMask },
): Image {
  const { scope, image, fields } = args;
  if (image.name === "") {
    throw classified("invalid-argument", "image name is required for update: invalid argument");
  }
  const row = select(tx.db).get(scope.namespace, image.name);
  if (row === null) throw classified("not-found", `image ${goQuote(image.name)}: not found`);
  const current = imageOf(row);
  const merged =
    fields.length === 0 ? { ...current, ...image, createdAt: current.createdAt } : masked(current, image, fields);
  validateImage(merged);
  if (Object.hasOwn(merged.labels, EXPIRE_LABEL)) addToLease(tx, scope, "images", image.name);
  const updatedAt = image.createdAt ?? momentOfMicros(later(row.updated_at, tx.now));
  return put(tx, scope, { ...merged, updatedAt });
}

function masked(current: Image, image: NewImage, fields: FieldMask): Image {
  let { labels, target } = current;
  for (const path of fields) {
    if (path === "labels" || path.startsWith("labels.")) labels = mergeLabels(labels, image.labels, [path]);
    else if (path === "target") target = image.target;
    else if (path === "annotations") target = { ...target, annotations: image.target.annotations ?? {} };
    else if (path.startsWith("annotations.")) {
      const annotations = mergeLabels(target.annotations ?? {}, image.target.annotations ?? {}, [
        `labels.${path.slice("annotations.".length)}`,
      ]);
      target = { ...target, annotations };
    } else {
      throw classified(
        "invalid-argument",
        `cannot update ${goQuote(path)} field on image ${goQuote(image.name)}: invalid argument`,
      );
    }
  }
  return { ...current, labels, target };
}

function put(tx: Transaction, scope: Scope, image: Image): Image {
  const labels = mergeLabels({}, image.labels, []);
  const annotations = mergeLabels({}, image.target.annotations ?? {}, []);
  const { mediaType, digest, size } = image.target;
  write(tx.db).run(
    scope.namespace,
    image.name,
    encodeLabels(labels),
    mediaType,
    digest,
    size,
    encodeLabels(annotations),
    microsOf(image.createdAt),
    microsOf(image.updatedAt),
  );
  touch(tx, imageNode(scope.namespace, image.name), contentNode(scope.namespace, digest));
  touchLabels(tx, scope.namespace, labels);
  return {
    ...image,
    labels,
    target: { mediaType, digest, size, ...(Object.keys(annotations).length > 0 ? { annotations } : {}) },
  };
}

export function deleteImage(
  tx: Transaction,
  args: { readonly scope: Scope; readonly name: string; readonly target: string | undefined },
): undefined {
  const { scope, name, target } = args;
  if (target !== undefined && target !== "") {
    const row = select(tx.db).get(scope.namespace, name);
    if (row !== null && row.digest !== target) {
      throw classified("not-found", `image ${goQuote(name)} has target ${row.digest}, not ${target}: not found`);
    }
  }
  if (drop(tx.db).get(scope.namespace, name) === null) {
    throw classified("not-found", `image ${goQuote(name)}: not found`);
  }
  removeFromLease(tx, scope, "images", name);
  tx.dirty();
}

function validateImage(image: NewImage): void {
  if (image.name === "") throw classified("invalid-argument", "image name must not be empty: invalid argument");
  try {
    validateLabels(image.labels);
  } catch (error) {
    throw withContext("image.Labels", error);
  }
  const { digest, size, mediaType } = image.target;
  try {
    parseDigest(digest);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw classified("invalid-argument", `Target.Digest ${goQuote(digest)} invalid: ${why}: invalid argument`);
  }
  if (size <= 0) throw classified("invalid-argument", "Target.Size must be greater than zero: invalid argument");
  if (mediaType === "") throw classified("invalid-argument", "Target.MediaType must be set: invalid argument");
}
