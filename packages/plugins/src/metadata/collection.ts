import type { Database } from "bun:sqlite";
import { components } from "./components.ts";
import {
  containerNode,
  contentNode,
  FLAT_LABEL,
  flat,
  imageNode,
  ingestNode,
  isExpired,
  labelEdges,
  leaseNode,
  type Node,
  partsOf,
  resourceNode,
  snapshotNode,
  unflat,
} from "./nodes.ts";
import { decodeLabels } from "./rows.ts";
import { statement } from "./statement.ts";

/**
 * Garbage collection inside the writer thread. Marking reads a snapshot of the file through a connection of its own, in
 * slices between batches of writes. Meanwhile every write reports the objects it names ({@link Collection.touch}); they,
 * and what they refer to, are marked as well before anything is deleted, in the same transaction that deletes. As all
 * writes pass through this one thread, nothing can be named in between: what the design calls generations are these
 * reports, and need no column.
 */
export class Collection {
  #run: Run | undefined;
  /** Objects that operations under way rely on before they write them down. */
  readonly #pins = new Map<number, readonly Node[]>();

  /** A write names this object: it survives the collection under way. */
  touch(node: Node): void {
    const run = this.#run;
    if (run !== undefined && !run.visited.has(node)) run.touched.add(node);
  }

  /** Keeps objects until {@link unpin}, whether or not they are referred to. `operation` is the caller's number. */
  pin(operation: number, nodes: readonly Node[]): void {
    this.#pins.set(operation, nodes);
    for (const node of nodes) this.touch(node);
  }

