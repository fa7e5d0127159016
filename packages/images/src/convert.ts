/** Images made into others of the same content: layers without compression, OCI's media types, fewer platforms. */

import { createGunzip, createZstdDecompress } from "node:zlib";
import { classified, encodeText, isErrorClass, type RequestContext } from "@stevedore/base";
import type { ContentStore, Descriptor, Labels } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { digestOf } from "@stevedore/oci/digest";
import { encodeJson, isJsonObject, type JsonObject, type JsonValue, parseJson } from "@stevedore/oci/json-lossless";
import { MAX_DOCUMENT_SIZE, parseIndex, parseManifestOrIndex } from "@stevedore/oci/manifest";
import {
  diffCompression,
  isDockerType,
  isIndexType,
  isLayerType,
  isManifestType,
  MediaType,
} from "@stevedore/oci/media-types";
import { normalizePlatform, type PlatformMatcher } from "@stevedore/oci/platform";
import { openWriter } from "./ingest.ts";
import { through } from "./through.ts";
import { readBlob } from "./tree.ts";

export interface ConvertOptions {
  /** Manifests of an index that do not match are left out. */
  readonly matcher: PlatformMatcher;
  /** Make layers plain archives. */
  readonly uncompress: boolean;
  /** Give Docker's documents and layers OCI's media types. */
  readonly toOci: boolean;
}

/** Bytes read at a time. */
const PIECE = 1 << 20;
/** Indexes inside indexes that are followed. */
const MAX_DEPTH = 8;

const OCI_OF: ReadonlyMap<string, string> = new Map([
  [MediaType.dockerManifestList, MediaType.ociIndex],
  [MediaType.dockerManifest, MediaType.ociManifest],
  [MediaType.dockerConfig, MediaType.ociConfig],
  [MediaType.dockerLayer, MediaType.ociLayer],
  [MediaType.dockerLayerGzip, MediaType.ociLayerGzip],
  [MediaType.dockerLayerZstd, MediaType.ociLayerZstd],
  [MediaType.dockerLayerForeign, MediaType.ociLayerNonDistributable],
  [MediaType.dockerLayerForeignGzip, MediaType.ociLayerNonDistributableGzip],
]);

const PLAIN_OF: ReadonlyMap<string, string> = new Map([
  [MediaType.dockerLayerGzip, MediaType.dockerLayer],
  [MediaType.dockerLayerZstd, MediaType.dockerLayer],
  [MediaType.dockerLayerForeignGzip, MediaType.dockerLayerForeign],
  [MediaType.ociLayerGzip, MediaType.ociLayer],
  [MediaType.ociLayerZstd, MediaType.ociLayer],
  [MediaType.ociLayerNonDistributableGzip, MediaType.ociLayerNonDistributable],
  [MediaType.ociLayerNonDistributableZstd, MediaType.ociLayerNonDistributable],
]);

/**
 * Writes what differs and gives the descriptor of the new image, which is `target` when nothing does. What the documents say
 * besides is kept, in its order. Call it in a leased context: nothing names the new blobs yet.
 * @throws not-found for a blob that is missing; invalid-argument for documents that are none; data-loss for a layer that does not unpack
 */
export async function convertImage(
  content: ContentStore,
  context: RequestContext,
  of: ConvertOptions & { readonly target: Descriptor },
): Promise<Descriptor> {
  const { target, ...options } = of;
  const made = await new Converter(content, context, options).convert({ ...target }, 0);
  return made ?? target;
}

/** What of a descriptor a conversion reads and changes; the rest travels along. */
interface Described {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

class Converter {
  readonly #content: ContentStore;
  readonly #context: RequestContext;
  readonly #options: ConvertOptions;

  constructor(content: ContentStore, context: RequestContext, options: ConvertOptions) {
    this.#content = content;
    this.#context = context;
    this.#options = options;
  }

  /** The descriptor of what a blob became; undefined when it stays. */
  async convert(of: Described, depth: number): Promise<Described | undefined> {
    let made: Described | undefined;
    if (isManifestType(of.mediaType) || isIndexType(of.mediaType)) made = await this.#document(of, depth);
    else if (isLayerType(of.mediaType) && this.#options.uncompress) made = await this.#plainLayer(of);
    const { toOci } = this.#options;
    const type = (made ?? of).mediaType;
    if (!isDockerType(type)) return made;
    if (toOci) return { ...(made ?? of), mediaType: OCI_OF.get(type) ?? type };
    if ((made ?? of).annotations === undefined) return made;
    // Docker's descriptors have none.
    const { annotations: _annotations, ...rest } = made ?? of;
    return rest;
  }

  async #document(of: Described, depth: number): Promise<Described | undefined> {
    if (depth > MAX_DEPTH) throw wrong(of, `more than ${MAX_DEPTH} nested indexes`);
    const bytes = await readBlob(this.#content, this.#context, of);
    // Checks that it is what it is said to be.
    parseManifestOrIndex(bytes, of.mediaType);
    const document = parseJson(bytes, { maxSize: MAX_DOCUMENT_SIZE });
    if (!isJsonObject(document)) throw wrong(of, "found no json object");
    const { labels } = await this.#content.info(this.#context, of.digest);
    const change = new Change(document, labels);
    const own = document["mediaType"];
    if (this.#options.toOci && typeof own === "string" && OCI_OF.has(own))
      change.set("mediaType", OCI_OF.get(own) ?? own);
    if (isIndexType(of.mediaType)) await this.#index(of, bytes, change, depth);
    else await this.#manifest(change, depth);
    if (!change.made) return undefined;
    const written = encodeText(encodeJson(document));
    const digest = digestOf(written);
    await this.#write(`converter-write-json-${digest}`, [written], change.labels);
    return { ...of, digest, size: written.length };
  }

  async #manifest(change: Change, depth: number): Promise<void> {
    const { document } = change;
    const layers = Array.isArray(document["layers"]) ? document["layers"] : [];
    for (const [at, layer] of layers.entries()) {
      const made = await this.#child(layer, depth);
      if (made === undefined) continue;
      layers[at] = made.value;
      change.moved(made.from, `${Label.gcRefContentLayer}${at}`, made.to);
    }
    const made = await this.#child(document["config"], depth);
    if (made === undefined) return;
    change.set("config", made.value);
    change.moved(made.from, Label.gcRefContentConfig, made.to);
  }

  async #index(of: Described, bytes: Uint8Array, change: Change, depth: number): Promise<void> {
    const { document } = change;
    const manifests = Array.isArray(document["manifests"]) ? document["manifests"] : [];
    const { manifests: described } = parseIndex(bytes, of.mediaType);
    const kept: JsonValue[] = [];
    for (const [at, entry] of manifests.entries()) {
      const child = described[at];
      const { matcher } = this.#options;
      if (child?.platform !== undefined && !matcher.match(normalizePlatform(child.platform))) {
        change.dropped(child.digest);
        continue;
      }
      const made = await this.#child(entry, depth);
      kept.push(made === undefined ? entry : made.value);
      if (made !== undefined) change.moved(made.from, `${Label.gcRefContentManifest}${at}`, made.to);
    }
    if (change.made) change.set("manifests", kept);
  }

