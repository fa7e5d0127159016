import { classified, messageOf } from "@stevedore/base";
import { momentOfMicros } from "@stevedore/base/moment";
import { goQuote, type Labels, type Lease, type LeaseResource, mergeLabels } from "@stevedore/core";
import { parseDigest } from "@stevedore/oci/digest";
import { resourceNode } from "../nodes.ts";
import { encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import type { Transaction } from "../transaction.ts";
import { addToLease, ensureNamespace, leaseExists, removeFromLease, type Scope, touch, touchLease } from "./shared.ts";

const insert = statement<never, [string, string, string, number]>(
  "INSERT INTO leases (namespace, id, labels, created_at) VALUES (?, ?, ?, ?)",
);
const drop = statement<{ id: string }, [string, string]>(
  "DELETE FROM leases WHERE namespace = ? AND id = ? RETURNING id",
);
const dropResources = statement<never, [string, string]>(
  "DELETE FROM lease_resources WHERE namespace = ? AND lease = ?",
);

export function createLease(
  tx: Transaction,
  args: { readonly scope: Scope; readonly id: string; readonly labels: Labels },
): Lease {
  const { namespace } = args.scope;
  if (args.id === "") throw classified("invalid-argument", "lease id must be provided: invalid argument");
  ensureNamespace(tx, namespace);
  if (leaseExists(tx, namespace, args.id)) {
    throw classified("already-exists", `lease ${goQuote(args.id)}: already exists`);
  }
  const labels = mergeLabels({}, args.labels, []);
  insert(tx.db).run(namespace, args.id, encodeLabels(labels), tx.now);
  touchLease(tx, namespace, args.id);
  return { id: args.id, createdAt: momentOfMicros(tx.now), labels };
}

export function deleteLease(tx: Transaction, args: { readonly scope: Scope; readonly id: string }): undefined {
  const { namespace } = args.scope;
  if (drop(tx.db).get(namespace, args.id) === null) {
    throw classified("not-found", `lease ${goQuote(args.id)}: not found`);
  }
  dropResources(tx.db).run(namespace, args.id);
  tx.dirty();
}

interface ResourceCall {
  readonly scope: Scope;
  readonly id: string;
  readonly resource: LeaseResource;
}

export function addLeaseResource(tx: Transaction, args: ResourceCall): undefined {
  const scope = checkedResource(tx, args);
  addToLease(tx, scope, args.resource.type, args.resource.id);
  touchLease(tx, scope.namespace, args.id);
}

export function deleteLeaseResource(tx: Transaction, args: ResourceCall): undefined {
  const scope = checkedResource(tx, args);
  removeFromLease(tx, scope, args.resource.type, args.resource.id);
  const node = resourceNode(scope.namespace, args.resource.type, args.resource.id);
  if (node !== undefined) touch(tx, node);
  tx.dirty();
}

function checkedResource(tx: Transaction, args: ResourceCall): Scope {
  const { namespace } = args.scope;
  if (!leaseExists(tx, namespace, args.id)) {
    throw classified("not-found", `lease ${goQuote(args.id)}: not found`);
  }
  const { id, type } = args.resource;
  const [kind, ...rest] = type.split("/");
  if (kind === "content" || kind === "ingests" || kind === "images") {
    if (rest.length > 0) throw classified("invalid-argument", `invalid resource type ${type}: invalid argument`);
    if (kind === "content") {
      try {
        parseDigest(id);
      } catch (error) {
        throw classified(
          "invalid-argument",
          `invalid content resource id ${id}: ${messageOf(error)}: invalid argument`,
        );
      }
    }
  } else if (kind === "snapshots") {
    if (rest.length !== 1) {
      throw classified("invalid-argument", `invalid snapshot resource type ${type}: invalid argument`);
    }
  } else {
    throw classified("not-implemented", `resource type ${type} not supported yet: not implemented`);
  }
  return { namespace, lease: args.id };
}
