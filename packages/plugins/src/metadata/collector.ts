import { createLogger, isErrorClass, type Logger, messageOf, type RequestContext } from "@stevedore/base";
import type {
  CollectedObject,
  CollectionStats,
  ContentStore,
  GarbageCollector,
  KeyedLock,
  SnapshotInfo,
  Snapshotter,
} from "@stevedore/core";
import type { Removed } from "./collection.ts";
import type { MetadataDatabase } from "./database.ts";
import { statement } from "./statement.ts";

/** Files deleted at the same time. */
const DELETES_AT_ONCE = 8;

/** Longest work on the loop without a turn of it, in milliseconds. */
const SLICE_MS = 5;

/** Whether what has no record may be removed from disk. */
export const ORPHANS_FACT = "orphans";

export interface CollectorOptions {
  readonly database: MetadataDatabase;
  readonly content: ContentStore;
  readonly snapshotters: ReadonlyMap<string, Snapshotter>;
  readonly digests: KeyedLock;
  /** Backend keys of snapshots under way, by snapshotter. */
  readonly inFlight: ReadonlyMap<string, ReadonlySet<string>>;
  /** Told of each object whose record was removed, after it was. */
  readonly onCollected?: (removed: readonly CollectedObject[]) => void;
  readonly log?: Logger;
}

const blobInUse = statement<{ one: number }, [string, string]>(
  `SELECT 1 AS one FROM content WHERE digest = ? UNION ALL
   SELECT 1 AS one FROM ingests WHERE expected = ? AND expected <> '' LIMIT 1`,
);
const ingestInUse = statement<{ one: number }, [string]>("SELECT 1 AS one FROM ingests WHERE backend_ref = ? LIMIT 1");
const backendKeys = statement<{ key: string }, [string, string]>(
  `SELECT backend_key AS key FROM snapshots WHERE snapshotter = ? UNION ALL
   SELECT backend_name AS key FROM snapshot_commits WHERE snapshotter = ?`,
);

/**
 * Collects records in the writer thread, then what they stood for: files under their digest's lock, and only when no
 * namespace has a record of them; snapshots children first.
 */
export class MetadataCollector implements GarbageCollector {
  readonly #options: CollectorOptions;
  readonly #log: Logger;
  readonly #digests = new Set<string>();
  readonly #ingests = new Set<string>();
  /** Backend keys to remove, by snapshotter. */
  readonly #snapshots = new Map<string, Set<string>>();
  #orphansPending = true;
  #running: Promise<unknown> = Promise.resolve();

  constructor(options: CollectorOptions) {
    this.#options = options;
    this.#log = options.log ?? createLogger();
  }

  onMutation(listener: (dirty: boolean) => void): Disposable {
    return this.#options.database.onMutation(listener);
  }

  discardBlob(digest: string): void {
    this.#digests.add(digest);
  }

  discardSnapshot(snapshotter: string, backendKey: string): void {
    const known = this.#snapshots.get(snapshotter);
    if (known === undefined) this.#snapshots.set(snapshotter, new Set([backendKey]));
    else known.add(backendKey);
  }

  collect(signal: AbortSignal): Promise<CollectionStats> {
    const run = this.#running.then(() => this.#collect(signal));
    this.#running = run.catch(() => undefined);
    return run;
  }

  async #collect(signal: AbortSignal): Promise<CollectionStats> {
    signal.throwIfAborted();
    const started = performance.now();
    const { removed: rows } = await this.#options.database.collect();
    const metadataMs = performance.now() - started;
    const removed = rows.map(announced);
    if (removed.length > 0) this.#options.onCollected?.(removed);
    for (const row of rows) this.#noteRow(row);
    const context: RequestContext = { signal };
    if (this.#orphansPending) await this.#noteOrphans(context);

    const contentStarted = performance.now();
    await this.#deleteContent(context);
    const contentMs = performance.now() - contentStarted;
    const snapshotsMs: Record<string, number> = {};
    for (const [name, backend] of this.#options.snapshotters) {
      const keys = this.#snapshots.get(name);
      if (keys === undefined || keys.size === 0) continue;
      const snapshotsStarted = performance.now();
      await this.#removeSnapshots(context, { name, backend, keys });
      snapshotsMs[name] = performance.now() - snapshotsStarted;
    }
    return { elapsedMs: performance.now() - started, metadataMs, contentMs, snapshotsMs, removed };
  }