  unpin(operation: number): void {
    for (const node of this.#pins.get(operation) ?? []) this.touch(node);
    this.#pins.delete(operation);
  }

  get running(): boolean {
    return this.#run !== undefined;
  }

  /**
   * Finds what nothing refers to. Yields between rows, so that the caller can stop for a while; `reader` stays in one
   * read transaction throughout.
   * @returns garbage for {@link sweep}, which takes it from the end: what refers comes after what it refers to, so that
   *   as long as an object is still there, all it needs is too. What refers to each other goes together.
   */
  *mark(reader: Database, now: number): Generator<void, (readonly Node[])[]> {
    if (this.#run !== undefined) throw new Error("a collection is running");
    const run: Run = { visited: new Set(), touched: new Set(), backReferences: new Map(), now };
    this.#run = run;
    reader.exec("BEGIN");
    try {
      const pending: Node[] = [...this.#pins.values()].flat();
      yield* scanRoots(reader, run, pending);
      yield* traverse(reader, run, pending);
      const garbage = new Set<Node>();
      for (const node of allNodes(reader)) {
        if (!isMarked(run, node)) garbage.add(node);
        yield;
      }
      return yield* components(garbage, (node) => references(reader, run, node));
    } finally {
      reader.exec("COMMIT");
    }
  }

  /**
   * Deletes garbage that is still garbage, until `stop` says so. Runs inside a write transaction.
   * @param garbage what {@link mark} returned; what was dealt with is taken off its end
   */
  sweep(db: Database, garbage: (readonly Node[])[], stop: () => boolean): Removed[] {
    const run = this.#run;
    if (run === undefined) throw new Error("no collection is running");
    if (run.touched.size > 0) {
      const pending = [...run.touched];
      run.touched.clear();
      // Not sliced: what is touched during one collection is little, and must be followed before the next delete.
      for (const _step of traverse(db, run, pending)) continue;
    }
    const removed: Removed[] = [];
    while (garbage.length > 0 && !stop()) {
      for (const node of garbage.pop() ?? []) {
        if (isMarked(run, node)) continue;
        const gone = removeRow(db, node);
        if (gone !== undefined) removed.push(gone);
      }
    }
    return removed;
  }

  /** Ends the run, whether it was finished or failed. */
  finish(): void {
    this.#run = undefined;
  }
}

/** A row garbage collection deleted. */
export type Removed =
  | { readonly kind: "content"; readonly namespace: string; readonly digest: string }
  | {
      readonly kind: "snapshot";
      readonly namespace: string;
      readonly snapshotter: string;
      readonly name: string;
      readonly parent: string;
      readonly backendKey: string;
    }
  | { readonly kind: "image"; readonly namespace: string; readonly name: string }
  | { readonly kind: "lease"; readonly namespace: string; readonly id: string }
  | {
      readonly kind: "ingest";
      readonly namespace: string;
      readonly ref: string;
      readonly backendRef: string;
      readonly expected: string;
    };

interface Run {
  /** Nodes that were reached, flat ones under their own name. */
  readonly visited: Set<Node>;
  /** Nodes named by writes since the snapshot and not followed yet. */
  readonly touched: Set<Node>;
  /** From an object to those that declared to live as long. */
  readonly backReferences: Map<Node, Node[]>;
  readonly now: number;
}

function isMarked(run: Run, node: Node): boolean {
  return run.visited.has(node) || run.visited.has(flat(node));
}

interface LabelledRow {
  namespace: string;
  name: string;
  labels: string;
}

const leaseRows = statement<LabelledRow, []>("SELECT namespace, id AS name, labels FROM leases");
const leaseResources = statement<{ type: string; id: string }, [string, string]>(
  "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ?",
);
const imageRows = statement<LabelledRow, []>("SELECT namespace, name, labels FROM images");
const containerRows = statement<LabelledRow, []>("SELECT namespace, id AS name, labels FROM containers");
const sandboxRows = statement<LabelledRow, []>(
  "SELECT namespace, id AS name, labels FROM sandboxes WHERE instr(labels, 'containerd.io/gc.')",
);
const labelledContent = statement<LabelledRow, []>(
  "SELECT namespace, digest AS name, labels FROM content WHERE instr(labels, 'containerd.io/gc.')",
);
const labelledSnapshots = statement<LabelledRow & { snapshotter: string }, []>(
  "SELECT namespace, snapshotter, name, labels FROM snapshots WHERE instr(labels, 'containerd.io/gc.')",
);
const liveIngests = statement<{ namespace: string; ref: string }, [number]>(
  "SELECT namespace, ref FROM ingests WHERE expire_at >= ?",
);
const commitRows = statement<{ namespace: string; snapshotter: string; key: string; parent: string }, []>(
  "SELECT namespace, snapshotter, key, parent FROM snapshot_commits",
);

/** Adds what is used for its own sake to `pending`, and collects back references. */
function* scanRoots(db: Database, run: Run, pending: Node[]): Generator<void> {
  const conditional: { from: Node; to: Node; holds: (usedAt: number, now: number) => boolean }[] = [];
  const usedAt = new Map<Node, number>();
  const backReference = (from: Node, to: Node): void => {
    const known = run.backReferences.get(from);
    if (known === undefined) run.backReferences.set(from, [to]);
    else known.push(to);
  };

  for (const row of leaseRows(db).iterate()) {
    yield;
    const labels = decodeLabels(row.labels);
    if (isExpired(labels, run.now)) continue;
    pending.push(leaseNode(row.namespace, row.name));
    const isFlat = Object.hasOwn(labels, FLAT_LABEL);
    for (const resource of leaseResources(db).all(row.namespace, row.name)) {
      const node = resourceNode(row.namespace, resource.type, resource.id);
      if (node !== undefined) pending.push(isFlat ? flat(node) : node);
      yield;
    }
  }
  for (const row of imageRows(db).iterate()) {
    yield;
    const labels = decodeLabels(row.labels);
    const node = imageNode(row.namespace, row.name);
    const edges = labelEdges(row.namespace, labels);
    if (isExpired(labels, run.now)) for (const from of edges.backReferences) backReference(from, node);
    else pending.push(node);
    for (const each of edges.conditional) conditional.push({ from: node, to: each.node, holds: each.holds });
  }
  for (const row of liveIngests(db).iterate(run.now)) {
    pending.push(ingestNode(row.namespace, row.ref));
    yield;
  }
  for (const row of labelledContent(db).iterate()) {
    yield;
    const node = contentNode(row.namespace, row.name);
    const edges = labelEdges(row.namespace, decodeLabels(row.labels));
    if (edges.root) pending.push(node);
    for (const from of edges.backReferences) backReference(from, node);
    for (const each of edges.conditional) conditional.push({ from: node, to: each.node, holds: each.holds });
  }
  for (const row of containerRows(db).iterate()) {
    yield;
    const node = containerNode(row.namespace, row.name);
    pending.push(node);
    for (const from of labelEdges(row.namespace, decodeLabels(row.labels)).backReferences) backReference(from, node);
  }
  for (const row of labelledSnapshots(db).iterate()) {
    yield;
    const node = snapshotNode(row.namespace, row.snapshotter, row.name);
    const edges = labelEdges(row.namespace, decodeLabels(row.labels));
    if (edges.root) pending.push(node);
    for (const from of edges.backReferences) backReference(from, node);
    if (edges.usedAt !== undefined) usedAt.set(node, edges.usedAt);
  }
  for (const row of sandboxRows(db).iterate()) {
    yield;
    pending.push(...labelEdges(row.namespace, decodeLabels(row.labels)).references);
  }
  for (const row of commitRows(db).iterate()) {
    yield;
    pending.push(snapshotNode(row.namespace, row.snapshotter, row.key));
    if (row.parent !== "") pending.push(snapshotNode(row.namespace, row.snapshotter, row.parent));
  }
  for (const { from, to, holds } of conditional) {
    const used = usedAt.get(to);
    if (used !== undefined && holds(used, run.now)) backReference(from, to);
    yield;
  }
}

/** Visits everything reachable from `pending`. */
function* traverse(db: Database, run: Run, pending: Node[]): Generator<void> {
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    if (run.visited.has(node)) continue;
    run.visited.add(node);
    for (const next of references(db, run, node)) if (!run.visited.has(next)) pending.push(next);
    yield;
  }
}

const contentLabels = statement<{ labels: string }, [string, string]>(
  "SELECT labels FROM content WHERE namespace = ? AND digest = ?",
);
const snapshotLinks = statement<{ parent: string; labels: string }, [string, string, string]>(
  "SELECT parent, labels FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?",
);
const imageLinks = statement<{ digest: string; labels: string }, [string, string]>(
  "SELECT digest, labels FROM images WHERE namespace = ? AND name = ?",
);
const containerLinks = statement<{ snapshotter: string; snapshot_key: string; labels: string }, [string, string]>(
  "SELECT snapshotter, snapshot_key, labels FROM containers WHERE namespace = ? AND id = ?",
);
const ingestExpected = statement<{ expected: string }, [string, string]>(
  "SELECT expected FROM ingests WHERE namespace = ? AND ref = ?",
);

function references(db: Database, run: Run, node: Node): readonly Node[] {
  const found = [...(run.backReferences.get(node) ?? [])];
  const parts = partsOf(node);
  if (parts === undefined) return found;
  const { kind, namespace, snapshotter, key } = parts;
  const follow = (labels: string): void => {
    found.push(...labelEdges(namespace, decodeLabels(labels)).references);
  };
  switch (kind) {
    case "content": {
      const row = contentLabels(db).get(namespace, key);
      if (row !== null) follow(row.labels);
      break;
    }
    case "snapshot":
    case "snapshot-flat": {
      const row = snapshotLinks(db).get(namespace, snapshotter, key);
      if (row === null) break;
      if (row.parent !== "") {
        const parent = snapshotNode(namespace, snapshotter, row.parent);
        found.push(kind === "snapshot" ? parent : flat(parent));
      }
      if (kind === "snapshot") follow(row.labels);
      break;
    }
    case "image":
    case "image-flat": {
      const row = imageLinks(db).get(namespace, key);
      if (row === null) break;
      const target = contentNode(namespace, row.digest);
      found.push(kind === "image" ? target : flat(target));
      if (kind === "image") follow(row.labels);
      break;
    }
    case "container": {
      const row = containerLinks(db).get(namespace, key);
      if (row === null) break;
      if (row.snapshotter !== "") found.push(snapshotNode(namespace, row.snapshotter, row.snapshot_key));
      follow(row.labels);
      break;
    }
    case "ingest": {
      const row = ingestExpected(db).get(namespace, key);
      if (row !== null && row.expected !== "") found.push(contentNode(namespace, row.expected));
      break;
    }
    case "lease":
    case "content-flat":
      break;
    default:
      kind satisfies never;
  }
  return found;
}

const everyLease = statement<{ namespace: string; id: string }, []>("SELECT namespace, id FROM leases");
const everySnapshot = statement<{ namespace: string; snapshotter: string; name: string }, []>(
  "SELECT namespace, snapshotter, name FROM snapshots",
);
const everyIngest = statement<{ namespace: string; ref: string }, []>("SELECT namespace, ref FROM ingests");
const everyContent = statement<{ namespace: string; digest: string }, []>("SELECT namespace, digest FROM content");
const everyImage = statement<{ namespace: string; name: string }, []>("SELECT namespace, name FROM images");

/** Every object that may be collected. */
function* allNodes(db: Database): Generator<Node> {
  for (const row of everyLease(db).iterate()) yield leaseNode(row.namespace, row.id);
  for (const row of everySnapshot(db).iterate()) yield snapshotNode(row.namespace, row.snapshotter, row.name);
  for (const row of everyIngest(db).iterate()) yield ingestNode(row.namespace, row.ref);
  for (const row of everyContent(db).iterate()) yield contentNode(row.namespace, row.digest);
  for (const row of everyImage(db).iterate()) yield imageNode(row.namespace, row.name);
}

const dropContent = statement<{ digest: string }, [string, string]>(
  "DELETE FROM content WHERE namespace = ? AND digest = ? RETURNING digest",
);
const dropSnapshot = statement<{ parent: string; backend_key: string }, [string, string, string]>(
  "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ? RETURNING parent, backend_key",
);
const dropImage = statement<{ name: string }, [string, string]>(
  "DELETE FROM images WHERE namespace = ? AND name = ? RETURNING name",
);
const dropLease = statement<{ id: string }, [string, string]>(
  "DELETE FROM leases WHERE namespace = ? AND id = ? RETURNING id",
);
const dropLeaseResources = statement<never, [string, string]>(
  "DELETE FROM lease_resources WHERE namespace = ? AND lease = ?",
);
const dropIngest = statement<{ backend_ref: string; expected: string }, [string, string]>(
  "DELETE FROM ingests WHERE namespace = ? AND ref = ? RETURNING backend_ref, expected",
);

function removeRow(db: Database, node: Node): Removed | undefined {
  const parts = partsOf(unflat(node));
  if (parts === undefined) return undefined;
  const { kind, namespace, snapshotter, key } = parts;
  if (kind === "content") {
    const row = dropContent(db).get(namespace, key);
    return row === null ? undefined : { kind, namespace, digest: key };
  }
  if (kind === "snapshot") {
    const row = dropSnapshot(db).get(namespace, snapshotter, key);
    if (row === null) return undefined;
    return { kind, namespace, snapshotter, name: key, parent: row.parent, backendKey: row.backend_key };
  }
  if (kind === "image") {
    const row = dropImage(db).get(namespace, key);
    return row === null ? undefined : { kind, namespace, name: key };
  }
  if (kind === "lease") {
    const row = dropLease(db).get(namespace, key);
    if (row === null) return undefined;
    dropLeaseResources(db).run(namespace, key);
    return { kind, namespace, id: key };
  }
  if (kind === "ingest") {
    const row = dropIngest(db).get(namespace, key);
    return row === null
      ? undefined
      : { kind, namespace, ref: key, backendRef: row.backend_ref, expected: row.expected };
  }
  return undefined;
}
