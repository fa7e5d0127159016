import {
  type CommitSnapshotRecord,
  type FieldMask,
  matcher,
  type NewSnapshotRecord,
  type SnapshotHandle,
  type SnapshotInfo,
  type SnapshotRecord,
  type SnapshotRecords,
  snapshotField,
} from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import { findRecord, type RecordRow, recordOf } from "./procedures/snapshot-records.ts";
import { statement } from "./statement.ts";

/** Rows read at once while walking: below a millisecond. */
const PAGE = 256;

const page = statement<RecordRow, [string, string, number]>(
  "SELECT * FROM backend_snapshots WHERE snapshotter = ? AND name > ? ORDER BY name LIMIT ?",
);
const ids = statement<{ id: number; name: string }, [string]>(
  "SELECT id, name FROM backend_snapshots WHERE snapshotter = ? ORDER BY id",
);

/** The records of the backend `snapshotter` in the metadata file. */
export function createSnapshotRecords(database: MetadataDatabase, snapshotter: string): SnapshotRecords {
  return new DurableSnapshotRecords(database, snapshotter);
}

class DurableSnapshotRecords implements SnapshotRecords {
  readonly #database: MetadataDatabase;
  readonly #snapshotter: string;

  constructor(database: MetadataDatabase, snapshotter: string) {
    this.#database = database;
    this.#snapshotter = snapshotter;
  }

  async reserveId(): Promise<number> {
    return (await this.#database.call("reserveRecordId", { snapshotter: this.#snapshotter })).id;
  }

  create(key: string, snapshot: NewSnapshotRecord): Promise<SnapshotHandle> {
    return this.#database.call("createRecord", {
      snapshotter: this.#snapshotter,
      key,
      kind: snapshot.kind,
      parent: snapshot.parent,
      labels: snapshot.labels ?? {},
      id: snapshot.id,
    });
  }

  async get(name: string): Promise<SnapshotRecord> {
    await Promise.resolve();
    const { reader } = this.#database;
    return recordOf(reader, this.#snapshotter, findRecord(reader, this.#snapshotter, name));
  }

  commit(name: string, options: CommitSnapshotRecord): Promise<SnapshotHandle> {
    return this.#database.call("commitRecord", {
      snapshotter: this.#snapshotter,
      name,
      key: options.key,
      usage: options.usage,
      labels: options.labels ?? {},
      parent: options.parent ?? "",
    });
  }

  remove(name: string): Promise<Pick<SnapshotRecord, "id" | "kind">> {
    return this.#database.call("removeRecord", { snapshotter: this.#snapshotter, name });
  }

  update(info: Pick<SnapshotInfo, "name" | "labels">, fields: FieldMask): Promise<SnapshotRecord> {
    return this.#database.call("updateRecord", {
      snapshotter: this.#snapshotter,
      name: info.name,
      labels: info.labels,
      fields,
    });
  }

  async *walk(filters: readonly string[]): AsyncIterable<SnapshotRecord> {
    const match = matcher<SnapshotInfo>(filters, snapshotField);
    const { reader } = this.#database;
    for (let after = ""; ; ) {
      const rows = page(reader).all(this.#snapshotter, after, PAGE);
      for (const row of rows) {
        const record = recordOf(reader, this.#snapshotter, row);
        if (match(record)) yield record;
        after = row.name;
      }
      if (rows.length < PAGE) return;
    }
  }

  async idsInUse(): Promise<ReadonlyMap<number, string>> {
    await Promise.resolve();
    return new Map(
      ids(this.#database.reader)
        .all(this.#snapshotter)
        .map((row) => [row.id, row.name]),
    );
  }
}
