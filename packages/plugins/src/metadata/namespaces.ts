import { classified, type RequestContext, withContext } from "@stevedore/base";
import {
  type FieldMask,
  goQuote,
  type Labels,
  type Namespace,
  type NamespaceStore,
  validateIdentifier,
  validateLabels,
} from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { decodeLabels } from "./rows.ts";
import { statement } from "./statement.ts";

const select = statement<{ name: string; labels: string }, [string]>(
  "SELECT name, labels FROM namespaces WHERE name = ?",
);
const all = statement<{ name: string; labels: string }, []>("SELECT name, labels FROM namespaces ORDER BY name");

function namespaceOf(row: { readonly name: string; readonly labels: string }): Namespace {
  return { name: row.name, labels: decodeLabels(row.labels) };
}

export class MetadataNamespaceStore implements NamespaceStore {
  readonly #database: MetadataDatabase;

  constructor(database: MetadataDatabase) {
    this.#database = database;
  }

  async get(_context: RequestContext, name: string): Promise<Namespace> {
    await Promise.resolve();
    const row = select(this.#database.reader).get(name);
    if (row === null) throw classified("not-found", `namespace ${goQuote(name)}: not found`);
    return namespaceOf(row);
  }

  async list(): Promise<readonly Namespace[]> {
    await Promise.resolve();
    return all(this.#database.reader).all().map(namespaceOf);
  }

  async create(context: RequestContext, namespace: Namespace): Promise<Namespace> {
    validateIdentifier(namespace.name);
    checkLabels(namespace.labels);
    return this.#database.call("createNamespace", { namespace }, context);
  }

  async update(context: RequestContext, namespace: Namespace, fields: FieldMask): Promise<Namespace> {
    for (const path of fields) {
      if (path === "labels" || path.startsWith("labels.")) continue;
      throw classified("invalid-argument", `cannot update ${goQuote(path)} field: invalid argument`);
    }
    checkLabels(namespace.labels);
    return this.#database.call("updateNamespace", { name: namespace.name, labels: namespace.labels, fields }, context);
  }

  async delete(context: RequestContext, name: string): Promise<void> {
    await this.#database.call("deleteNamespace", { name }, context);
  }
}

function checkLabels(labels: Labels): void {
  try {
    validateLabels(labels);
  } catch (error) {
    throw withContext("namespace.Labels", error);
  }
}