  /** Converts what an entry of a document names. @returns the entry it becomes, undefined when it stays */
  async #child(
    entry: JsonValue | undefined,
    depth: number,
  ): Promise<{ readonly value: JsonObject; readonly from: string; readonly to: string } | undefined> {
    if (!isJsonObject(entry)) return undefined;
    const { mediaType, digest, size, annotations } = entry;
    if (typeof mediaType !== "string" || typeof digest !== "string") return undefined;
    const made = await this.convert(
      { mediaType, digest, size: Number(size), ...(isJsonObject(annotations) ? { annotations: {} } : {}) },
      depth + 1,
    );
    if (made === undefined) return undefined;
    const value: JsonObject = { ...entry, mediaType: made.mediaType, digest: made.digest, size: made.size };
    if (isJsonObject(annotations) && made.annotations === undefined) delete value["annotations"];
    return { value, from: digest, to: made.digest };
  }

  async #plainLayer(of: Described): Promise<Described | undefined> {
    const mediaType = PLAIN_OF.get(of.mediaType);
    if (mediaType === undefined) return undefined;
    const kind = diffCompression(of.mediaType);
    const plain = through(this.#bytes(of), kind === "zstd" ? createZstdDecompress() : createGunzip());
    let written: { readonly digest: string; readonly size: number };
    try {
      written = await this.#write(`convert-uncompress-from-${of.digest}`, plain, {}, Label.uncompressed);
    } catch (error) {
      if (isErrorClass(error, "unknown"))
        throw classified("data-loss", `unpack layer ${of.digest}: data loss`, { cause: error });
      throw error;
    }
    return { ...of, mediaType, ...written };
  }

  async *#bytes({ digest }: Described): AsyncGenerator<Uint8Array> {
    await using reader = await this.#content.open(this.#context, digest);
    for (let at = 0; at < reader.size; ) {
      const piece = await reader.readAt(at, PIECE);
      if (piece.length === 0) return;
      at += piece.length;
      yield piece;
    }
  }

  /** @param own a label that gets the blob's own digest */
  async #write(
    ref: string,
    pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    labels: Labels,
    own?: string,
  ): Promise<{ readonly digest: string; readonly size: number }> {
    await using writer = await openWriter(this.#content, this.#context, { ref });
    // What an earlier try left was another stream's, perhaps.
    if (writer.status().offset > 0) await writer.truncate(0);
    for await (const piece of pieces) await writer.write(piece);
    const { offset: size } = writer.status();
    const digest = writer.digest();
    const wanted = own === undefined ? labels : { ...labels, [own]: digest };
    try {
      await writer.commit(this.#context, { size, expected: digest, labels: wanted });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
      const fields = Object.keys(wanted).map((key) => `labels.${key}`);
      if (fields.length > 0) await this.#content.update(this.#context, { digest, labels: wanted }, fields);
    }
    return { digest, size };
  }
}

/** A document that changes, with the labels that keep what it names. */
class Change {
  readonly document: JsonObject;
  readonly #labels: Map<string, string>;
  #made = false;

  constructor(document: JsonObject, labels: Labels) {
    this.document = document;
    this.#labels = new Map(Object.entries(labels));
  }

  get made(): boolean {
    return this.#made;
  }

  get labels(): Labels {
    return Object.fromEntries(this.#labels);
  }

  set(key: string, value: JsonValue): void {
    this.document[key] = value;
    this.#made = true;
  }

  /** Another blob stands where `from` stood, kept by the label `key`. */
  moved(from: string, key: string, to: string): void {
    this.dropped(from);
    this.#labels.set(key, to);
  }

  /** A blob is named no more. */
  dropped(digest: string): void {
    this.#made = true;
    for (const [key, value] of this.#labels) {
      if (value === digest && key.startsWith(Label.gcRefContent)) this.#labels.delete(key);
    }
  }
}

function wrong({ digest }: Described, what: string): Error {
  return classified("invalid-argument", `convert ${digest}: ${what}: invalid argument`);
}
