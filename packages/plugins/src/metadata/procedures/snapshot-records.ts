import type { Database } from "bun:sqlite";
import { classified } from "@stevedore/base";
import { momentOfMicros } from "@stevedore/base/moment";
import {
  type FieldMask,
  goQuote,
  type Labels,
  mergeLabels,
  type SnapshotHandle,
  type SnapshotKind,
  type SnapshotRecord,
  type SnapshotUsage,
} from "@stevedore/core";
import { decodeLabels, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import { later, type Transaction } from "../transaction.ts";

export interface RecordRow {
  name: string;
  id: number;
  kind: SnapshotKind;
  parent: string;
  labels: string;
  inodes: number | null;
  size: number | null;
  created_at: number;
  updated_at: number;
}

const select = statement<RecordRow, [string, string]>(
  "SELECT * FROM backend_snapshots WHERE snapshotter = ? AND name = ?",
);
const ancestors = statement<{ id: number }, [string, string]>(
  `WITH RECURSIVE chain (id, parent, depth) AS (
     SELECT id, parent, 0 FROM backend_snapshots WHERE snapshotter = ?1 AND name = ?2
     UNION ALL
     SELECT b.id, b.parent, depth + 1 FROM chain JOIN backend_snapshots b
       ON b.snapshotter = ?1 AND b.name = chain.parent WHERE chain.parent <> ''
   ) SELECT id FROM chain ORDER BY depth`,
);

/** Ids of `name` and its ancestors, nearest first. */
export function chainOf(db: Database, snapshotter: string, name: string): readonly number[] {
  return name === ""
    ? []
    : ancestors(db)
        .all(snapshotter, name)
        .map((row) => row.id);
}

export function recordOf(db: Database, snapshotter: string, row: RecordRow): SnapshotRecord {
  return {
    id: row.id,
    kind: row.kind,
    name: row.name,
    parent: row.parent,
    labels: decodeLabels(row.labels),
    createdAt: momentOfMicros(row.created_at),
    updatedAt: momentOfMicros(row.updated_at),
    parentIds: chainOf(db, snapshotter, row.parent),
    ...(row.size === null ? {} : { usage: { inodes: row.inodes ?? 0, size: row.size } }),
  };
}

export function findRecord(db: Database, snapshotter: string, name: string): RecordRow {
  const row = select(db).get(snapshotter, name);
  if (row === null) throw classified("not-found", "snapshot does not exist: not found");
  return row;
}

const sequence = statement<{ value: number }, [string]>("SELECT value FROM sequences WHERE name = ?");
const highest = statement<{ id: number | null }, [string]>(
  "SELECT max(id) AS id FROM backend_snapshots WHERE snapshotter = ?",
);
const writeSequence = statement<never, [string, number]>(
  "INSERT INTO sequences (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
);
const insert = statement<never, [string, string, number, string, string, string, number, number]>(
  `INSERT INTO backend_snapshots (snapshotter, name, id, kind, parent, labels, created_at, updated_at)
   VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
);
const commitRow = statement<never, [string, string, string, number, number, number, number, string, string]>(
  `UPDATE backend_snapshots SET name = ?, kind = 'committed', parent = ?, labels = ?, inodes = ?, size = ?,
   created_at = ?, updated_at = ? WHERE snapshotter = ? AND name = ?`,
);
const writeLabels = statement<never, [string, number, string, string]>(
  "UPDATE backend_snapshots SET labels = ?, updated_at = ? WHERE snapshotter = ? AND name = ?",
);
const drop = statement<never, [string, string]>("DELETE FROM backend_snapshots WHERE snapshotter = ? AND name = ?");
const anyChild = statement<{ one: number }, [string, string]>(
  "SELECT 1 AS one FROM backend_snapshots WHERE snapshotter = ? AND parent = ? LIMIT 1",
);

export function reserveRecordId(tx: Transaction, args: { readonly snapshotter: string }): { readonly id: number } {
  const { snapshotter } = args;
  const last =
    tx.memory.reservedIds.get(snapshotter) ??
    Math.max(sequence(tx.db).get(`ids/${snapshotter}`)?.value ?? 0, highest(tx.db).get(snapshotter)?.id ?? 0);
  tx.memory.reservedIds.set(snapshotter, last + 1);
  return { id: last + 1 };
}

export function createRecord(
  tx: Transaction,
  args: {
    readonly snapshotter: string;
    readonly key: string;
    readonly kind: Exclude<SnapshotKind, "committed">;
    readonly parent: string;
    readonly labels: Labels;
    readonly id: number | undefined;
  },
): SnapshotHandle {
  const { snapshotter, key, kind, parent } = args;
  if (parent !== "") {
    const row = select(tx.db).get(snapshotter, parent);
    if (row === null) throw classified("not-found", `missing parent ${goQuote(parent)} bucket: not found`);
    if (row.kind !== "committed") {
      throw classified("invalid-argument", `parent ${goQuote(parent)} is not committed snapshot: invalid argument`);
    }
  }
  if (select(tx.db).get(snapshotter, key) !== null) {
    throw classified("already-exists", `snapshot ${key}: already exists`);
  }
  const id = args.id ?? reserveRecordId(tx, { snapshotter }).id;
  writeSequence(tx.db).run(`ids/${snapshotter}`, id);
  insert(tx.db).run(snapshotter, key, id, kind, parent, encodeLabels(mergeLabels({}, args.labels, [])), tx.now, tx.now);
  return { id, kind, parentIds: chainOf(tx.db, snapshotter, parent) };
}

export function commitRecord(
  tx: Transaction,
  args: {
    readonly snapshotter: string;
    readonly name: string;
    readonly key: string;
    readonly usage: SnapshotUsage;
    readonly labels: Labels;
    readonly parent: string;
  },
): SnapshotHandle {
  const { snapshotter, name, key, usage } = args;
  if (select(tx.db).get(snapshotter, name) !== null) {
    throw classified("already-exists", `committed snapshot ${name}: already exists`);
  }
  const active = select(tx.db).get(snapshotter, key);
  if (active === null) throw classified("not-found", `failed to get active snapshot ${goQuote(key)}: not found`);
  if (active.kind !== "active") {
    throw classified("failed-precondition", `snapshot ${goQuote(key)} is not active: failed precondition`);
  }
  if (args.parent !== "" && active.parent !== "" && args.parent !== active.parent) {
    throw classified(
      "invalid-argument",
      `cannot change parent of active snapshot ${goQuote(key)} on commit: invalid argument`,
    );
  }
  const parent = active.parent === "" ? args.parent : active.parent;
  if (parent !== "") {
    const row = select(tx.db).get(snapshotter, parent);
    if (row === null) {
      throw classified("not-found", `missing parent ${goQuote(parent)} of snapshot ${goQuote(key)}: not found`);
    }
    if (row.kind !== "committed") {
      throw classified("failed-precondition", `parent ${goQuote(parent)} is not committed: failed precondition`);
    }
  }
  const labels = encodeLabels(mergeLabels({}, args.labels, []));
  commitRow(tx.db).run(name, parent, labels, usage.inodes, usage.size, tx.now, tx.now, snapshotter, key);
  return { id: active.id, kind: "committed", parentIds: chainOf(tx.db, snapshotter, parent) };
}

export function removeRecord(
  tx: Transaction,
  args: { readonly snapshotter: string; readonly name: string },
): Pick<SnapshotRecord, "id" | "kind"> {
  const row = select(tx.db).get(args.snapshotter, args.name);
  if (row === null) throw classified("not-found", `snapshot ${args.name}: not found`);
  if (anyChild(tx.db).get(args.snapshotter, args.name) !== null) {
    throw classified("failed-precondition", "cannot remove snapshot with child: failed precondition");
  }
  drop(tx.db).run(args.snapshotter, args.name);
  return { id: row.id, kind: row.kind };
}

export function updateRecord(
  tx: Transaction,
  args: { readonly snapshotter: string; readonly name: string; readonly labels: Labels; readonly fields: FieldMask },
): SnapshotRecord {
  const row = findRecord(tx.db, args.snapshotter, args.name);
  const what = `snapshot ${goQuote(args.name)}`;
  const labels = mergeLabels(decodeLabels(row.labels), args.labels, args.fields, what);
  const updatedAt = later(row.updated_at, tx.now);
  writeLabels(tx.db).run(encodeLabels(labels), updatedAt, args.snapshotter, args.name);
  return recordOf(tx.db, args.snapshotter, { ...row, labels: encodeLabels(labels), updated_at: updatedAt });
}
