import { createLogger, type Logger, messageOf } from "@stevedore/base";
import {
  type CollectedObject,
  type ContainerStore,
  type ContentStore,
  type GarbageCollector,
  type ImageStore,
  KeyedLock,
  type LeaseManager,
  type NamespaceStore,
  type SandboxStore,
  type Snapshotter,
} from "@stevedore/core";
import { MetadataCollector, ORPHANS_FACT } from "./collector.ts";
import { MetadataContainerStore } from "./containers.ts";
import { MetadataContentStore, type SharingPolicy } from "./content.ts";
import type { MetadataDatabase } from "./database.ts";
import { type CollectNow, MetadataImageStore } from "./images.ts";
import { MetadataLeaseManager } from "./leases.ts";
import { MetadataNamespaceStore } from "./namespaces.ts";
import { MetadataSandboxStore } from "./sandboxes.ts";
import { MetadataSnapshotter } from "./snapshotter.ts";

export { MetadataDatabase, type MetadataOptions } from "./database.ts";
export type { DamageReport } from "./messages.ts";
export { createSnapshotRecords } from "./snapshot-records.ts";

export interface MetadataStoreOptions {
  /** Stays the caller's; it must outlive the store. */
  readonly database: MetadataDatabase;
  /** The un-namespaced content store. */
  readonly content: ContentStore;
  /** Un-namespaced snapshotters by name (`overlayfs`, `native`, ...). */
  readonly snapshotters: Readonly<Record<string, Snapshotter>>;
  /** Config key `content_sharing_policy`. Default `shared`. */
  readonly sharingPolicy?: SharingPolicy;
  /** What a delete with `sync` waits for: the scheduler's `scheduleAndWait`. Absent: a collection right away. */
  readonly collectNow?: CollectNow;
  /** Told of what garbage collection removed, for the events `/images/delete` and `/snapshot/remove`. */
  readonly onCollected?: (removed: readonly CollectedObject[]) => void;
  readonly log?: Logger;
}

/** Everything clients see by namespace. */
export interface MetadataStore {
  readonly namespaces: NamespaceStore;
  readonly images: ImageStore;
  readonly containers: ContainerStore;
  readonly sandboxes: SandboxStore;
  readonly leases: LeaseManager;
  readonly content: ContentStore;
  readonly snapshotters: ReadonlyMap<string, Snapshotter>;
  readonly collector: GarbageCollector;
}

/** Puts namespaces over backends. Commits a crash interrupted are settled before this resolves, where the backend answers. */
export async function createMetadataStore(options: MetadataStoreOptions): Promise<MetadataStore> {
  const { database } = options;
  const log = options.log ?? createLogger();
  const digests = new KeyedLock();
  const backends = new Map(Object.entries(options.snapshotters));
  const inFlight = new Map([...backends.keys()].map((name) => [name, new Set<string>()]));
  await settleOrphans(database, options.content, backends);
  const collector = new MetadataCollector({
    database,
    content: options.content,
    snapshotters: backends,
    digests,
    inFlight,
    log,
    ...(options.onCollected === undefined ? {} : { onCollected: options.onCollected }),
  });
  const collectNow: CollectNow = options.collectNow ?? ((signal) => collector.collect(signal));

  const snapshotters = new Map<string, Snapshotter>();
  for (const [name, backend] of backends) {
    const snapshotter = new MetadataSnapshotter({
      database,
      name,
      backend,
      inFlight: inFlight.get(name) ?? new Set(),
      discard: (key) => collector.discardSnapshot(name, key),
      log,
    });
    await snapshotter.recover().catch((error: unknown) => {
      log.warn("interrupted snapshot commits are settled later", { snapshotter: name, error: messageOf(error) });
    });
    snapshotters.set(name, snapshotter);
  }
  return {
    namespaces: new MetadataNamespaceStore(database),
    images: new MetadataImageStore(database, collectNow),
    containers: new MetadataContainerStore(database),
    sandboxes: new MetadataSandboxStore(database),
    leases: new MetadataLeaseManager(database, collectNow),
    content: new MetadataContentStore({
      database,
      backend: options.content,
      policy: options.sharingPolicy ?? "shared",
      digests,
      discard: (digest) => collector.discardBlob(digest),
    }),
    snapshotters,
    collector,
  };
}

/**
 * Decides once per file whether blobs and snapshots without a record are garbage. They are not when the file is new and
 * they were there before it: then they belong to a root that is being taken over, or to a file that was lost.
 */
async function settleOrphans(
  database: MetadataDatabase,
  content: ContentStore,
  snapshotters: ReadonlyMap<string, Snapshotter>,
): Promise<void> {
  if (database.fact(ORPHANS_FACT) !== undefined) return;
  const context = { signal: new AbortController().signal };
  let empty = true;
  try {
    for await (const _info of content.list(context, [])) empty = false;
    for (const backend of snapshotters.values()) for await (const _info of backend.walk(context, [])) empty = false;
  } catch {
    // What cannot be looked at may hold something.
    empty = false;
  }
  await database.call("setFact", { name: ORPHANS_FACT, value: empty ? "sweep" : "keep" });
}
