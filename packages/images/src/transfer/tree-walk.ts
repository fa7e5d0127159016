import { classified, isErrorClass, type RequestContext, withContext } from "@stevedore/base";
import type { ContentStore } from "@stevedore/core";
import {
  childrenOf,
  MAX_DOCUMENT_SIZE,
  type Manifest,
  type Descriptor as OciDescriptor,
  parseIndex,
  parseManifest,
} from "@stevedore/oci/manifest";
import { isIndexType, isManifestType, MediaType } from "@stevedore/oci/media-types";
import { keepChildren } from "../children-labels.ts";
import { readBlob, toImageDescriptor } from "../tree.ts";
import type { Selection } from "./selection.ts";

/** Blobs of one image: indexes of real ones name some hundred manifests of some dozen layers. */
const MAX_BLOBS = 5_000;

/** Indexes inside indexes that are followed. Real images have one. */
const MAX_DEPTH = 8;

/** What becomes of the blobs of a tree. */
export interface TreeVisitor {
  /** Brings the blob here. Called once for each digest. */
  readonly arrive: (descriptor: OciDescriptor) => Promise<void>;
  /** Told of each blob and whose child it is, before it is asked for; again for each further parent. */
  readonly onBlob?: (descriptor: OciDescriptor, parent: OciDescriptor | undefined) => void;
  /** A manifest that is here. Its children come by {@link Tree.arrived}. */
  readonly onManifest?: (descriptor: OciDescriptor, manifest: Manifest) => Promise<void>;
  /** Documents that are not there are passed over, and with them what is below. */
  readonly partial?: boolean;
}

/**
 * Walks an image from the top, everything side by side: a document's children as soon as it is there. Each document gets
 * the labels that keep its children.
 */
export class Tree {
  readonly #content: ContentStore;
  readonly #context: RequestContext;
  readonly #select: Selection;
  readonly #visitor: TreeVisitor;
  readonly #failure: AbortController;
  readonly #blobs = new Map<string, Promise<void>>();
  /** What each was named as first: a blob that is a layer here and a manifest there would be looked into only half. */
  readonly #types = new Map<string, string>();

  constructor(
    content: ContentStore,
    context: RequestContext,
    of: { readonly select: Selection; readonly visitor: TreeVisitor; readonly failure: AbortController },
  ) {
    this.#content = content;
    this.#context = context;
    this.#select = of.select;
    this.#visitor = of.visitor;
    this.#failure = of.failure;
  }

  /** How many blobs were found so far, the top one counted. */
  get size(): number {
    return this.#blobs.size;
  }

  /**
   * Resolves when the tree below is there, and what {@link TreeVisitor.onManifest} does is done. The first failure aborts
   * the rest, which has ended by then.
   */
  async walk(top: OciDescriptor): Promise<void> {
    await this.#visit(top, { depth: 0, parent: undefined });
  }

  /** Resolves when a blob that the walk has found is there. @throws internal for one it has not */
  async arrived({ digest }: { readonly digest: string }): Promise<void> {
    const found = this.#blobs.get(digest);
    if (found === undefined) throw classified("internal", `wait for blob ${digest}, which nobody brings`);
    await found;
  }

  async #visit(
    descriptor: OciDescriptor,
    { depth, parent }: { readonly depth: number; readonly parent: OciDescriptor | undefined },
  ): Promise<void> {
    const { digest, mediaType, size } = descriptor;
    this.#visitor.onBlob?.(descriptor, parent);
    const known = this.#blobs.get(digest);
    if (known !== undefined) {
      const before = this.#types.get(digest) ?? mediaType;
      if (before !== mediaType && [before, mediaType].some((type) => isManifestType(type) || isIndexType(type))) {
        throw classified(
          "invalid-argument",
          `read image: ${digest} is named as ${before} and as ${mediaType}: invalid argument`,
        );
      }
      return known;
    }
    if (mediaType === MediaType.dockerSchema1Manifest) {
      throw classified("invalid-argument", `${mediaType} not supported: invalid argument`);
    }
    const isDocument = isManifestType(mediaType) || isIndexType(mediaType);
    if (isDocument && (size < 0 || size > MAX_DOCUMENT_SIZE)) {
      throw classified(
        "invalid-argument",
        `read ${mediaType} ${digest}: ${size} bytes, the limit is ${MAX_DOCUMENT_SIZE}: invalid argument`,
      );
    }
    if (depth > MAX_DEPTH) {
      throw classified("invalid-argument", `read image: ${digest} is below ${MAX_DEPTH} documents: invalid argument`);
    }
    if (this.#blobs.size >= MAX_BLOBS) {
      throw classified("invalid-argument", `read image: more than ${MAX_BLOBS} blobs: invalid argument`);
    }
    const arrival = this.#visitor.arrive(descriptor);
    // Whoever waits for it hears of it; the walk does in any case.
    arrival.catch(() => undefined);
    this.#blobs.set(digest, arrival);
    this.#types.set(digest, mediaType);
    if (!isDocument) return arrival;
    try {
      await arrival;
      await this.#document(descriptor, depth);
    } catch (error) {
      if (this.#visitor.partial !== true || depth === 0 || !isErrorClass(error, "not-found")) throw error;
    }
  }

  async #document(descriptor: OciDescriptor, depth: number): Promise<void> {
    const { digest } = descriptor;
    const bytes = await readBlob(this.#content, this.#context, { digest });
    const { manifest, all } = readDocument(bytes, descriptor);
    if (all.length + this.#blobs.size > MAX_BLOBS) {
      throw classified(
        "invalid-argument",
        `read ${digest}: ${all.length} more blobs in an image of at most ${MAX_BLOBS}: invalid argument`,
      );
    }
    await keepChildren(this.#content, this.#context, { parent: descriptor, children: all.map(toImageDescriptor) });
    const children = this.#select(descriptor, all);
    const below = children.map(async (child) =>
      this.#guarded(this.#visit(child, { depth: depth + 1, parent: descriptor })),
    );
    if (manifest !== undefined && children.length === all.length && this.#visitor.onManifest !== undefined) {
      below.push(this.#guarded(this.#visitor.onManifest(descriptor, manifest)));
    }
    const results = await Promise.allSettled(below);
    for (const result of results) if (result.status === "rejected") throw asError(result.reason);
  }

  /** The first failure ends what runs beside it. */
  async #guarded(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (!this.#failure.signal.aborted) this.#failure.abort(error);
      throw asError(this.#failure.signal.reason);
    }
  }
}

/** @throws invalid-argument for what is none, or is another kind than its media type says */
function readDocument(
  bytes: Uint8Array,
  { mediaType, digest }: OciDescriptor,
): { readonly manifest: Manifest | undefined; readonly all: readonly OciDescriptor[] } {
  try {
    if (!isManifestType(mediaType)) return { manifest: undefined, all: childrenOf(parseIndex(bytes, mediaType)) };
    const manifest = parseManifest(bytes, mediaType);
    return { manifest, all: childrenOf(manifest) };
  } catch (error) {
    throw withContext(`read ${mediaType} ${digest}`, error);
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
