import type { RequestContext } from "@stevedore/base";
import type {
  ContentStore,
  ImageStore,
  ImageVerifier,
  LeaseManager,
  OpenRegistry,
  Pool,
  TransferProgress,
} from "@stevedore/core";
import type { BlobFetcher } from "./blob-fetch.ts";
import type { Unpackers } from "./unpacking.ts";

/** What the transfers of a daemon share. */
export interface TransferShared {
  readonly content: ContentStore;
  readonly images: ImageStore;
  readonly leases: LeaseManager;
  readonly unpackers: Unpackers;
  readonly fetcher: BlobFetcher;
  /** Blobs pushed at once. */
  readonly uploads: Pool;
  readonly openRegistry: OpenRegistry;
  /** By the id of their plugin. Asked in this order. */
  readonly verifiers: ReadonlyMap<string, ImageVerifier>;
}

/** One transfer. */
export interface Transfer {
  readonly shared: TransferShared;
  /** Leased. */
  readonly context: RequestContext;
  /** Absent when nobody wants to know. */
  readonly tell: ((progress: TransferProgress) => void) | undefined;
}

/** Tells of the whole transfer. */
export function tellOf({ tell }: Transfer, event: string): void {
  tell?.({ event, name: "" });
}
