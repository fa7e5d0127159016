import { createContainer, deleteContainer, updateContainer } from "./procedures/containers.ts";
import { abortIngest, commitContent, deleteContent, openIngest, updateContent } from "./procedures/content.ts";
import { appendEvent } from "./procedures/events.ts";
import { createImage, deleteImage, updateImage } from "./procedures/images.ts";
import { addLeaseResource, createLease, deleteLease, deleteLeaseResource } from "./procedures/leases.ts";
import { createNamespace, deleteNamespace, updateNamespace } from "./procedures/namespaces.ts";
import { createSandbox, deleteSandbox, updateSandbox } from "./procedures/sandboxes.ts";
import {
  commitRecord,
  createRecord,
  removeRecord,
  reserveRecordId,
  updateRecord,
} from "./procedures/snapshot-records.ts";
import {
  beginCommit,
  beginPrepare,
  endCommit,
  endPrepare,
  releasePins,
  removeSnapshot,
  updateSnapshot,
} from "./procedures/snapshots.ts";
import { statement } from "./statement.ts";
import type { Transaction } from "./transaction.ts";

const writeFact = statement<never, [string, string]>(
  "INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
);

function setFact(tx: Transaction, args: { readonly name: string; readonly value: string }): undefined {
  writeFact(tx.db).run(args.name, args.value);
}

/** Every change the store can make, by name. Each runs in the writer thread, in a savepoint of its own. */
export const procedures = {
  abortIngest,
  addLeaseResource,
  appendEvent,
  beginCommit,
  beginPrepare,
  commitContent,
  commitRecord,
  createContainer,
  createImage,
  createLease,
  createNamespace,
  createRecord,
  createSandbox,
  deleteContainer,
  deleteContent,
  deleteImage,
  deleteLease,
  deleteLeaseResource,
  deleteNamespace,
  deleteSandbox,
  endCommit,
  endPrepare,
  openIngest,
  releasePins,
  removeRecord,
  removeSnapshot,
  reserveRecordId,
  setFact,
  updateContainer,
  updateContent,
  updateImage,
  updateNamespace,
  updateRecord,
  updateSandbox,
  updateSnapshot,
};

export type ProcedureName = keyof typeof procedures;
export type ProcedureArgs<K extends ProcedureName> = Parameters<(typeof procedures)[K]>[1];
export type ProcedureResult<K extends ProcedureName> = ReturnType<(typeof procedures)[K]>;

/**
 * Procedures whose change may be lost in a power cut (never in a crash of the daemon), because what it describes is
 * found again or thrown away: a batch of only these is not synced. The log keeps their order before any synced change.
 */
export const UNSYNCED: ReadonlySet<ProcedureName> = new Set<ProcedureName>([
  "abortIngest",
  // What shims tell is about processes, which a power cut ends too.
  "appendEvent",
  "beginCommit",
  "beginPrepare",
  "openIngest",
  "releasePins",
  "reserveRecordId",
]);

/** Procedures that change nothing a collection could be interested in. */
export const UNCOUNTED: ReadonlySet<ProcedureName> = new Set<ProcedureName>([
  "appendEvent",
  "beginPrepare",
  "releasePins",
  "reserveRecordId",
  "setFact",
]);

export function isProcedureName(name: string): name is ProcedureName {
  return Object.hasOwn(procedures, name);
}