  #noteRow(row: Removed): void {
    if (row.kind === "content") this.#digests.add(row.digest);
    else if (row.kind === "ingest") {
      this.#ingests.add(row.backendRef);
      if (row.expected !== "") this.#digests.add(row.expected);
    } else if (row.kind === "snapshot") this.discardSnapshot(row.snapshotter, row.backendKey);
  }

  /** What a crash left on disk without a record. Once per start: later garbage is noted when it is made. */
  async #noteOrphans(context: RequestContext): Promise<void> {
    const { database, content, snapshotters } = this.#options;
    if (database.fact(ORPHANS_FACT) !== "sweep") {
      this.#orphansPending = false;
      return;
    }
    for await (const { digest } of content.list(context, [])) {
      if (blobInUse(database.reader).get(digest, digest) === null) this.#digests.add(digest);
    }
    for (const status of await content.listStatuses(context, [])) {
      if (ingestInUse(database.reader).get(status.ref) === null) this.#ingests.add(status.ref);
    }
    for (const [name, backend] of snapshotters) {
      try {
        for await (const info of backend.walk(context, [])) {
          if (!this.#snapshotInUse(name, info.name)) this.discardSnapshot(name, info.name);
        }
      } catch (error) {
        this.#log.warn("cannot look for snapshots without a record", { snapshotter: name, error: messageOf(error) });
      }
    }
    this.#orphansPending = false;
  }

  #snapshotInUse(snapshotter: string, backendKey: string): boolean {
    if (this.#options.inFlight.get(snapshotter)?.has(backendKey) === true) return true;
    return (
      snapshotKeyInUse(this.#options.database.reader).get(snapshotter, backendKey, snapshotter, backendKey) !== null
    );
  }

  async #deleteContent(context: RequestContext): Promise<void> {
    await inGroups(this.#digests, DELETES_AT_ONCE, async (digest) => {
      context.signal.throwIfAborted();
      await this.#deleteBlob(context, digest);
      this.#digests.delete(digest);
    });
    await inGroups(this.#ingests, DELETES_AT_ONCE, async (ref) => {
      context.signal.throwIfAborted();
      if (ingestInUse(this.#options.database.reader).get(ref) === null) {
        await this.#options.content.abort(context, ref).catch(ignoreMissing);
      }
      this.#ingests.delete(ref);
    });
  }

  async #deleteBlob(context: RequestContext, digest: string): Promise<void> {
    const { database, content, digests } = this.#options;
    using _held = await digests.acquire(digest, context.signal);
    if (blobInUse(database.reader).get(digest, digest) !== null) return;
    await content.delete(context, digest).catch(ignoreMissing);
    this.#log.debug("removed content", { digest });
  }

  async #removeSnapshots(
    context: RequestContext,
    from: { readonly name: string; readonly backend: Snapshotter; readonly keys: Set<string> },
  ): Promise<void> {
    const { name, backend, keys } = from;
    const used = new Set(
      backendKeys(this.#options.database.reader)
        .all(name, name)
        .map((row) => row.key),
    );
    const infos: SnapshotInfo[] = [];
    for (const key of keys) {
      // Taken up again by a namespace (a backend that finds its own snapshots): no longer ours to remove.
      if (used.has(key)) {
        keys.delete(key);
        continue;
      }
      try {
        infos.push(await backend.stat(context, key));
      } catch (error) {
        if (!isErrorClass(error, "not-found")) throw error;
        keys.delete(key);
      }
    }
    for (const info of childrenFirst(infos)) {
      context.signal.throwIfAborted();
      if (this.#snapshotInUse(name, info.name)) {
        keys.delete(info.name);
        continue;
      }
      try {
        await backend.remove(context, info.name);
        this.#log.debug("removed snapshot", { snapshotter: name, key: info.name });
      } catch (error) {
        if (isErrorClass(error, "failed-precondition")) {
          // It has a child again, or is in use: tried again with the next collection.
          this.#log.warn("failed to remove snapshot", { snapshotter: name, key: info.name, error: messageOf(error) });
          continue;
        }
        if (!isErrorClass(error, "not-found")) throw error;
      }
      keys.delete(info.name);
    }
    await backend.cleanup(context).catch((error: unknown) => {
      if (!isErrorClass(error, "not-implemented")) throw error;
    });
  }
}

const snapshotKeyInUse = statement<{ one: number }, [string, string, string, string]>(
  `SELECT 1 AS one FROM snapshots WHERE snapshotter = ? AND backend_key = ? UNION ALL
   SELECT 1 AS one FROM snapshot_commits WHERE snapshotter = ? AND backend_name = ? LIMIT 1`,
);

/** A snapshot comes after all those that name it as their parent. */
function childrenFirst(infos: readonly SnapshotInfo[]): readonly SnapshotInfo[] {
  const byName = new Map(infos.map((info) => [info.name, info]));
  const depths = new Map<string, number>();
  const depthOf = (info: SnapshotInfo): number => {
    const chain: SnapshotInfo[] = [];
    let known = 0;
    for (let at: SnapshotInfo | undefined = info; at !== undefined; at = byName.get(at.parent)) {
      const depth = depths.get(at.name);
      if (depth !== undefined) {
        known = depth;
        break;
      }
      chain.push(at);
      // A damaged backend could show a circle.
      if (chain.length > infos.length) break;
    }
    for (const each of chain.reverse()) depths.set(each.name, ++known);
    return depths.get(info.name) ?? 0;
  };
  return infos.toSorted((a, b) => depthOf(b) - depthOf(a));
}

function announced(row: Removed): CollectedObject {
  if (row.kind === "snapshot") {
    return { kind: row.kind, namespace: row.namespace, snapshotter: row.snapshotter, key: row.name };
  }
  if (row.kind === "ingest") return { kind: row.kind, namespace: row.namespace, ref: row.ref };
  return row;
}

function ignoreMissing(error: unknown): void {
  if (!isErrorClass(error, "not-found")) throw error;
}

async function inGroups<T>(items: Iterable<T>, size: number, work: (item: T) => Promise<void>): Promise<void> {
  const list = [...items];
  let sliceEnd = performance.now() + SLICE_MS;
  for (let at = 0; at < list.length; at += size) {
    await Promise.all(list.slice(at, at + size).map(work));
    if (performance.now() < sliceEnd) continue;
    // What answers at once would never let the loop turn.
    await Bun.sleep(0);
    sliceEnd = performance.now() + SLICE_MS;
  }
}
