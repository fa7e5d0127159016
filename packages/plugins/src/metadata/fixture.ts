import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CollectedObject, Snapshotter } from "@stevedore/core";
import { MemoryContentStore } from "@stevedore/core/content-memory";
import { MemorySnapshotter } from "@stevedore/core/snapshotter-memory";
import { MetadataDatabase, type MetadataOptions } from "./database.ts";
import { createMetadataStore, type MetadataStore, type MetadataStoreOptions } from "./impl.ts";
import { createSnapshotRecords } from "./snapshot-records.ts";

/** A folder for one test, removed afterwards. */
export async function temporaryFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), "stevedore-metadata-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** A metadata file of its own for one test. */
export async function temporaryDatabase(
  options: Partial<MetadataOptions> = {},
): Promise<AsyncDisposable & { readonly database: MetadataDatabase }> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.use(await temporaryFolder());
  const database = undo.use(await MetadataDatabase.open({ directory: folder.path, ...options }));
  const held = undo.move();
  return { database, [Symbol.asyncDispose]: () => held.disposeAsync() };
}

export interface StoreFixture extends AsyncDisposable, MetadataStore {
  readonly database: MetadataDatabase;
  readonly blobs: MemoryContentStore;
  readonly backend: MemorySnapshotter;
  /** The backend's snapshots, namespaced. */
  readonly snapshotter: Snapshotter;
  readonly collected: CollectedObject[];
}

/** A metadata store over backends in memory, for one test. */
export async function temporaryStore(options: Partial<MetadataStoreOptions> = {}): Promise<StoreFixture> {
  await using undo = new AsyncDisposableStack();
  const { database } = undo.use(await temporaryDatabase());
  const blobs = new MemoryContentStore();
  const backend = new MemorySnapshotter(createSnapshotRecords(database, "overlayfs"));
  const collected: CollectedObject[] = [];
  const store = await createMetadataStore({
    database,
    content: blobs,
    snapshotters: { overlayfs: backend },
    onCollected: (removed) => collected.push(...removed),
    ...options,
  });
  const snapshotter = store.snapshotters.get("overlayfs");
  if (snapshotter === undefined) throw new Error("the store has no snapshotter");
  const held = undo.move();
  return {
    ...store,
    database,
    blobs,
    backend,
    snapshotter,
    collected,
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}
