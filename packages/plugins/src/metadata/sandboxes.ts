import type { RequestContext } from "@stevedore/base";
import { type FieldMask, labelAt, matcher, type NewSandbox, type Sandbox, type SandboxStore } from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { type SandboxRow, sandboxNotFound, sandboxOf } from "./procedures/sandboxes.ts";
import { ownBytes, ownExtensions, scopeOf } from "./scope.ts";
import { statement } from "./statement.ts";

const select = statement<SandboxRow, [string, string]>("SELECT * FROM sandboxes WHERE namespace = ? AND id = ?");
const all = statement<SandboxRow, [string]>("SELECT * FROM sandboxes WHERE namespace = ? ORDER BY id");

function sandboxField(sandbox: Sandbox, path: readonly string[]): string | undefined {
  if (path[0] === "id") return sandbox.id;
  return path[0] === "labels" ? labelAt(sandbox.labels, path) : undefined;
}

export class MetadataSandboxStore implements SandboxStore {
  readonly #database: MetadataDatabase;

  constructor(database: MetadataDatabase) {
    this.#database = database;
  }

  async get(context: RequestContext, id: string): Promise<Sandbox> {
    await Promise.resolve();
    const row = select(this.#database.reader).get(scopeOf(context).namespace, id);
    if (row === null) throw sandboxNotFound(id);
    return sandboxOf(row);
  }

  async list(context: RequestContext, filters: readonly string[]): Promise<readonly Sandbox[]> {
    await Promise.resolve();
    const { namespace } = scopeOf(context);
    const match = matcher(filters, sandboxField);
    return all(this.#database.reader).all(namespace).map(sandboxOf).filter(match);
  }

  async create(context: RequestContext, sandbox: NewSandbox): Promise<Sandbox> {
    return this.#database.call("createSandbox", { scope: scopeOf(context), sandbox: own(sandbox) });
  }

  async update(context: RequestContext, sandbox: NewSandbox, fields: FieldMask): Promise<Sandbox> {
    return this.#database.call("updateSandbox", { scope: scopeOf(context), sandbox: own(sandbox), fields });
  }

  async delete(context: RequestContext, id: string): Promise<void> {
    await this.#database.call("deleteSandbox", { scope: scopeOf(context), id });
  }
}

function own(sandbox: NewSandbox): NewSandbox {
  const { spec, runtime } = sandbox;
  return {
    ...sandbox,
    runtime: { name: runtime.name, ...(runtime.options === undefined ? {} : { options: ownBytes(runtime.options) }) },
    ...(spec === undefined ? {} : { spec: ownBytes(spec) }),
    extensions: ownExtensions(sandbox.extensions),
  };
}
