import { classified, withContext } from "@stevedore/base";
import { microsOf, momentOfMicros } from "@stevedore/base/moment";
import {
  type FieldMask,
  goQuote,
  mergeLabels,
  type NewSandbox,
  type Sandbox,
  validateIdentifier,
} from "@stevedore/core";
import { decodeAny, decodeExtensions, decodeLabels, encodeExtensions, encodeLabels } from "../rows.ts";
import { statement } from "../statement.ts";
import { later, type Transaction } from "../transaction.ts";
import { ensureNamespace, type Scope, touchLabels } from "./shared.ts";

export interface SandboxRow {
  id: string;
  labels: string;
  sandboxer: string;
  runtime: string;
  runtime_options_type: string | null;
  runtime_options: Uint8Array | null;
  spec_type: string | null;
  spec: Uint8Array | null;
  extensions: string;
  created_at: number;
  updated_at: number;
}

export function sandboxOf(row: SandboxRow): Sandbox {
  const options = decodeAny(row.runtime_options_type, row.runtime_options);
  const spec = decodeAny(row.spec_type, row.spec);
  return {
    id: row.id,
    labels: decodeLabels(row.labels),
    sandboxer: row.sandboxer,
    runtime: { name: row.runtime, ...(options === undefined ? {} : { options }) },
    ...(spec === undefined ? {} : { spec }),
    extensions: decodeExtensions(row.extensions),
    createdAt: momentOfMicros(row.created_at),
    updatedAt: momentOfMicros(row.updated_at),
  };
}

/** In the peer's words. */
export function sandboxNotFound(id: string): Error {
  return classified("not-found", `bucket ${goQuote(id)} not found: not found`);
}

const select = statement<SandboxRow, [string, string]>("SELECT * FROM sandboxes WHERE namespace = ? AND id = ?");
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
    number,
    number,
  ]
>(
  `INSERT OR REPLACE INTO sandboxes (namespace, id, labels, sandboxer, runtime, runtime_options_type, runtime_options,
   spec_type, spec, extensions, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
);
const drop = statement<{ id: string }, [string, string]>(
  "DELETE FROM sandboxes WHERE namespace = ? AND id = ? RETURNING id",
);

export function createSandbox(tx: Transaction, args: { readonly scope: Scope; readonly sandbox: NewSandbox }): Sandbox {
  const { scope, sandbox } = args;
  try {
    validate(sandbox);
  } catch (error) {
    throw withContext("failed to validate sandbox", error);
  }
  ensureNamespace(tx, scope.namespace);
  if (select(tx.db).get(scope.namespace, sandbox.id) !== null) {
    throw classified(
      "already-exists",
      `write error: sandbox bucket ${goQuote(sandbox.id)} already exists: already exists`,
    );
  }
  const at = momentOfMicros(tx.now);
  return put(tx, scope.namespace, { ...sandbox, createdAt: at, updatedAt: at });
}

const REPLACED: FieldMask = ["labels", "extensions", "spec", "runtime"];

export function updateSandbox(
  tx: Transaction,
  args: { readonly scope: Scope; readonly sandbox: NewSandbox; readonly fields: FieldMask },
): Sandbox {
  const { scope, sandbox } = args;
  const row = select(tx.db).get(scope.namespace, sandbox.id);
  if (row === null) throw sandboxNotFound(sandbox.id);
  if (args.fields.length === 0 && row.runtime !== sandbox.runtime.name) {
    throw classified("invalid-argument", "sandbox.Runtime.Name field is immutable: invalid argument");
  }
  const fields = args.fields.length === 0 ? REPLACED : args.fields;
  let { spec, ...merged } = sandboxOf(row);
  for (const path of fields) {
    if (path === "labels" || path.startsWith("labels.")) {
      merged = { ...merged, labels: mergeLabels(merged.labels, sandbox.labels, [path]) };
    } else if (path === "extensions") merged = { ...merged, extensions: sandbox.extensions };
    else if (path.startsWith("extensions.")) {
      const key = path.slice("extensions.".length);
      const value = Object.hasOwn(sandbox.extensions, key) ? sandbox.extensions[key] : undefined;
      const entries = Object.entries(merged.extensions).filter(([name]) => name !== key);
      merged = {
        ...merged,
        extensions: Object.fromEntries(value === undefined ? entries : [...entries, [key, value]]),
      };
    } else if (path === "spec") spec = sandbox.spec;
    else if (path === "runtime") merged = { ...merged, runtime: sandbox.runtime };
    else {
      throw classified(
        "invalid-argument",
        `cannot update ${goQuote(path)} field on sandbox ${goQuote(sandbox.id)}: invalid argument`,
      );
    }
  }
  const next = { ...merged, ...(spec === undefined ? {} : { spec }) };
  validate(next);
  return put(tx, scope.namespace, { ...next, updatedAt: momentOfMicros(later(row.updated_at, tx.now)) });
}

export function deleteSandbox(tx: Transaction, args: { readonly scope: Scope; readonly id: string }): undefined {
  if (drop(tx.db).get(args.scope.namespace, args.id) === null) {
    throw classified("not-found", `failed to delete sandbox ${goQuote(args.id)}: not found`);
  }
  tx.dirty();
}

function put(tx: Transaction, namespace: string, sandbox: Sandbox): Sandbox {
  const labels = mergeLabels({}, sandbox.labels, []);
  write(tx.db).run(
    namespace,
    sandbox.id,
    encodeLabels(labels),
    sandbox.sandboxer,
    sandbox.runtime.name,
    sandbox.runtime.options?.typeUrl ?? null,
    sandbox.runtime.options?.value ?? null,
    sandbox.spec?.typeUrl ?? null,
    sandbox.spec?.value ?? null,
    encodeExtensions(sandbox.extensions),
    microsOf(sandbox.createdAt),
    microsOf(sandbox.updatedAt),
  );
  touchLabels(tx, namespace, labels);
  return { ...sandbox, labels };
}

// As the peer's, it takes labels of any length: CRI keeps annotations of pods in them.
function validate(sandbox: NewSandbox): void {
  try {
    validateIdentifier(sandbox.id);
  } catch (error) {
    throw withContext("invalid sandbox ID", error);
  }
  if (Object.hasOwn(sandbox.extensions, "")) {
    throw classified("invalid-argument", "sandbox.Extensions keys must not be zero-length: invalid argument");
  }
}
