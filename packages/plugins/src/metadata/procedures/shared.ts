import { classified } from "@stevedore/base";
import type { Labels } from "@stevedore/core";
import { labelEdges, leaseNode, type Node, resourceNode } from "../nodes.ts";
import { statement } from "../statement.ts";
import type { Transaction } from "../transaction.ts";

/** Whose call it is: with a lease, what is made or named is added to it. */
export interface Scope {
  readonly namespace: string;
  readonly lease: string | undefined;
}

const insertNamespace = statement<never, [string]>(
  "INSERT INTO namespaces (name, labels) VALUES (?, '{}') ON CONFLICT DO NOTHING",
);

/** A namespace exists from the first object in it. */
export function ensureNamespace(tx: Transaction, namespace: string): void {
  insertNamespace(tx.db).run(namespace);
}

/** Reports what labels refer to. */
export function touchLabels(tx: Transaction, namespace: string, labels: Labels): void {
  const edges = labelEdges(namespace, labels);
  for (const node of edges.references) tx.collection.touch(node);
  for (const each of edges.conditional) tx.collection.touch(each.node);
}

const findLease = statement<{ id: string }, [string, string]>("SELECT id FROM leases WHERE namespace = ? AND id = ?");
const insertResource = statement<never, [string, string, string, string]>(
  "INSERT INTO lease_resources (namespace, lease, type, id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
);
const deleteResource = statement<never, [string, string, string, string]>(
  "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
);

export function leaseExists(tx: Transaction, namespace: string, lease: string): boolean {
  return findLease(tx.db).get(namespace, lease) !== null;
}

/**
 * Adds an object to the caller's lease; without a lease nothing happens.
 * @returns whether there is a lease
 * @throws not-found `lease does not exist: not found`
 */
export function addToLease(tx: Transaction, scope: Scope, type: string, id: string): boolean {
  const node = resourceNode(scope.namespace, type, id);
  if (node !== undefined) tx.collection.touch(node);
  if (scope.lease === undefined) return false;
  if (!leaseExists(tx, scope.namespace, scope.lease)) {
    throw classified("not-found", "lease does not exist: not found");
  }
  insertResource(tx.db).run(scope.namespace, scope.lease, type, id);
  return true;
}

/** Takes an object out of the caller's lease, if it is in it. */
export function removeFromLease(tx: Transaction, scope: Scope, type: string, id: string): void {
  if (scope.lease !== undefined) deleteResource(tx.db).run(scope.namespace, scope.lease, type, id);
}

export function touch(tx: Transaction, ...nodes: readonly Node[]): void {
  for (const node of nodes) tx.collection.touch(node);
}

export function touchLease(tx: Transaction, namespace: string, lease: string): void {
  tx.collection.touch(leaseNode(namespace, lease));
}

const takeBlock = statement<{ value: number }, [string, number, number]>(
  "INSERT INTO sequences (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + ? RETURNING value",
);

/** How many numbers are taken from the file at once: after a crash the rest of a block is skipped. */
const BLOCK = 256;

/** The next number of a sequence. Never given twice, also after a crash. */
export function nextNumber(tx: Transaction, sequence: string): number {
  const known = tx.memory.blocks.get(sequence);
  if (known !== undefined && known.next < known.end) return known.next++;
  const end = (takeBlock(tx.db).get(sequence, BLOCK, BLOCK)?.value ?? BLOCK) + 1;
  const block = { next: end - BLOCK, end };
  tx.memory.blocks.set(sequence, block);
  return block.next++;
}
