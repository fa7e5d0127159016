/** Finds in the daemon's stores what clients of the registry ask for. Reads only. */
import { isErrorClass, type RequestContext } from "@stevedore/base";
import { type ContentInfo, type ContentStore, type ImageStore, KeyedLock } from "@stevedore/core";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import {
  childrenOf,
  type Descriptor,
  type Index,
  MAX_DOCUMENT_SIZE,
  type Manifest,
  parseManifestOrIndex,
} from "@stevedore/oci/manifest";
import { isIndexType, isManifestType, MediaType } from "@stevedore/oci/media-types";
import { RegistryError } from "./answers.ts";
import type { ManifestReference } from "./route.ts";

/** The stores, which keep things by containerd's namespaces. */
export interface LookupStores {
  readonly images: Pick<ImageStore, "get" | "list">;
  readonly content: Pick<ContentStore, "info" | "open">;
}

/** A blob and the namespace that has it. */
export interface FoundBlob {
  readonly context: RequestContext;
  readonly info: ContentInfo;
}

export interface FoundManifest extends FoundBlob {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

/** Where a client says it is: the address it dialled, and the registry it wants through this one (`?ns=`), if it said so. */
export interface Asked {
  readonly host: string;
  readonly ns?: string;
  readonly signal: AbortSignal;
}

const HOST_LIKE = /^(?:localhost$|.*[.:])/;
/** Manifests below indexes that a search for referrers looks into, in all. */
const MAX_REFERRERS_LOOKED_AT = 10_000;

/**
 * The images of some namespaces as repositories. An image is found by the name its users know (`docker.io/library/busybox:1`), by that
 * name without its host, and under the registry that a mirror's client names.
 */
export class Lookup {
  readonly #stores: LookupStores;
  readonly #namespaces: readonly string[];
  readonly #searches = new KeyedLock();

  /** @param namespaces searched in this order */
  constructor(stores: LookupStores, namespaces: readonly string[]) {
    this.#stores = stores;
    this.#namespaces = namespaces;
  }

  /** The full names that a repository may have, most exact first. */
  repositoriesFor(name: string, { host, ns }: Asked): readonly string[] {
    if (ns !== undefined) return [`${ns}/${name}`];
    const slash = name.indexOf("/");
    const own = slash > 0 && HOST_LIKE.test(name.slice(0, slash)) ? [name] : [];
    return [...own, `${host}/${name}`, `docker.io/${name}`];
  }

  /** @throws RegistryError MANIFEST_UNKNOWN, NAME_UNKNOWN */
  async manifest(asked: Asked, name: string, reference: ManifestReference): Promise<FoundManifest> {
    if ("digest" in reference) {
      const blob = await this.blobOrNone(asked, reference.digest);
      const found = blob === undefined ? undefined : await this.#document(blob);
      if (found === undefined) throw new RegistryError("MANIFEST_UNKNOWN", undefined, { detail: reference });
      return found;
    }
    const { context, image } = await this.#tagged(asked, name, reference.tag);
    const blob = await this.#info(context, image.target.digest);
    const found = blob === undefined ? undefined : await this.#document(blob);
    if (found !== undefined) return { ...found, mediaType: image.target.mediaType || found.mediaType };
    throw new RegistryError(
      "MANIFEST_UNKNOWN",
      `image ${image.name} points at ${image.target.digest}, which is not in this store`,
      { detail: reference },
    );
  }

