import { classified, type RequestContext } from "@stevedore/base";
import type { FieldMask } from "./labels.ts";
import type { Mount } from "./mount.ts";
import type { SnapshotHandle, SnapshotRecords } from "./snapshot-records.ts";
import { MemorySnapshotRecords } from "./snapshot-records-memory.ts";
import type { SnapshotInfo, SnapshotOptions, Snapshotter, SnapshotUsage } from "./snapshots.ts";

/** A snapshotter that keeps records and no files: a backend for tests of what stands above one. */
export class MemorySnapshotter implements Snapshotter {
  readonly records: SnapshotRecords;
  /** Folders that would be on disk. */
  readonly folders = new Set<number>();

  constructor(records: SnapshotRecords = new MemorySnapshotRecords()) {
    this.records = records;
  }

  stat(_context: RequestContext, name: string): Promise<SnapshotInfo> {
    return this.records.get(name);
  }

  update(
    _context: RequestContext,
    info: Pick<SnapshotInfo, "name" | "labels">,
    fields: FieldMask,
  ): Promise<SnapshotInfo> {
    return this.records.update(info, fields);
  }

  async usage(_context: RequestContext, name: string): Promise<SnapshotUsage> {
    return (await this.records.get(name)).usage ?? { inodes: 1, size: 1 };
  }

  async mounts(_context: RequestContext, key: string): Promise<readonly Mount[]> {
    const record = await this.records.get(key);
    if (record.kind === "committed") {
      throw classified("failed-precondition", `snapshot ${key} is committed: failed precondition`);
    }
    return mountsOf(record);
  }

  prepare(
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string },
  ): Promise<readonly Mount[]> {
    return this.#make(context, key, { ...options, kind: "active" });
  }

  view(
    context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string },
  ): Promise<readonly Mount[]> {
    return this.#make(context, key, { ...options, kind: "view" });
  }

  async #make(
    _context: RequestContext,
    key: string,
    options: SnapshotOptions & { readonly parent: string; readonly kind: "active" | "view" },
  ): Promise<readonly Mount[]> {
    const handle = await this.records.create(key, options);
    this.folders.add(handle.id);
    return mountsOf(handle);
  }

  async commit(
    _context: RequestContext,
    name: string,
    options: SnapshotOptions & { readonly key: string; readonly parent?: string },
  ): Promise<void> {
    await this.records.commit(name, { ...options, usage: { inodes: 1, size: 1 } });
  }

  async remove(_context: RequestContext, name: string): Promise<void> {
    const { id } = await this.records.remove(name);
    this.folders.delete(id);
  }

  walk(_context: RequestContext, filters: readonly string[]): AsyncIterable<SnapshotInfo> {
    return this.records.walk(filters);
  }

  cleanup(): Promise<void> {
    return Promise.reject(classified("not-implemented", "nothing to clean: not implemented"));
  }
}

function mountsOf(handle: SnapshotHandle): readonly Mount[] {
  return [
    {
      type: "bind",
      source: `/memory/${handle.id}`,
      target: "",
      options: [`parents=${handle.parentIds.join(":")}`, handle.kind === "view" ? "ro" : "rw", "rbind"],
    },
  ];
}
