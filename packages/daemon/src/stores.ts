/** The metadata store over the backends of this daemon, and the collection of what nothing refers to. */
import { classified, type Logger, messageOf } from "@stevedore/base";
import type { CollectedObject, ContentStore, EventExchange, Snapshotter } from "@stevedore/core";
import { createMetadataStore, type MetadataDatabase, type MetadataStore } from "@stevedore/plugins/metadata/impl";
import { publishEvent } from "@stevedore/services/request";
import { ImageDeleteSchema } from "@stevedore/wire/gen/containerd/events/image_pb";
import { SnapshotRemoveSchema } from "@stevedore/wire/gen/containerd/events/snapshot_pb";

export interface StoreOptions {
  readonly database: MetadataDatabase;
  readonly content: ContentStore;
  readonly events: EventExchange;
  readonly snapshotters: ReadonlyMap<string, Snapshotter>;
  /** Config key `content_sharing_policy`. */
  readonly sharing: string;
  readonly log: Logger;
}

/** The stores, with a place for the scheduler that starts after them. */
export interface Stores extends MetadataStore {
  /** From now on, deletes that wait for a collection wait for this one's. Undone by disposing the result. */
  collectThrough(schedule: (signal: AbortSignal) => Promise<unknown>): Disposable;
  /** From now on, run after each collection, which waits for it. Undone by disposing the result. */
  afterCollection(run: () => Promise<void>): Disposable;
}

/** @throws invalid-argument for a sharing policy that does not exist */
export async function openStores(options: StoreOptions): Promise<Stores> {
  const { sharing, log } = options;
  if (sharing !== "shared" && sharing !== "isolated") {
    throw classified("invalid-argument", `unknown policy: ${sharing}: invalid argument`);
  }
  const after = new Set<() => Promise<void>>();
  let schedule: ((signal: AbortSignal) => Promise<unknown>) | undefined;
  const store: MetadataStore = await createMetadataStore({
    database: options.database,
    content: options.content,
    snapshotters: Object.fromEntries(options.snapshotters),
    sharingPolicy: sharing,
    // Without a scheduler (it can be disabled) a collection runs right away.
    collectNow: async (signal) => (schedule === undefined ? collect(signal) : schedule(signal)),
    onCollected: (removed) => {
      announce(options.events, removed).catch((error: unknown) => {
        log.warn("announce collected objects", { error: messageOf(error) });
      });
    },
    log,
  });
  const collect: typeof store.collector.collect = async (signal) => {
    const stats = await store.collector.collect(signal);
    for (const run of after) await run();
    return stats;
  };
  return {
    ...store,
    collector: { collect, onMutation: (listener) => store.collector.onMutation(listener) },
    afterCollection: (run) => {
      after.add(run);
      return { [Symbol.dispose]: () => void after.delete(run) };
    },
    collectThrough: (through) => {
      schedule = through;
      return {
        [Symbol.dispose]: () => {
          schedule = undefined;
        },
      };
    },
  };
}

/** Clients hear of images and snapshots that were collected as if somebody had deleted them. */
async function announce(events: EventExchange, removed: readonly CollectedObject[]): Promise<void> {
  const signal = new AbortController().signal;
  for (const object of removed) {
    const context = { signal, namespace: object.namespace };
    if (object.kind === "image") {
      await publishEvent({ events, context, topic: "/images/delete" }, ImageDeleteSchema, { name: object.name });
    } else if (object.kind === "snapshot") {
      const { key, snapshotter } = object;
      await publishEvent({ events, context, topic: "/snapshot/remove" }, SnapshotRemoveSchema, { key, snapshotter });
    }
  }
}