  async #tagged(
    asked: Asked,
    name: string,
    tag: string,
  ): Promise<{ readonly context: RequestContext; readonly image: Awaited<ReturnType<ImageStore["get"]>> }> {
    const repositories = this.repositoriesFor(name, asked);
    for (const context of this.#contexts(asked)) {
      for (const repository of repositories) {
        try {
          return { context, image: await this.#stores.images.get(context, `${repository}:${tag}`) };
        } catch (error) {
          if (!isErrorClass(error, "not-found")) throw error;
        }
      }
    }
    const unknown = (message?: string): RegistryError =>
      new RegistryError("MANIFEST_UNKNOWN", message, { detail: { name, tag } });
    if (asked.ns !== undefined) throw unknown();
    // Under any other host, as long as that means one image.
    const under = `/${name}:${tag}`;
    const found = new Map<string, { context: RequestContext; image: Awaited<ReturnType<ImageStore["get"]>> }>();
    for (const context of this.#contexts(asked)) {
      for (const image of await this.#stores.images.list(context, [])) {
        if (image.name.indexOf("/") === image.name.length - under.length && image.name.endsWith(under)) {
          if (!found.has(image.target.digest)) found.set(image.target.digest, { context, image });
        }
      }
    }
    const [only, another] = found.values();
    if (only === undefined) throw unknown();
    if (another !== undefined) {
      const names = [...found.values()].map(({ image }) => image.name).join(", ");
      throw unknown(`manifest unknown: ${name}:${tag} may be ${names}; ask for one with its host in front`);
    }
    return only;
  }

  /** @throws RegistryError BLOB_UNKNOWN */
  async blob(asked: Asked, digest: string): Promise<FoundBlob> {
    const found = await this.blobOrNone(asked, digest);
    if (found === undefined) throw new RegistryError("BLOB_UNKNOWN", undefined, { detail: { digest } });
    return found;
  }

  async blobOrNone(asked: Asked, digest: string): Promise<FoundBlob | undefined> {
    for (const context of this.#contexts(asked)) {
      const found = await this.#info(context, digest);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Names of repositories in order; those under the host that was dialled are shown without it. */
  async repositories(asked: Asked): Promise<readonly string[]> {
    const own = `${asked.host}/`;
    const names = (await this.#imageNames(asked)).map(({ repository }) => repository);
    return [...new Set(names.map((name) => (name.startsWith(own) ? name.slice(own.length) : name)))].sort();
  }

  /** Tags in order. @throws RegistryError NAME_UNKNOWN */
  async tags(asked: Asked, name: string): Promise<readonly string[]> {
    const names = await this.#imageNames(asked);
    const wanted = new Set(this.repositoriesFor(name, asked));
    const exact = names.filter(({ repository }) => wanted.has(repository));
    const found =
      exact.length > 0 || asked.ns !== undefined
        ? exact
        : names.filter(({ repository }) => repository.slice(repository.indexOf("/") + 1) === name);
    if (found.length === 0) throw new RegistryError("NAME_UNKNOWN", undefined, { detail: { name } });
    return [...new Set(found.flatMap(({ tag }) => (tag === "" ? [] : [tag])))].sort();
  }

  /** Manifests whose subject is `digest`, as an index lists them. */
  async referrers(asked: Asked, digest: string): Promise<readonly Descriptor[]> {
    // Each looks through much: one at a time.
    using _turn = await this.#searches.acquire("referrers", asked.signal);
    const found = new Map<string, Descriptor>();
    const seen = new Set<string>();
    let size = 0;
    for (const context of this.#contexts(asked)) {
      const waiting = (await this.#stores.images.list(context, [])).map(({ target }) => target.digest);
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        asked.signal.throwIfAborted();
        if (seen.has(next) || seen.size >= MAX_REFERRERS_LOOKED_AT) continue;
        const blob = await this.#info(context, next);
        // Another namespace may have it.
        if (blob === undefined) continue;
        seen.add(next);
        const document = await this.#document(blob);
        if (document === undefined) continue;
        const parsed = parsedOrNone(document);
        if (parsed === undefined) continue;
        if (parsed.subject?.digest === digest) {
          size += document.bytes.length;
          if (size > MAX_DOCUMENT_SIZE) {
            throw new RegistryError("TOOMANYREQUESTS", `what refers to ${digest} does not fit into one answer`);
          }
          found.set(next, referrer(document, parsed));
        }
        if (isIndexType(document.mediaType)) waiting.push(...childrenOf(parsed).map((child) => child.digest));
      }
    }
    return [...found.values()].sort((a, b) => (a.digest < b.digest ? -1 : 1));
  }

  /** Up to `length` bytes of a blob from `offset`, in pieces. */
  async *bytes({ context, info }: FoundBlob, offset: number, length: number): AsyncGenerator<Uint8Array> {
    await using reader = await this.#stores.content.open(context, info.digest);
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const piece = await reader.readAt(at, Math.min(PIECE, end - at));
      if (piece.length === 0) throw new RegistryError("UNKNOWN", `${info.digest} ended at ${at} of ${end} bytes`);
      yield piece;
      at += piece.length;
    }
  }

  #contexts({ signal }: Asked): readonly RequestContext[] {
    return this.#namespaces.map((namespace) => ({ signal, namespace }));
  }

  async #info(context: RequestContext, digest: string): Promise<FoundBlob | undefined> {
    try {
      return { context, info: await this.#stores.content.info(context, digest) };
    } catch (error) {
      if (isErrorClass(error, "not-found")) return undefined;
      throw error;
    }
  }

  /** The blob as a manifest or index; undefined for what is neither. */
  async #document(blob: FoundBlob): Promise<FoundManifest | undefined> {
    if (blob.info.size > MAX_DOCUMENT_SIZE) return undefined;
    const pieces: Uint8Array[] = [];
    for await (const piece of this.bytes(blob, 0, blob.info.size)) pieces.push(piece);
    const bytes = Buffer.concat(pieces);
    const mediaType = mediaTypeOf(bytes);
    return mediaType === undefined ? undefined : { ...blob, mediaType, bytes };
  }

  async #imageNames(asked: Asked): Promise<readonly { readonly repository: string; readonly tag: string }[]> {
    const found: { repository: string; tag: string }[] = [];
    for (const context of this.#contexts(asked)) {
      for (const { name } of await this.#stores.images.list(context, [])) {
        const split = splitName(name);
        if (split !== undefined) found.push(split);
      }
    }
    return found;
  }
}

