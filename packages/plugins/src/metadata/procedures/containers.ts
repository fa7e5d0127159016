import { classified, withContext } from "@stevedore/base";
import { microsOf, momentOfMicros } from "@stevedore/base/moment";
import {
  type AnyValue,
  type Container,
  type FieldMask,
  goQuote,
  mergeLabels,
  type NewContainer,
  validateIdentifier,
  validateLabels,
} from "@stevedore/core";
import { containerNode, snapshotNode } from "../nodes.ts";
import { decodeAny, decodeExtensions, decodeLabels, encodeExtensions, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import { later, type Transaction } from "../transaction.ts";
import { ensureNamespace, type Scope, touch, touchLabels } from "./shared.ts";

export interface ContainerRow {
  id: string;
  labels: string;
  image: string;
  runtime: string;
  runtime_options_type: string | null;
  runtime_options: Uint8Array | null;
  spec_type: string | null;
  spec: Uint8Array | null;
  snapshotter: string;
  snapshot_key: string;
  sandbox: string;
  extensions: string;
  created_at: number;
  updated_at: number;
}

export function containerOf(row: ContainerRow): Container {
  const options = decodeAny(row.runtime_options_type, row.runtime_options);
  const spec = decodeAny(row.spec_type, row.spec);
  return {
    id: row.id,
    labels: decodeLabels(row.labels),
    image: row.image,
    runtime: { name: row.runtime, ...(options === undefined ? {} : { options }) },
    ...(spec === undefined ? {} : { spec }),
    snapshotter: row.snapshotter,
    snapshotKey: row.snapshot_key,
    sandbox: row.sandbox,
    extensions: decodeExtensions(row.extensions),
    createdAt: momentOfMicros(row.created_at),
    updatedAt: momentOfMicros(row.updated_at),
  };
}

const select = statement<ContainerRow, [string, string]>("SELECT * FROM containers WHERE namespace = ? AND id = ?");
const write = statement<
  never,
  [
    string,
    string,
    string,
    string,
    string,
    string | null,
    Uint8Array | null,
    string | null,
    Uint8Array | null,
    string,
    string,
    string,
    string,
    number,
    number,
  ]
>(
  `INSERT OR REPLACE INTO containers (namespace, id, labels, image, runtime, runtime_options_type, runtime_options,
   spec_type, spec, snapshotter, snapshot_key, sandbox, extensions, created_at, updated_at)
   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
);
const drop = statement<{ id: string }, [string, string]>(
  "DELETE FROM containers WHERE namespace = ? AND id = ? RETURNING id",
);

export function createContainer(
  tx: Transaction,
  args: { readonly scope: Scope; readonly container: NewContainer },
): Container {
  const { scope, container } = args;
  validate("create container failed validation", container);
  ensureNamespace(tx, scope.namespace);
  if (select(tx.db).get(scope.namespace, container.id) !== null) {
    throw classified("already-exists", `container ${goQuote(container.id)}: already exists`);
  }
  const at = momentOfMicros(tx.now);
  return put(tx, scope.namespace, { ...container, createdAt: at, updatedAt: at });
}

const REPLACED: FieldMask = ["labels", "spec", "extensions", "image", "snapshotkey"];

export function updateContainer(
  tx: Transaction,
  args: { readonly scope: Scope; readonly container: NewContainer; readonly fields: FieldMask },
): Container {
  const { scope, container, fields } = args;
  if (container.id === "") throw classified("invalid-argument", "must specify a container id: invalid argument");
  const row = select(tx.db).get(scope.namespace, container.id);
  if (row === null) throw classified("not-found", `container ${goQuote(container.id)}: not found`);
  const current = containerOf(row);
  if (fields.length === 0) {
    if (current.snapshotter !== container.snapshotter) {
      throw classified("invalid-argument", "container.Snapshotter field is immutable: invalid argument");
    }
    if (current.runtime.name !== container.runtime.name) {
      throw classified("invalid-argument", "container.Runtime.Name field is immutable: invalid argument");
    }
  }
  const merged = masked(current, container, fields.length === 0 ? REPLACED : fields);
  validate("update failed validation", merged);
  return put(tx, scope.namespace, { ...merged, updatedAt: momentOfMicros(later(row.updated_at, tx.now)) });
}

function masked(current: Container, wanted: NewContainer, fields: FieldMask): Container {
  const { spec: currentSpec, ...rest } = current;
  let spec = currentSpec;
  let { labels, extensions, image, snapshotKey } = current;
  for (const path of fields) {
    if (path === "labels" || path.startsWith("labels.")) labels = mergeLabels(labels, wanted.labels, [path]);
    else if (path === "extensions") extensions = wanted.extensions;
    else if (path.startsWith("extensions.")) {
      const key = path.slice("extensions.".length);
      const entries = new Map<string, AnyValue>(Object.entries(extensions));
      const value = Object.hasOwn(wanted.extensions, key) ? wanted.extensions[key] : undefined;
      if (value === undefined) entries.delete(key);
      else entries.set(key, value);
      extensions = Object.fromEntries(entries);
    } else if (path === "spec") spec = wanted.spec;
    else if (path === "image") image = wanted.image;
    else if (path === "snapshotkey") snapshotKey = wanted.snapshotKey;
    else {
      throw classified(
        "invalid-argument",
        `cannot update ${goQuote(path)} field on ${goQuote(wanted.id)}: invalid argument`,
      );
    }
  }
  return { ...rest, ...(spec === undefined ? {} : { spec }), labels, extensions, image, snapshotKey };
}

function put(tx: Transaction, namespace: string, container: Container): Container {
  const labels = mergeLabels({}, container.labels, []);
  write(tx.db).run(
    namespace,
    container.id,
    encodeLabels(labels),
    container.image,
    container.runtime.name,
    container.runtime.options?.typeUrl ?? null,
    container.runtime.options?.value ?? null,
    container.spec?.typeUrl ?? null,
    container.spec?.value ?? null,
    container.snapshotter,
    container.snapshotKey,
    container.sandbox,
    encodeExtensions(container.extensions),
    microsOf(container.createdAt),
    microsOf(container.updatedAt),
  );
  touch(tx, containerNode(namespace, container.id));
  if (container.snapshotter !== "") touch(tx, snapshotNode(namespace, container.snapshotter, container.snapshotKey));
  touchLabels(tx, namespace, labels);
  return { ...container, labels };
}

const anyContainer = statement<{ one: number }, [string]>("SELECT 1 AS one FROM namespaces WHERE name = ? LIMIT 1");

export function deleteContainer(tx: Transaction, args: { readonly scope: Scope; readonly id: string }): undefined {
  const { namespace } = args.scope;
  if (drop(tx.db).get(namespace, args.id) === null) {
    throw classified(
      "not-found",
      anyContainer(tx.db).get(namespace) === null
        ? `cannot delete container ${goQuote(args.id)} in namespace ${goQuote(namespace)}: not found`
        : `container ${args.id}: not found`,
    );
  }
  tx.dirty();
}

function validate(doing: string, container: NewContainer): void {
  try {
    validateFields(container);
  } catch (error) {
    throw withContext(doing, error);
  }
}

function validateFields(container: NewContainer): void {
  try {
    validateIdentifier(container.id);
  } catch (error) {
    throw withContext("container.ID", error);
  }
  if (Object.hasOwn(container.extensions, "")) {
    throw classified("invalid-argument", "container.Extension keys must not be zero-length: invalid argument");
  }
  try {
    validateLabels(container.labels);
  } catch (error) {
    throw withContext("containers.Labels", error);
  }
  if (container.runtime.name === "") {
    throw classified("invalid-argument", "container.Runtime.Name must be set: invalid argument");
  }
  if (container.spec === undefined) {
    throw classified("invalid-argument", "container.Spec must be set: invalid argument");
  }
  if (container.snapshotKey !== "" && container.snapshotter === "") {
    throw classified(
      "invalid-argument",
      "container.Snapshotter must be set if container.SnapshotKey is set: invalid argument",
    );
  }
}
