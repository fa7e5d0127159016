// The suites of content and snapshots on the real backends behind the metadata store, as the daemon wires them.
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backgroundContext } from "@stevedore/base";
import type { Snapshotter } from "@stevedore/core";
import { MemoryContentStore } from "@stevedore/core/content-memory";
import { contentSuite } from "@stevedore/core/content-suite";
import type { SnapshotRecords } from "@stevedore/core/snapshot-records";
import { type OpenedSnapshotter, snapshotterSuite } from "@stevedore/core/snapshots-suite";
import { mountRaw, unmount, withTempMount } from "@stevedore/os/mount";
import { createLocalContent } from "@stevedore/plugins/content-local/impl";
import { createMetadataStore, createSnapshotRecords, MetadataDatabase } from "@stevedore/plugins/metadata/impl";
import { createNativeSnapshotter } from "@stevedore/plugins/snapshot-native/impl";
import { createOverlaySnapshotter } from "@stevedore/plugins/snapshot-overlay/impl";

const context = backgroundContext({ namespace: "testing" });

/** A folder on a tmpfs of its own, gone afterwards. */
async function folder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), "wrapped-"));
  mountRaw("tmpfs", path, { type: "tmpfs" });
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      // The content store keeps a blob's file open for a moment after its last reader.
      await Bun.sleep(250);
      unmount(path);
      await rm(path, { recursive: true });
    },
  };
}

async function openWrapped(
  make: (root: string, records: SnapshotRecords) => Promise<Snapshotter>,
): Promise<OpenedSnapshotter> {
  const undo = new AsyncDisposableStack();
  const { path } = undo.use(await folder());
  const database = undo.use(await MetadataDatabase.open({ directory: join(path, "metadata") }));
  await mkdir(join(path, "snapshotter"));
  const backend = await make(join(path, "snapshotter"), createSnapshotRecords(database, "wrapped"));
  const store = await createMetadataStore({
    database,
    content: new MemoryContentStore(),
    snapshotters: { wrapped: backend },
  });
  const snapshotter = store.snapshotters.get("wrapped");
  if (snapshotter === undefined) throw new Error("the store has no snapshotter");
  return {
    snapshotter,
    mounted: (mounts, use) => withTempMount(mounts, use, { root: tmpdir() }),
    close: async () => {
      await store.collector.collect(context.signal);
      // Twice: the second waits for deletions the first left to the background.
      await backend.cleanup(context);
      await backend.cleanup(context);
      await undo.disposeAsync();
    },
  };
}

snapshotterSuite("overlayfs behind the metadata store", { rebase: true, deepest: 127 }, () =>
  openWrapped((root, records) => createOverlaySnapshotter({ root, records })),
);

snapshotterSuite("native behind the metadata store", { rebase: false, deepest: 20 }, () =>
  openWrapped((root, records) => createNativeSnapshotter({ root, records })),
);

contentSuite(
  "local behind the metadata store",
  async () => {
    const undo = new AsyncDisposableStack();
    const { path } = undo.use(await folder());
    const database = undo.use(await MetadataDatabase.open({ directory: join(path, "metadata") }));
    const store = await createMetadataStore({
      database,
      content: await createLocalContent({ directory: join(path, "content") }),
      snapshotters: {},
    });
    return { store: store.content, context, [Symbol.asyncDispose]: () => undo.disposeAsync() };
  },
  { labels: true, missing: (digest) => `content digest ${digest}: not found` },
);