/** Bytes read at a time. */
const PIECE = 1 << 20;

/** An image's name as repository and tag ("" for one by digest); undefined for names without a host, which no registry client can ask for. */
export function splitName(name: string): { readonly repository: string; readonly tag: string } | undefined {
  const at = name.indexOf("@");
  const bare = at < 0 ? name : name.slice(0, at);
  const slash = bare.lastIndexOf("/");
  if (slash < 0) return undefined;
  const colon = bare.indexOf(":", slash);
  if (colon < 0) return { repository: bare, tag: "" };
  return { repository: bare.slice(0, colon), tag: at < 0 ? bare.slice(colon + 1) : "" };
}

/** What a document is by its own words, or by what it has; undefined for what is no manifest or index. */
export function mediaTypeOf(bytes: Uint8Array): string | undefined {
  let document: unknown;
  try {
    const parsed = parseJson(bytes, { maxSize: MAX_DOCUMENT_SIZE });
    if (!isJsonObject(parsed)) return undefined;
    const own = parsed["mediaType"];
    if (typeof own === "string" && own !== "") return isManifestType(own) || isIndexType(own) ? own : undefined;
    document = parsed;
  } catch {
    return undefined;
  }
  if (typeof document !== "object" || document === null) return undefined;
  if ("manifests" in document) return MediaType.ociIndex;
  if ("config" in document && "layers" in document) return MediaType.ociManifest;
  return undefined;
}

function parsedOrNone({ bytes, mediaType }: FoundManifest): Manifest | Index | undefined {
  try {
    return parseManifestOrIndex(bytes, mediaType);
  } catch {
    return undefined;
  }
}

function referrer({ info, mediaType }: FoundManifest, document: Manifest | Index): Descriptor {
  const artifactType = document.artifactType ?? ("config" in document ? document.config.mediaType : undefined);
  return {
    mediaType,
    digest: info.digest,
    size: info.size,
    ...(artifactType === undefined ? {} : { artifactType }),
    ...(document.annotations === undefined ? {} : { annotations: document.annotations }),
  };
}
