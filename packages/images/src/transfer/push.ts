import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { ContentStore, Descriptor, RegistrySession, TransferRegistry, TransferStore } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { parseReference, referenceHost, referencePath } from "@stevedore/oci/reference";
import { childBlobs } from "../tree.ts";
import { BlobProgress } from "./progress.ts";
import { registryName } from "./pull.ts";
import { type Selection, selectionOf } from "./selection.ts";
import { type Transfer, tellOf } from "./service.ts";

/** Blobs of one image, as a pull allows them. */
const MAX_BLOBS = 5_000;

/** Bytes read from the store at once. */
const CHUNK = 1024 * 1024;

/** What is pushed: the tree below a target, under the name that is told. */
export interface PushedTree {
  readonly name: string;
  readonly target: Descriptor;
  /** Which children of a document are pushed; all of them by default. */
  readonly select?: Selection;
}

/** Store to registry. */
export async function push(transfer: Transfer, store: TransferStore, registry: TransferRegistry): Promise<void> {
  const { name, target } = await transfer.shared.images.get(transfer.context, store.name);
  await pushTree(transfer, { name, target, select: selectionOf({ ...store, allMetadata: false }) }, registry);
}

/** Layers and configs side by side, then the documents from the lowest up, the named one last. */
export async function pushTree(transfer: Transfer, tree: PushedTree, registry: TransferRegistry): Promise<void> {
  const { shared, context, tell } = transfer;
  const { name, target } = tree;
  const to = registryName(registry);
  tellOf(transfer, `Pushing to ${to}`);
  tell?.({ event: "pushing content", name, descriptor: target });
  await using session = await shared.openRegistry(context, registry);
  using progress = new BlobProgress(name, "uploading", tell);
  const failure = new AbortController();
  const signal = AbortSignal.any([context.signal, failure.signal]);
  const pushing: Pushing = { transfer, session, progress, tree, registry, context: { ...context, signal } };
  const { blobs, levels } = await collect(pushing);
  try {
    await together(blobs, failure, async (blob) => pushOne(pushing, blob));
    for (const level of levels.toReversed()) {
      await together(level, failure, async (document) => pushOne(pushing, document));
    }
  } catch (error) {
    context.signal.throwIfAborted();
    throw error;
  }
  tell?.({ event: "pushed content", name, descriptor: target });
  tell?.({ event: `Completed push to ${to}`, name: "", descriptor: target });
}

interface Pushing {
  readonly transfer: Transfer;
  readonly session: RegistrySession;
  readonly progress: BlobProgress;
  readonly tree: PushedTree;
  readonly registry: TransferRegistry;
  readonly context: RequestContext;
}

async function together<T>(
  items: readonly T[],
  failure: AbortController,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const results = await Promise.allSettled(
    items.map(async (item) => {
      try {
        await work(item);
      } catch (error) {
        if (!failure.signal.aborted) failure.abort(error);
        throw error;
      }
    }),
  );
  if (failure.signal.aborted)
    throw failure.signal.reason instanceof Error ? failure.signal.reason : new Error("aborted");
  for (const result of results) if (result.status === "rejected") throw new Error(String(result.reason));
}

/** What is pushed: blobs in no order, documents by how deep they are. */
async function collect(
  of: Pushing,
): Promise<{ readonly blobs: readonly Descriptor[]; readonly levels: readonly (readonly Descriptor[])[] }> {
  const { context, progress, transfer } = of;
  const { content } = transfer.shared;
  const blobs: Descriptor[] = [];
  const depths = new Map<string, { readonly descriptor: Descriptor; depth: number }>();
  const seen = new Set<string>();
  let level: readonly { readonly descriptor: Descriptor; readonly parent: Descriptor | undefined }[] = [
    { descriptor: of.tree.target, parent: undefined },
  ];
  for (let depth = 0; level.length > 0; depth++) {
    const next: { readonly descriptor: Descriptor; readonly parent: Descriptor }[] = [];
    for (const { descriptor, parent } of level) {
      context.signal.throwIfAborted();
      progress.add(descriptor, parent);
      const { digest, mediaType } = descriptor;
      if (seen.has(digest)) {
        // A document below another comes before it.
        const known = depths.get(digest);
        if (known !== undefined) known.depth = depth;
        continue;
      }
      seen.add(digest);
      if (seen.size > MAX_BLOBS) {
        throw classified("invalid-argument", `push image: more than ${MAX_BLOBS} blobs: invalid argument`);
      }
      if (!isManifestType(mediaType) && !isIndexType(mediaType)) {
        blobs.push(descriptor);
        continue;
      }
      depths.set(digest, { descriptor, depth });
      const children = await childBlobs(content, context, descriptor);
      for (const child of of.tree.select?.(descriptor, children) ?? children) {
        next.push({ descriptor: child, parent: descriptor });
      }
    }
    level = next;
  }
  const levels: Descriptor[][] = [];
  for (const { descriptor, depth } of depths.values()) (levels[depth] ??= []).push(descriptor);
  return { blobs, levels: [...levels].map((each) => each ?? []) };
}

async function pushOne(of: Pushing, descriptor: Descriptor): Promise<void> {
  const { transfer, session, progress, registry, context, tree } = of;
  const { content, uploads } = transfer.shared;
  const { digest, size, mediaType } = descriptor;
  const reference = parseReference(registry.reference);
  const label = `${Label.distributionSource}${referenceHost(reference)}`;
  const own = referencePath(reference);
  const mountFrom = (await originsOf(content, context, { digest, label })).filter((each) => each !== own);
  const result = await uploads.run(
    async () =>
      session.push(
        registry.reference,
        { mediaType, digest, size },
        {
          open: (offset) => readFrom(content, context, { digest, offset }),
          mountFrom,
          tag: digest === tree.target.digest,
          signal: context.signal,
          onProgress: (sent) => progress.moved(descriptor, sent),
        },
      ),
    context.signal,
    size,
  );
  progress.reached(descriptor, result === "exists" ? "already exists" : "complete");
}

async function originsOf(
  content: ContentStore,
  context: RequestContext,
  { digest, label }: { readonly digest: string; readonly label: string },
): Promise<string[]> {
  try {
    const { labels } = await content.info(context, digest);
    return (labels[label] ?? "").split(",").filter((each) => each !== "");
  } catch (error) {
    // Reading it says so as well, if it comes to that: the registry may have it.
    if (isErrorClass(error, "not-found")) return [];
    throw error;
  }
}

async function* readFrom(
  content: ContentStore,
  context: RequestContext,
  { digest, offset }: { readonly digest: string; readonly offset: number },
): AsyncGenerator<Uint8Array> {
  await using reader = await content.open(context, digest);
  for (let at = offset; at < reader.size; ) {
    context.signal.throwIfAborted();
    const bytes = await reader.readAt(at, Math.min(CHUNK, reader.size - at));
    if (bytes.byteLength === 0) {
      throw classified("data-loss", `push ${digest}: the blob ended at ${at} of ${reader.size} bytes`);
    }
    at += bytes.byteLength;
    yield bytes;
  }
}
