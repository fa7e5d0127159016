import type { FieldMask, Labels } from "./labels.ts";
import type { SnapshotInfo, SnapshotKind, SnapshotUsage } from "./snapshots.ts";

/** A snapshot as its backend knows it. */
export interface SnapshotRecord extends SnapshotInfo {
  /** Names the snapshot's folder. Never reused while a record has it. */
  readonly id: number;
  /** Ids of the committed ancestors, nearest first; empty without a parent. */
  readonly parentIds: readonly number[];
  /** What was recorded at commit; absent for active snapshots and views. */
  readonly usage?: SnapshotUsage;
}

/** What creating a record gives back: enough to make folders and mounts. */
export type SnapshotHandle = Pick<SnapshotRecord, "id" | "kind" | "parentIds">;

/** What a record is made from. */
export interface NewSnapshotRecord {
  readonly kind: Exclude<SnapshotKind, "committed">;
  /** Name of the committed parent, "" for none. */
  readonly parent: string;
  readonly labels?: Labels;
  /**
   * An id from {@link SnapshotRecords.reserveId}, for a backend that makes the folder before the record (so that a
   * record never lacks its folder). Absent: a new one.
   */
  readonly id?: number;
}

/** What a commit records. */
export interface CommitSnapshotRecord {
  /** Key of the active snapshot, which is gone afterwards. */
  readonly key: string;
  readonly usage: SnapshotUsage;
  /** Replace the active snapshot's labels; nothing is inherited. */
  readonly labels?: Labels;
  /** Sets the parent of a snapshot that was prepared without one (capability `rebase`). "" or absent: unchanged. */
  readonly parent?: string;
}

/**
 * The durable records of one snapshotter backend: a name space of its own, below the namespaces clients see. Keys and
 * names share one space. Each changing call is one transaction, durable when it resolves, and leaves nothing when it
 * throws. Reads see every change that has resolved.
 */
export interface SnapshotRecords {
  /**
   * A number no record has and no other call gets before the daemon ends. It is kept only by {@link create}: after a crash
   * it may be given again, so a backend removes folders whose id is not in {@link idsInUse} when it starts.
   */
  reserveId(): Promise<number>;
  /** @throws already-exists; not-found for the parent; invalid-argument if the parent is not committed */
  create(key: string, snapshot: NewSnapshotRecord): Promise<SnapshotHandle>;
  /** @throws not-found */
  get(name: string): Promise<SnapshotRecord>;
  /**
   * Turns an active record into committed `name`, under the same id, with new timestamps.
   * @throws already-exists for the name; not-found for the key or the parent; failed-precondition if the key is not
   *   active; invalid-argument for another parent than the recorded one
   */
  commit(name: string, options: CommitSnapshotRecord): Promise<SnapshotHandle>;
  /**
   * Removes the record; the backend removes the folder afterwards (or, after a crash, by {@link idsInUse}).
   * @throws not-found; failed-precondition if it has children
   */
  remove(name: string): Promise<Pick<SnapshotRecord, "id" | "kind">>;
  /** Paths `labels`, `labels.<k>`; empty: replace all labels. @throws not-found; invalid-argument for another path */
  update(info: Pick<SnapshotInfo, "name" | "labels">, fields: FieldMask): Promise<SnapshotRecord>;
  /** Records matching any filter (`kind`, `name`, `parent`, `labels."k"`), in name order. @throws invalid-argument */
  walk(filters: readonly string[]): AsyncIterable<SnapshotRecord>;
  /** The id and name of every record, by id: what may stay on disk. */
  idsInUse(): Promise<ReadonlyMap<number, string>>;
}
