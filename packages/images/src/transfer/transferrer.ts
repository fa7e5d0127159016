/** Transfers within the daemon: pull, push, import, export and tag. */
import { classified, type RequestContext } from "@stevedore/base";
import {
  type ImageVerifier,
  KeyedLock,
  type LeaseManager,
  type OpenRegistry,
  Pool,
  type TransferEnd,
  type TransferProgress,
  type TransferRegistry,
  type Transferrer,
  type TransferStore,
  type UnpackPlatform,
} from "@stevedore/core";
import { withLease } from "@stevedore/core/with-lease";
import type { ImageBackend } from "../backend.ts";
import { echo, exportImages, importImages } from "./archives.ts";
import { BlobFetcher } from "./blob-fetch.ts";
import { namesOfTarget, storeImages } from "./image-names.ts";
import { pull, registryName } from "./pull.ts";
import { type PushedTree, push, pushTree } from "./push.ts";
import type { Transfer, TransferShared } from "./service.ts";

export interface TransferOptions {
  readonly backend: ImageBackend;
  readonly leases: LeaseManager;
  readonly openRegistry: OpenRegistry;
  readonly verifiers: ReadonlyMap<string, ImageVerifier>;
  /** What is unpacked for, in order of preference. */
  readonly unpackPlatforms: readonly UnpackPlatform[];
  /** Blobs fetched at once, by all transfers together; 0 for any number. */
  readonly maxDownloads: number;
  /** Blobs pushed at once, by all transfers together; 0 for any number. */
  readonly maxUploads: number;
  /** Layers unpacked at once, by all transfers together; 0 for any number. */
  readonly maxUnpacks: number;
}

/** Transfers, and what only callers in the same process can ask for. */
export interface ImageTransfers extends Transferrer {
  /** Pushes a target that needs no name in the store. @throws as a push */
  pushTree(
    context: RequestContext,
    tree: PushedTree,
    options: { readonly registry: TransferRegistry; readonly onProgress?: (progress: TransferProgress) => void },
  ): Promise<void>;
}

/** Transfers over stores: the daemon's, within it; a client's, for what a client does itself. */
export function createTransferrer(options: TransferOptions): ImageTransfers {
  const { backend, leases } = options;
  const { content, images } = backend;
  const poolOf = (size: number, what: string): Pool => new Pool(size === 0 ? Number.POSITIVE_INFINITY : size, what);
  const shared: TransferShared = {
    content,
    images,
    leases,
    openRegistry: options.openRegistry,
    verifiers: options.verifiers,
    fetcher: new BlobFetcher({ content, pool: poolOf(options.maxDownloads, "a download") }),
    uploads: poolOf(options.maxUploads, "an upload"),
    unpackers: {
      backend,
      platforms: options.unpackPlatforms,
      pool: poolOf(options.maxUnpacks, "a layer's unpacking"),
      locks: new KeyedLock(),
    },
  };
  return {
    transfer: async (context, source, { destination, onProgress }) => {
      const work = workFor(source, destination);
      await withLease(leases, context, async (leased) => work({ shared, context: leased, tell: onProgress }));
    },
    pushTree: async (context, tree, { registry, onProgress }) => {
      await withLease(leases, context, async (leased) =>
        pushTree({ shared, context: leased, tell: onProgress }, tree, registry),
      );
    },
  };
}

/** @throws not-implemented for a pair that nothing moves between */
function workFor(source: TransferEnd, target: TransferEnd): (transfer: Transfer) => Promise<void> {
  switch (source.kind) {
    case "registry":
      if (target.kind === "store") return async (transfer) => pull(transfer, source, target);
      break;
    case "store":
      if (target.kind === "registry") return async (transfer) => push(transfer, source, target);
      if (target.kind === "export") return async (transfer) => exportImages(transfer, source, target);
      if (target.kind === "store") return async (transfer) => tag(transfer, source, target);
      break;
    case "import":
      if (target.kind === "export") return async () => echo(source, target);
      if (target.kind === "store") return async (transfer) => importImages(transfer, source, target);
      break;
    case "export":
      break;
  }
  throw classified(
    "not-implemented",
    `unable to transfer from ${nameOf(source)} to ${nameOf(target)}: not implemented`,
  );
}

function nameOf(end: TransferEnd): string {
  switch (end.kind) {
    case "registry":
      return registryName(end);
    case "store":
      return `Local Image Store (${end.name})`;
    case "import":
      return "an import stream";
    case "export":
      return "an export stream";
  }
}

/** Store to store: another name for an image. */
async function tag({ shared, context }: Transfer, source: TransferStore, store: TransferStore): Promise<void> {
  const { target } = await shared.images.get(context, source.name);
  await storeImages(shared.images, context, { names: namesOfTarget(store, target), target, labels: store.labels });
}
