import { classified, type RequestContext } from "@stevedore/base";
import {
  type Container,
  type ContainerStore,
  containerField,
  type FieldMask,
  goQuote,
  type NewContainer,
} from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { matcherTwice } from "./images.ts";
import { type ContainerRow, containerOf } from "./procedures/containers.ts";
import { ownBytes, ownExtensions, scopeOf } from "./scope.ts";
import { statement } from "./statement.ts";

const select = statement<ContainerRow, [string, string]>("SELECT * FROM containers WHERE namespace = ? AND id = ?");
const all = statement<ContainerRow, [string]>("SELECT * FROM containers WHERE namespace = ? ORDER BY id");

export class MetadataContainerStore implements ContainerStore {
  readonly #database: MetadataDatabase;

  constructor(database: MetadataDatabase) {
    this.#database = database;
  }

  async get(context: RequestContext, id: string): Promise<Container> {
    await Promise.resolve();
    const { namespace } = scopeOf(context);
    const row = select(this.#database.reader).get(namespace, id);
    if (row === null) {
      throw classified("not-found", `container ${goQuote(id)} in namespace ${goQuote(namespace)}: not found`);
    }
    return containerOf(row);
  }

  async list(context: RequestContext, filters: readonly string[]): Promise<readonly Container[]> {
    await Promise.resolve();
    const { namespace } = scopeOf(context);
    const match = matcherTwice(filters, containerField);
    return all(this.#database.reader).all(namespace).map(containerOf).filter(match);
  }

  async create(context: RequestContext, container: NewContainer): Promise<Container> {
    return this.#database.call("createContainer", { scope: scopeOf(context), container: own(container) }, context);
  }

  async update(context: RequestContext, container: NewContainer, fields: FieldMask): Promise<Container> {
    return this.#database.call(
      "updateContainer",
      { scope: scopeOf(context), container: own(container), fields },
      context,
    );
  }

  async delete(context: RequestContext, id: string): Promise<void> {
    await this.#database.call("deleteContainer", { scope: scopeOf(context), id }, context);
  }
}

function own(container: NewContainer): NewContainer {
  const { spec, runtime } = container;
  return {
    ...container,
    runtime: { name: runtime.name, ...(runtime.options === undefined ? {} : { options: ownBytes(runtime.options) }) },
    ...(spec === undefined ? {} : { spec: ownBytes(spec) }),
    extensions: ownExtensions(container.extensions),
  };
}
