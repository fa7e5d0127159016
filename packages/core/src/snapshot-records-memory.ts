import { classified } from "@stevedore/base";
import { matcher, snapshotField } from "./filters.ts";
import { goQuote } from "./go-quote.ts";
import type { FieldMask, Labels } from "./labels.ts";
import { mergeLabels } from "./labels.ts";
import type {
  CommitSnapshotRecord,
  NewSnapshotRecord,
  SnapshotHandle,
  SnapshotRecord,
  SnapshotRecords,
} from "./snapshot-records.ts";
import type { SnapshotInfo } from "./snapshots.ts";

type Stored = Omit<SnapshotRecord, "parentIds">;

/** Snapshot records that last as long as the object: for tests of backends, and the model the durable ones are tested against. */
export class MemorySnapshotRecords implements SnapshotRecords {
  readonly #records = new Map<string, Stored>();
  #lastId = 0;

  reserveId(): Promise<number> {
    return Promise.resolve(++this.#lastId);
  }

  async create(key: string, snapshot: NewSnapshotRecord): Promise<SnapshotHandle> {
    if (snapshot.parent !== "") {
      const parent = this.#records.get(snapshot.parent);
      if (parent === undefined) {
        throw classified("not-found", `missing parent ${goQuote(snapshot.parent)} bucket: not found`);
      }
      if (parent.kind !== "committed") {
        throw classified(
          "invalid-argument",
          `parent ${goQuote(snapshot.parent)} is not committed snapshot: invalid argument`,
        );
      }
    }
    if (this.#records.has(key)) throw classified("already-exists", `snapshot ${key}: already exists`);
    const id = snapshot.id ?? (await this.reserveId());
    const now = new Date();
    this.#records.set(key, {
      id,
      kind: snapshot.kind,
      name: key,
      parent: snapshot.parent,
      labels: mergeLabels({}, snapshot.labels ?? {}, []),
      createdAt: now,
      updatedAt: now,
    });
    return { id, kind: snapshot.kind, parentIds: this.#parentIds(snapshot.parent) };
  }

  get(name: string): Promise<SnapshotRecord> {
    const record = this.#records.get(name);
    if (record === undefined) return Promise.reject(classified("not-found", "snapshot does not exist: not found"));
    return Promise.resolve({ ...record, parentIds: this.#parentIds(record.parent) });
  }

  async commit(name: string, options: CommitSnapshotRecord): Promise<SnapshotHandle> {
    await Promise.resolve();
    if (this.#records.has(name)) throw classified("already-exists", `committed snapshot ${name}: already exists`);
    const active = this.#records.get(options.key);
    if (active === undefined) {
      throw classified("not-found", `failed to get active snapshot ${goQuote(options.key)}: not found`);
    }
    if (active.kind !== "active") {
      throw classified("failed-precondition", `snapshot ${goQuote(options.key)} is not active: failed precondition`);
    }
    const wanted = options.parent ?? "";
    if (wanted !== "" && active.parent !== "" && wanted !== active.parent) {
      throw classified(
        "invalid-argument",
        `cannot change parent of active snapshot ${goQuote(options.key)} on commit: invalid argument`,
      );
    }
    const parent = active.parent === "" ? wanted : active.parent;
    if (parent !== "") {
      const found = this.#records.get(parent);
      if (found === undefined) {
        throw classified(
          "not-found",
          `missing parent ${goQuote(parent)} of snapshot ${goQuote(options.key)}: not found`,
        );
      }
      if (found.kind !== "committed") {
        throw classified("failed-precondition", `parent ${goQuote(parent)} is not committed: failed precondition`);
      }
    }
    const now = new Date();
    this.#records.delete(options.key);
    this.#records.set(name, {
      ...active,
      kind: "committed",
      name,
      parent,
      labels: mergeLabels({}, options.labels ?? {}, []),
      createdAt: now,
      updatedAt: now,
      usage: options.usage,
    });
    return { id: active.id, kind: "committed", parentIds: this.#parentIds(parent) };
  }

  async remove(name: string): Promise<Pick<SnapshotRecord, "id" | "kind">> {
    await Promise.resolve();
    const record = this.#records.get(name);
    if (record === undefined) throw classified("not-found", `snapshot ${name}: not found`);
    for (const other of this.#records.values()) {
      if (other.parent === name) {
        throw classified("failed-precondition", "cannot remove snapshot with child: failed precondition");
      }
    }
    this.#records.delete(name);
    return { id: record.id, kind: record.kind };
  }

  async update(info: Pick<SnapshotInfo, "name" | "labels">, fields: FieldMask): Promise<SnapshotRecord> {
    const record = this.#records.get(info.name);
    if (record === undefined) throw classified("not-found", "snapshot does not exist: not found");
    const labels: Labels = mergeLabels(record.labels, info.labels, fields, `snapshot ${goQuote(info.name)}`);
    this.#records.set(info.name, { ...record, labels, updatedAt: new Date() });
    return this.get(info.name);
  }

  async *walk(filters: readonly string[]): AsyncIterable<SnapshotRecord> {
    const match = matcher<SnapshotInfo>(filters, snapshotField);
    const names = [...this.#records.keys()].sort();
    for (const name of names) {
      const record = this.#records.get(name);
      if (record !== undefined && match(record)) yield await this.get(name);
    }
  }

  idsInUse(): Promise<ReadonlyMap<number, string>> {
    const ids = [...this.#records.values()].map((record): [number, string] => [record.id, record.name]);
    return Promise.resolve(new Map(ids.sort(([a], [b]) => a - b)));
  }

  #parentIds(name: string): readonly number[] {
    const ids: number[] = [];
    for (let at = name; at !== ""; ) {
      const record = this.#records.get(at);
      if (record === undefined) break;
      ids.push(record.id);
      at = record.parent;
    }
    return ids;
  }
}
