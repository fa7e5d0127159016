/** An object garbage collection removed, for the events that announce it. */
export type CollectedObject =
  | { readonly kind: "content"; readonly namespace: string; readonly digest: string }
  | { readonly kind: "image"; readonly namespace: string; readonly name: string }
  | { readonly kind: "ingest"; readonly namespace: string; readonly ref: string }
  | { readonly kind: "lease"; readonly namespace: string; readonly id: string }
  | { readonly kind: "snapshot"; readonly namespace: string; readonly snapshotter: string; readonly key: string };

/** One collection, in milliseconds. */
export interface CollectionStats {
  /** From the start to the end of everything below. */
  readonly elapsedMs: number;
  /** Finding and deleting records; the writer serves others meanwhile. */
  readonly metadataMs: number;
  /** Deleting files of blobs and ingests. */
  readonly contentMs: number;
  /** Removing snapshots, by snapshotter. */
  readonly snapshotsMs: Readonly<Record<string, number>>;
  readonly removed: readonly CollectedObject[];
}

/** What can be collected, and what tells that it may be worth it. */
export interface GarbageCollector {
  /** Removes what nothing refers to. One run at a time: a second call waits for the first and runs again. */
  collect(signal: AbortSignal): Promise<CollectionStats>;
  /** Called after each change; `dirty` when it may have left garbage. Dispose the result to stop. */
  onMutation(listener: (dirty: boolean) => void): Disposable;
}
