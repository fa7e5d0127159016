import type { RequestContext } from "@stevedore/base";
import type { FieldMask, Labels } from "./labels.ts";
import type { Mount } from "./mount.ts";

/** Words: an active or view snapshot has a key; a committed one has a name; both are unique in one space. */
export type SnapshotKind = "view" | "active" | "committed";

/** A snapshot as clients see it. */
export interface SnapshotInfo {
  readonly kind: SnapshotKind;
  /** Key or name. */
  readonly name: string;
  /** Name of the committed parent, "" for none. */
  readonly parent: string;
  readonly labels: Labels;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** Space a snapshot takes by itself. */
export interface SnapshotUsage {
  readonly inodes: number;
  /** Bytes. */
  readonly size: number;
}

/** What may be given when a snapshot is made. */
export interface SnapshotOptions {
  readonly labels?: Labels;
}

/**
 * Snapshots of file system trees. Every backend uses the same words; what each method does when called twice or with a
 * missing object is fixed here and held by the suite.
 */
export interface Snapshotter {
  /** @throws not-found */
  stat(context: RequestContext, name: string): Promise<SnapshotInfo>;
  /** Only labels change: paths `labels`, `labels.<k>`; empty: replace. @throws not-found; invalid-argument */
  update(
    context: RequestContext,
    info: Pick<SnapshotInfo, "name" | "labels">,
    fields: FieldMask,
  ): Promise<SnapshotInfo>;
  /** Use of this snapshot alone, without parents. Committed: recorded at commit; active: measured now. @throws not-found */
  usage(context: RequestContext, name: string): Promise<SnapshotUsage>;
  /** The mounts of an active snapshot or view, the same as Prepare or View returned. @throws not-found; failed-precondition for a committed one */
  mounts(context: RequestContext, key: string): Promise<readonly Mount[]>;
  /** A writable snapshot on top of `parent` ("" for none). @throws already-exists; not-found for the parent; invalid-argument if the parent is not committed */
  prepare(
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string },
  ): Promise<readonly Mount[]>;
  /** As {@link prepare}, read-only. */
  view(
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string },
  ): Promise<readonly Mount[]>;
  /**
   * Turns active `key` into committed `name`; the key is gone afterwards. The tree is synced before. `parent` sets the parent of a
   * snapshot that was prepared without one (capability `rebase`).
   * @throws already-exists for the name; not-found for the key; failed-precondition if the key is not active
   */
  commit(
    context: RequestContext,
    name: string,
    options: SnapshotOptions & { readonly key: string; readonly parent?: string },
  ): Promise<void>;
  /** @throws not-found; failed-precondition if it has children */
  remove(context: RequestContext, name: string): Promise<void>;
  /** Snapshots matching any filter (`kind`, `name`, `parent`, `labels."k"`), in name order. */
  walk(context: RequestContext, filters: readonly string[]): AsyncIterable<SnapshotInfo>;
  /** Frees what removed snapshots left on disk. @throws not-implemented where a backend has nothing to clean */
  cleanup(context: RequestContext): Promise<void>;
}
