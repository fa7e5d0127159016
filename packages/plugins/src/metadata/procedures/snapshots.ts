import { classified } from "@stevedore/base";
import { type FieldMask, goQuote, type Labels, mergeLabels } from "@stevedore/core";
import { snapshotNode } from "../nodes.ts";
import { decodeLabels, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import { later, type Transaction } from "../transaction.ts";
import { checkLabels } from "./content.ts";
import { addToLease, ensureNamespace, nextNumber, removeFromLease, type Scope, touch, touchLabels } from "./shared.ts";

/** A snapshot as clients of one namespace know it; its kind is the backend's to say. */
export interface SnapshotRow {
  name: string;
  parent: string;
  backend_key: string;
  labels: string;
  created_at: number;
  updated_at: number;
}

const select = statement<SnapshotRow, [string, string, string]>(
  "SELECT * FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?",
);
const insert = statement<never, [string, string, string, string, string, string, number, number]>(
  `INSERT INTO snapshots (namespace, snapshotter, name, parent, backend_key, labels, created_at, updated_at)
   VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
);
const writeLabels = statement<never, [string, number, string, string, string]>(
  "UPDATE snapshots SET labels = ?, updated_at = ? WHERE namespace = ? AND snapshotter = ? AND name = ?",
);
const drop = statement<{ backend_key: string }, [string, string, string]>(
  "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ? RETURNING backend_key",
);
const anyChild = statement<{ one: number }, [string, string, string]>(
  "SELECT 1 AS one FROM snapshots WHERE namespace = ? AND snapshotter = ? AND parent = ? LIMIT 1",
);
const insertCommit = statement<never, [string, string, string, string, string, string, string]>(
  `INSERT OR REPLACE INTO snapshot_commits (namespace, snapshotter, key, name, parent, backend_name, labels)
   VALUES (?, ?, ?, ?, ?, ?, ?)`,
);
const dropCommit = statement<
  { name: string; parent: string; backend_name: string; labels: string },
  [string, string, string]
>(
  `DELETE FROM snapshot_commits WHERE namespace = ? AND snapshotter = ? AND key = ?
   RETURNING name, parent, backend_name, labels`,
);
const commitUnderWay = statement<{ one: number }, [string, string, string]>(
  "SELECT 1 AS one FROM snapshot_commits WHERE namespace = ? AND snapshotter = ? AND key = ?",
);

interface On {
  readonly scope: Scope;
  readonly snapshotter: string;
}

function missing(name: string): Error {
  return classified("not-found", `snapshot ${name} does not exist: not found`);
}

function nodeOf(on: On, name: string): string {
  return snapshotNode(on.scope.namespace, on.snapshotter, name);
}

function lease(tx: Transaction, on: On, name: string): void {
  addToLease(tx, on.scope, `snapshots/${on.snapshotter}`, name);
}

export interface BeginPrepare extends On {
  readonly key: string;
  readonly parent: string;
  /** Value of the label `containerd.io/snapshot.ref`, "" without one. */
  readonly target: string;
  /** Names this operation until {@link endPrepare} or {@link releasePins}. */
  readonly operation: number;
}

/** `exists` is the message to refuse with: the snapshot is there and was added to the lease. */
export type BegunPrepare =
  | { readonly exists: string }
  | { readonly exists: undefined; readonly backendKey: string; readonly backendParent: string };

export function beginPrepare(tx: Transaction, args: BeginPrepare): BegunPrepare {
  const { namespace } = args.scope;
  const find = (name: string): SnapshotRow | null => select(tx.db).get(namespace, args.snapshotter, name);
  if (args.target !== "" && find(args.target) !== null) {
    lease(tx, args, args.target);
    return { exists: `target snapshot ${goQuote(args.target)}: already exists` };
  }
  if (find(args.key) !== null) {
    lease(tx, args, args.key);
    return { exists: `snapshot ${goQuote(args.key)}: already exists` };
  }
  let backendParent = "";
  if (args.parent !== "") {
    const parent = find(args.parent);
    if (parent === null) {
      throw classified("not-found", `parent snapshot ${args.parent} does not exist: not found`);
    }
    backendParent = parent.backend_key;
    tx.collection.pin(args.operation, [nodeOf(args, args.parent)]);
  }
  ensureNamespace(tx, namespace);
  return {
    exists: undefined,
    backendKey: `${namespace}/${nextNumber(tx, "snapshots")}/${args.key}`,
    backendParent,
  };
}

export interface EndPrepare extends On {
  readonly key: string;
  readonly parent: string;
  readonly backendKey: string;
  readonly backendParent: string;
  readonly labels: Labels;
  /** Times the backend gave; absent: now. */
  readonly createdAt?: number;
  readonly updatedAt?: number;
  readonly operation: number;
}

/** @returns whether the name was taken meanwhile (and added to the lease) */
export function endPrepare(tx: Transaction, args: EndPrepare): { readonly existed: boolean } {
  const { namespace } = args.scope;
  lease(tx, args, args.key);
  tx.collection.unpin(args.operation);
  if (select(tx.db).get(namespace, args.snapshotter, args.key) !== null) return { existed: true };
  if (args.parent !== "") {
    const parent = select(tx.db).get(namespace, args.snapshotter, args.parent);
    if (parent === null) {
      throw classified("not-found", `parent snapshot ${args.parent} does not exist: not found`);
    }
    if (parent.backend_key !== args.backendParent) {
      throw classified(
        "invalid-argument",
        `mismatched parent ${args.parent} from target ${args.key}: invalid argument`,
      );
    }
    touch(tx, nodeOf(args, args.parent));
  }
  const labels = mergeLabels({}, args.labels, []);
  insert(tx.db).run(
    namespace,
    args.snapshotter,
    args.key,
    args.parent,
    args.backendKey,
    encodeLabels(labels),
    args.createdAt ?? tx.now,
    args.updatedAt ?? tx.now,
  );
  touchLabels(tx, namespace, labels);
  return { existed: false };
}

/** Lets go of what an operation that failed had kept. */
export function releasePins(tx: Transaction, args: { readonly operation: number }): undefined {
  tx.collection.unpin(args.operation);
}

export interface BeginCommit extends On {
  readonly key: string;
  readonly name: string;
  /** Parent to set on a snapshot that has none, "" for none. */
  readonly parent: string;
  readonly labels: Labels;
}

export type BegunCommit =
  | { readonly exists: string }
  | {
      readonly exists: undefined;
      readonly backendKey: string;
      readonly backendName: string;
      /** Backend name of the parent to set, "" if the parent does not change. */
      readonly rebase: string;
    };

/** Writes down that the backend is about to commit, so that a crash on the way leaves either state whole. */
export function beginCommit(tx: Transaction, args: BeginCommit): BegunCommit {
  const { namespace } = args.scope;
  lease(tx, args, args.name);
  if (select(tx.db).get(namespace, args.snapshotter, args.name) !== null) {
    return { exists: `snapshot ${goQuote(args.name)}: already exists` };
  }
  const active = select(tx.db).get(namespace, args.snapshotter, args.key);
  if (active === null) throw missing(args.key);
  if (commitUnderWay(tx.db).get(namespace, args.snapshotter, args.key) !== null) {
    throw classified("unavailable", `snapshot ${args.key} is being committed: unavailable`);
  }
  // The peer ignores another parent here; what the client believes to have committed would then not be what it gets.
  if (args.parent !== "" && active.parent !== "" && args.parent !== active.parent) {
    throw classified(
      "invalid-argument",
      `cannot change parent of active snapshot ${goQuote(args.key)} on commit: invalid argument`,
    );
  }
  const parent = active.parent === "" ? args.parent : active.parent;
  let rebase = "";
  if (parent !== "") {
    const row = select(tx.db).get(namespace, args.snapshotter, parent);
    if (row === null) throw classified("not-found", `parent snapshot ${parent} does not exist: not found`);
    if (active.parent === "") rebase = row.backend_key;
    touch(tx, nodeOf(args, parent));
  }
  const backendName = `${namespace}/${nextNumber(tx, "snapshots")}/${args.name}`;
  const labels = mergeLabels({}, args.labels, []);
  insertCommit(tx.db).run(namespace, args.snapshotter, args.key, args.name, parent, backendName, encodeLabels(labels));
  touch(tx, nodeOf(args, args.key));
  return { exists: undefined, backendKey: active.backend_key, backendName, rebase };
}

/**
 * Records the outcome of a commit.
 * @returns whether another snapshot of that name was recorded meanwhile
 */
export function endCommit(
  tx: Transaction,
  args: On & { readonly key: string; readonly committed: boolean },
): { readonly existed: boolean } {
  const { namespace } = args.scope;
  const commit = dropCommit(tx.db).get(namespace, args.snapshotter, args.key);
  touch(tx, nodeOf(args, args.key));
  if (commit === null || !args.committed) return { existed: false };
  drop(tx.db).get(namespace, args.snapshotter, args.key);
  removeFromLease(tx, args.scope, `snapshots/${args.snapshotter}`, args.key);
  const existed = select(tx.db).get(namespace, args.snapshotter, commit.name) !== null;
  touch(tx, nodeOf(args, commit.name));
  if (existed) {
    tx.dirty();
    return { existed };
  }
  insert(tx.db).run(
    namespace,
    args.snapshotter,
    commit.name,
    commit.parent,
    commit.backend_name,
    commit.labels,
    tx.now,
    tx.now,
  );
  if (commit.parent !== "") touch(tx, nodeOf(args, commit.parent));
  touchLabels(tx, namespace, decodeLabels(commit.labels));
  return { existed };
}

/** @returns the row after the update */
export function updateSnapshot(
  tx: Transaction,
  args: On & { readonly name: string; readonly labels: Labels; readonly fields: FieldMask },
): SnapshotRow {
  const { namespace } = args.scope;
  const row = select(tx.db).get(namespace, args.snapshotter, args.name);
  if (row === null) throw missing(args.name);
  const what = `snapshot ${goQuote(args.name)}`;
  const labels = mergeLabels(decodeLabels(row.labels), args.labels, args.fields, what);
  checkLabels(labels);
  const updatedAt = later(row.updated_at, tx.now);
  writeLabels(tx.db).run(encodeLabels(labels), updatedAt, namespace, args.snapshotter, args.name);
  touch(tx, nodeOf(args, args.name));
  touchLabels(tx, namespace, labels);
  return { ...row, labels: encodeLabels(labels), updated_at: updatedAt };
}

/** @returns the key the backend has to remove */
export function removeSnapshot(tx: Transaction, args: On & { readonly name: string }): { readonly backendKey: string } {
  const { namespace } = args.scope;
  if (select(tx.db).get(namespace, args.snapshotter, args.name) === null) throw missing(args.name);
  if (anyChild(tx.db).get(namespace, args.snapshotter, args.name) !== null) {
    throw classified("failed-precondition", "cannot remove snapshot with child: failed precondition");
  }
  if (commitUnderWay(tx.db).get(namespace, args.snapshotter, args.name) !== null) {
    throw classified("failed-precondition", `snapshot ${args.name} is being committed: failed precondition`);
  }
  const row = drop(tx.db).get(namespace, args.snapshotter, args.name);
  if (row === null) throw missing(args.name);
  removeFromLease(tx, args.scope, `snapshots/${args.snapshotter}`, args.name);
  tx.dirty();
  return { backendKey: row.backend_key };
}
