import { classified } from "@stevedore/base";
import { type FieldMask, goQuote, type Labels, mergeLabels, type Namespace } from "@stevedore/core";
import { decodeLabels, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import type { Transaction } from "../transaction.ts";

const insert = statement<{ name: string }, [string, string]>(
  "INSERT INTO namespaces (name, labels) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING name",
);
const select = statement<{ labels: string }, [string]>("SELECT labels FROM namespaces WHERE name = ?");
const write = statement<never, [string, string]>("UPDATE namespaces SET labels = ? WHERE name = ?");

export function createNamespace(tx: Transaction, args: { readonly namespace: Namespace }): Namespace {
  const labels = mergeLabels({}, args.namespace.labels, []);
  const made = insert(tx.db).get(args.namespace.name, encodeLabels(labels));
  if (made === null) {
    throw classified("already-exists", `namespace ${goQuote(args.namespace.name)}: already exists`);
  }
  return { name: args.namespace.name, labels };
}

export function updateNamespace(
  tx: Transaction,
  args: { readonly name: string; readonly labels: Labels; readonly fields: FieldMask },
): Namespace {
  const row = select(tx.db).get(args.name);
  if (row === null) throw classified("not-found", `namespace ${goQuote(args.name)}: not found`);
  const labels = mergeLabels(decodeLabels(row.labels), args.labels, args.fields);
  write(tx.db).run(encodeLabels(labels), args.name);
  return { name: args.name, labels };
}

const anyImage = statement<{ one: number }, [string]>("SELECT 1 AS one FROM images WHERE namespace = ? LIMIT 1");
const anyBlob = statement<{ one: number }, [string]>("SELECT 1 AS one FROM content WHERE namespace = ? LIMIT 1");
const anyContainer = statement<{ one: number }, [string]>(
  "SELECT 1 AS one FROM containers WHERE namespace = ? LIMIT 1",
);
const snapshotters = statement<{ snapshotter: string }, [string]>(
  "SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY snapshotter",
);

/** What goes with its namespace without being asked: none of it keeps anything else alive. */
const DROPPED = ["leases", "lease_resources", "ingests", "sandboxes", "snapshot_commits"].map((table) =>
  statement<never, [string]>(`DELETE FROM ${table} WHERE namespace = ?`),
);
const drop = statement<{ name: string }, [string]>("DELETE FROM namespaces WHERE name = ? RETURNING name");

export function deleteNamespace(tx: Transaction, args: { readonly name: string }): undefined {
  const left: string[] = [];
  if (anyImage(tx.db).get(args.name) !== null) left.push("images");
  if (anyBlob(tx.db).get(args.name) !== null) left.push("blobs");
  if (anyContainer(tx.db).get(args.name) !== null) left.push("containers");
  for (const { snapshotter } of snapshotters(tx.db).all(args.name)) {
    left.push(`snapshots on ${goQuote(snapshotter)} snapshotter`);
  }
  if (left.length > 0) {
    throw classified(
      "failed-precondition",
      `namespace ${goQuote(args.name)} must be empty, but it still has ${left.join(", ")}: failed precondition`,
    );
  }
  if (drop(tx.db).get(args.name) === null) {
    throw classified("not-found", `namespace ${goQuote(args.name)}: not found`);
  }
  for (const each of DROPPED) each(tx.db).run(args.name);
  tx.dirty();
}
