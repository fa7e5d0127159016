import { classified, type RequestContext, withContext } from "@stevedore/base";
import type { Labels } from "./labels.ts";
import type { Mount } from "./mount.ts";
import type { SnapshotHandle, SnapshotRecord, SnapshotRecords } from "./snapshot-records.ts";
import type { SnapshotInfo, SnapshotOptions, Snapshotter, SnapshotUsage } from "./snapshots.ts";

/** A snapshot about to get its folder. */
export interface NewSnapshotFolder {
  readonly kind: "active" | "view";
  /** Ids of the committed ancestors, nearest first. */
  readonly parentIds: readonly number[];
  readonly labels: Labels;
}

/**
 * What a backend that keeps one folder per snapshot has to bring; {@link createRecordSnapshotter} makes a
 * {@link Snapshotter} of it. Folders are named by the ids of the records.
 */
export interface SnapshotFolders {
  /** Makes the folder of snapshot `id`. When it throws, it leaves nothing. */
  make(context: RequestContext, id: number, snapshot: NewSnapshotFolder): Promise<void>;
  /** Gives the folder up: of a removed snapshot, or of one whose record could not be written. Space may be freed later. */
  discard(id: number): Promise<void>;
  /** What the folder itself takes up. */
  measure(context: RequestContext, id: number): Promise<SnapshotUsage>;
  /**
   * Makes the folder ready to be a parent, and durable. `adopted` are the ancestors of a snapshot that was prepared
   * without a parent and gets one now, nearest first.
   */
  seal(context: RequestContext, id: number, adopted: readonly number[] | undefined): Promise<void>;
  mounts(snapshot: SnapshotHandle & { readonly labels: Labels }): readonly Mount[];
  /** Ids (or leftover names) of folders on disk. */
  list(): Promise<readonly string[]>;
  /** Frees a folder that no record has, by the name {@link list} gave. The name is free when this resolves, space may be later. */
  free(name: string): Promise<void>;
  /** Labels a backend adds to what it reports. */
  extraLabels?(id: number): Labels;
  /** Whether snapshots may get their parent at commit. Without it, a commit with a new parent fails. */
  readonly rebase: boolean;
}

/** How the peer's backends introduce their errors. */
export interface SnapshotterTexts {
  readonly create: string;
  readonly mounts: string;
  commit(key: string): string;
  remove(key: string): string;
}

/** A snapshotter over durable records and a folder for each. */
export function createRecordSnapshotter(
  records: SnapshotRecords,
  folders: SnapshotFolders,
  texts: SnapshotterTexts,
): Snapshotter {
  /** Ids whose folder exists while their record does not yet: cleanup leaves them alone. */
  const making = new Set<string>();
  /** For each cleanup going on, the ids given since it began: after a crash they may be those of leftovers it has listed. */
  const cleanups = new Set<Set<string>>();
  /** Leftovers being freed, by name; who is given such an id waits. */
  const freeing = new Map<string, Promise<void>>();

  const create = async (
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string; readonly kind: "active" | "view" },
  ): Promise<readonly Mount[]> => {
    const { kind, parent, labels = {} } = options;
    context.signal.throwIfAborted();
    const parentIds = parent === "" ? [] : await ancestors(records, parent);
    const id = await records.reserveId();
    making.add(String(id));
    for (const given of cleanups) given.add(String(id));
    try {
      await freeing.get(String(id));
      await folders.make(context, id, { kind, parentIds, labels });
      try {
        const handle = await records.create(key, { kind, parent, labels, id });
        return folders.mounts({ ...handle, labels });
      } catch (error) {
        await folders.discard(id);
        throw error;
      }
    } catch (error) {
      throw withContext(texts.create, error);
    } finally {
      making.delete(String(id));
    }
  };

  const decorate = (record: SnapshotRecord): SnapshotInfo => {
    const { id, parentIds: _parents, usage: _usage, ...info } = record;
    const extra = folders.extraLabels?.(id);
    return extra === undefined ? info : { ...info, labels: { ...info.labels, ...extra } };
  };

  return {
    stat: async (_context, name) => decorate(await records.get(name)),
    update: async (_context, info, fields) => decorate(await records.update(info, fields)),
    usage: async (context, name) => {
      const record = await records.get(name);
      if (record.kind === "active") return folders.measure(context, record.id);
      return record.usage ?? { inodes: 0, size: 0 };
    },
    mounts: async (_context, key) => {
      let record: SnapshotRecord;
      try {
        record = await records.get(key);
        if (record.kind === "committed") {
          throw classified("failed-precondition", `requested snapshot ${key} not active or view: failed precondition`);
        }
      } catch (error) {
        throw withContext(texts.mounts, error);
      }
      return folders.mounts(record);
    },
    prepare: (context, key, options) => create(context, key, { ...options, kind: "active" }),
    view: (context, key, options) => create(context, key, { ...options, kind: "view" }),
    commit: async (context, name, { key, parent = "", labels = {} }) => {
      const record = await records.get(key);
      try {
        let usage: SnapshotUsage = { inodes: 0, size: 0 };
        if (record.kind === "active") {
          const rebased = record.parent === "" && parent !== "";
          if (rebased && !folders.rebase) {
            throw classified(
              "invalid-argument",
              `cannot change parent of active snapshot ${JSON.stringify(key)} on commit: invalid argument`,
            );
          }
          const adopted = rebased ? await ancestors(records, parent) : undefined;
          await folders.seal(context, record.id, adopted);
          usage = await folders.measure(context, record.id);
        }
        await records.commit(name, { key, usage, labels, ...(parent === "" ? {} : { parent }) });
      } catch (error) {
        throw withContext(texts.commit(key), error);
      }
    },
    remove: async (_context, name) => {
      let id: number;
      try {
        ({ id } = await records.remove(name));
      } catch (error) {
        throw withContext(texts.remove(name), error);
      }
      await folders.discard(id);
    },
    walk: async function* (_context, filters) {
      for await (const record of records.walk(filters)) yield decorate(record);
    },
    cleanup: async (context) => {
      const given = new Set<string>();
      cleanups.add(given);
      try {
        const present = await folders.list();
        // In this order: what was being made when the list was taken is either still in `busy`, or has a record by the
        // time the ids are read.
        const busy = new Set(making);
        const inUse = await records.idsInUse();
        for (const name of present) {
          context.signal.throwIfAborted();
          if (busy.has(name) || given.has(name) || freeing.has(name)) continue;
          if (/^[1-9][0-9]*$/.test(name) && inUse.has(Number(name))) continue;
          const freed = folders.free(name);
          freeing.set(name, freed);
          await freed.finally(() => freeing.delete(name));
        }
      } finally {
        cleanups.delete(given);
      }
    },
  };
}

/** Ids of a committed snapshot and its ancestors, nearest first; whether it may be a parent is for the records to say. */
async function ancestors(records: SnapshotRecords, name: string): Promise<readonly number[]> {
  try {
    const parent = await records.get(name);
    return [parent.id, ...parent.parentIds];
  } catch {
    return []; // creating the record says what is wrong with it
  }
}
