import { classified, withContext } from "@stevedore/base";
import { momentOfMicros } from "@stevedore/base/moment";
import { type ContentInfo, type FieldMask, goQuote, type Labels, mergeLabels, validateLabels } from "@stevedore/core";
import { contentNode, ingestNode } from "../nodes.ts";
import { decodeLabels, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import { later, type Transaction } from "../transaction.ts";
import { addToLease, ensureNamespace, nextNumber, removeFromLease, type Scope, touch, touchLabels } from "./shared.ts";

export interface ContentRow {
  digest: string;
  size: number;
  labels: string;
  created_at: number;
  updated_at: number;
}

export function contentOf(row: ContentRow): ContentInfo {
  return {
    digest: row.digest,
    size: row.size,
    createdAt: momentOfMicros(row.created_at),
    updatedAt: momentOfMicros(row.updated_at),
    labels: decodeLabels(row.labels),
  };
}

/** An ingest without a lease is given up after this long: containerd's period. */
const INGEST_LIFETIME_MS = 24 * 60 * 60 * 1000;

const select = statement<ContentRow, [string, string]>("SELECT * FROM content WHERE namespace = ? AND digest = ?");
const insert = statement<never, [string, string, number, string, number, number]>(
  "INSERT INTO content (namespace, digest, size, labels, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
);
const writeLabels = statement<never, [string, number, string, string]>(
  "UPDATE content SET labels = ?, updated_at = ? WHERE namespace = ? AND digest = ?",
);
const drop = statement<{ digest: string }, [string, string]>(
  "DELETE FROM content WHERE namespace = ? AND digest = ? RETURNING digest",
);
const selectIngest = statement<{ backend_ref: string; expected: string; expire_at: number | null }, [string, string]>(
  "SELECT backend_ref, expected, expire_at FROM ingests WHERE namespace = ? AND ref = ?",
);
const writeIngest = statement<never, [string, string, string, string, number | null]>(
  `INSERT INTO ingests (namespace, ref, backend_ref, expected, expire_at) VALUES (?, ?, ?, ?, ?)
   ON CONFLICT DO UPDATE SET expected = excluded.expected, expire_at = excluded.expire_at`,
);
const dropIngest = statement<{ backend_ref: string; expected: string }, [string, string]>(
  "DELETE FROM ingests WHERE namespace = ? AND ref = ? RETURNING backend_ref, expected",
);

function notFound(digest: string): Error {
  return classified("not-found", `content digest ${digest}: not found`);
}

export function updateContent(
  tx: Transaction,
  args: { readonly scope: Scope; readonly digest: string; readonly labels: Labels; readonly fields: FieldMask },
): ContentInfo {
  const { namespace } = args.scope;
  const row = select(tx.db).get(namespace, args.digest);
  if (row === null) throw notFound(args.digest);
  const what = `content info ${goQuote(args.digest)}`;
  const labels = mergeLabels(decodeLabels(row.labels), args.labels, args.fields, what);
  checkLabels(labels);
  const updatedAt = later(row.updated_at, tx.now);
  writeLabels(tx.db).run(encodeLabels(labels), updatedAt, namespace, args.digest);
  touch(tx, contentNode(namespace, args.digest));
  touchLabels(tx, namespace, labels);
  return { ...contentOf(row), labels, updatedAt: momentOfMicros(updatedAt) };
}

export function deleteContent(tx: Transaction, args: { readonly scope: Scope; readonly digest: string }): undefined {
  if (drop(tx.db).get(args.scope.namespace, args.digest) === null) throw notFound(args.digest);
  removeFromLease(tx, args.scope, "content", args.digest);
  tx.dirty();
}

export interface OpenIngest {
  readonly scope: Scope;
  readonly ref: string;
  /** Digest the caller expects, "" if unknown. */
  readonly expected: string;
  /** Whether the backend holds `expected` and this namespace may have it without sending it. */
  readonly shared: boolean;
}

/** `exists`: the blob is in the namespace already, and was added to the lease. */
export type OpenedIngest = { readonly exists: true } | { readonly exists: false; readonly backendRef: string };

export function openIngest(tx: Transaction, args: OpenIngest): OpenedIngest {
  const { scope, ref, expected } = args;
  if (expected !== "" && select(tx.db).get(scope.namespace, expected) !== null) {
    leaseContent(tx, scope, expected);
    return { exists: true };
  }
  ensureNamespace(tx, scope.namespace);
  const leased = addToLease(tx, scope, "ingests", ref);
  const known = selectIngest(tx.db).get(scope.namespace, ref);
  const backendRef = known?.backend_ref ?? `${scope.namespace}/${nextNumber(tx, "ingests")}/${ref}`;
  writeIngest(tx.db).run(
    scope.namespace,
    ref,
    backendRef,
    args.shared ? expected : "",
    leased ? (known?.expire_at ?? null) : Math.floor(tx.now / 1_000) + INGEST_LIFETIME_MS,
  );
  touch(tx, ingestNode(scope.namespace, ref));
  if (args.shared) touch(tx, contentNode(scope.namespace, expected));
  return { exists: false, backendRef };
}

/** @returns whether the blob was there already, and the digest of a shared blob the ingest held and no longer does ("" for none) */
export function commitContent(
  tx: Transaction,
  args: {
    readonly scope: Scope;
    readonly ref: string;
    readonly digest: string;
    readonly size: number;
    readonly labels: Labels;
  },
): { readonly existed: boolean; readonly released: string } {
  const { scope, digest } = args;
  ensureNamespace(tx, scope.namespace);
  const existed = select(tx.db).get(scope.namespace, digest) !== null;
  if (!existed) {
    const labels = mergeLabels({}, args.labels, []);
    insert(tx.db).run(scope.namespace, digest, args.size, encodeLabels(labels), tx.now, tx.now);
    touchLabels(tx, scope.namespace, labels);
  }
  const expected = dropIngest(tx.db).get(scope.namespace, args.ref)?.expected ?? "";
  removeFromLease(tx, scope, "ingests", args.ref);
  leaseContent(tx, scope, digest);
  return { existed, released: expected === digest ? "" : expected };
}

function leaseContent(tx: Transaction, scope: Scope, digest: string): void {
  addToLease(tx, scope, "content", digest);
}

/** @returns what to abort in the backend, and the digest of a shared blob the ingest held ("" for none) */
export function abortIngest(
  tx: Transaction,
  args: { readonly scope: Scope; readonly ref: string },
): { readonly backendRef: string; readonly released: string } {
  const row = dropIngest(tx.db).get(args.scope.namespace, args.ref);
  if (row === null) throw classified("not-found", `reference ${args.ref}: not found`);
  removeFromLease(tx, args.scope, "ingests", args.ref);
  if (row.expected !== "") tx.dirty();
  return { backendRef: row.backend_ref, released: row.expected };
}

/** @throws invalid-argument `info.Labels: ...` */
export function checkLabels(labels: Labels): void {
  try {
    validateLabels(labels);
  } catch (error) {
    throw withContext("info.Labels", error);
  }
}
