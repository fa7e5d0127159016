import { classified, messageOf, type RequestContext } from "@stevedore/base";
import {
  type FieldMask,
  goQuote,
  type Image,
  type ImageStore,
  imageField,
  matcher,
  type NewImage,
} from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { type ImageRow, imageOf } from "./procedures/images.ts";
import { scopeOf } from "./scope.ts";
import { statement } from "./statement.ts";

const select = statement<ImageRow, [string, string]>("SELECT * FROM images WHERE namespace = ? AND name = ?");
const all = statement<ImageRow, [string]>("SELECT * FROM images WHERE namespace = ? ORDER BY name");

/** Runs garbage collection now and waits for it; what deletes with `sync` call. */
export type CollectNow = (signal: AbortSignal) => Promise<unknown>;

export class MetadataImageStore implements ImageStore {
  readonly #database: MetadataDatabase;
  readonly #collectNow: CollectNow;

  constructor(database: MetadataDatabase, collectNow: CollectNow) {
    this.#database = database;
    this.#collectNow = collectNow;
  }

  async get(context: RequestContext, name: string): Promise<Image> {
    await Promise.resolve();
    const row = select(this.#database.reader).get(scopeOf(context).namespace, name);
    if (row === null) throw classified("not-found", `image ${goQuote(name)}: not found`);
    return imageOf(row);
  }

  async list(context: RequestContext, filters: readonly string[]): Promise<readonly Image[]> {
    await Promise.resolve();
    const { namespace } = scopeOf(context);
    const match = matcherTwice(filters, imageField);
    return all(this.#database.reader).all(namespace).map(imageOf).filter(match);
  }

  async create(context: RequestContext, image: NewImage): Promise<Image> {
    return this.#database.call("createImage", { scope: scopeOf(context), image }, context);
  }

  async update(context: RequestContext, image: NewImage, fields: FieldMask): Promise<Image> {
    return this.#database.call("updateImage", { scope: scopeOf(context), image, fields }, context);
  }

  async delete(
    context: RequestContext,
    name: string,
    options: { readonly sync?: boolean; readonly target?: string } = {},
  ): Promise<void> {
    await this.#database.call("deleteImage", { scope: scopeOf(context), name, target: options.target }, context);
    if (options.sync === true) await this.#collectNow(context.signal);
  }
}

/** The peer's stores of images, containers and leases name the class of a bad filter twice. */
export function matcherTwice<T>(
  filters: readonly string[],
  fieldOf: (object: T, path: readonly string[]) => string | undefined,
): (object: T) => boolean {
  try {
    return matcher(filters, fieldOf);
  } catch (error) {
    throw classified("invalid-argument", `${messageOf(error)}: invalid argument`);
  }
}
