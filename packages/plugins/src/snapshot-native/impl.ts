import { chmod, mkdir, readdir, rename } from "node:fs/promises";
import { backgroundContext, createLogger, type Logger, messageOf, type RequestContext } from "@stevedore/base";
import { coalesce } from "@stevedore/core/coalesce";
import type { Mount } from "@stevedore/core/mount";
import {
  createRecordSnapshotter,
  type NewSnapshotFolder,
  type SnapshotFolders,
} from "@stevedore/core/record-snapshotter";
import type { SnapshotHandle, SnapshotRecords } from "@stevedore/core/snapshot-records";
import type { Snapshotter, SnapshotUsage } from "@stevedore/core/snapshots";
import { copyTree, diskUsage, removeTree, syncFileSystem } from "@stevedore/os/blocking";
import { isErrno } from "@stevedore/os/errno";
import { mountsAtOrBelow } from "@stevedore/os/mountinfo";

export interface NativeOptions {
  /** `root_path`, or the plugin's own folder. Snapshots go to `<root>/snapshots/<id>`, as containerd's. */
  readonly root: string;
  readonly records: SnapshotRecords;
  /** Sync before a commit is recorded. Default true; off, a crash of the machine may lose what a committed snapshot holds. */
  readonly syncCommits?: boolean;
  readonly logger?: Logger;
}

/** The native snapshotter: every active snapshot is a full copy of its parent (sharing blocks where the file system can). */
export async function createNativeSnapshotter(options: NativeOptions): Promise<Snapshotter> {
  await mkdir(options.root, { recursive: true, mode: 0o700 });
  await mkdir(`${options.root}/snapshots`, { recursive: true, mode: 0o700 });
  const snapshotter = createRecordSnapshotter(options.records, new NativeFolders(options), {
    create: "failed to create snapshot",
    mounts: "failed to get snapshot mount",
    commit: () => "failed to commit snapshot",
    remove: () => "failed to remove",
  });
  // What a crash left: no call waits for it.
  snapshotter.cleanup(backgroundContext()).catch((error: unknown) => {
    options.logger?.warn("failed to clean up snapshots", { root: options.root, error: messageOf(error) });
  });
  return snapshotter;
}

class NativeFolders implements SnapshotFolders {
  /** A copy cannot be given another base afterwards. */
  readonly rebase = false;
  readonly #snapshots: string;
  readonly #syncCommits: boolean;
  readonly #log: Logger;
  readonly #sync: () => Promise<void>;
  #trashed = 0;

  constructor(options: NativeOptions) {
    this.#snapshots = `${options.root}/snapshots`;
    this.#syncCommits = options.syncCommits ?? true;
    this.#log = options.logger ?? createLogger();
    this.#sync = coalesce(() => syncFileSystem(this.#snapshots));
  }

  async make(context: RequestContext, id: number, snapshot: NewSnapshotFolder): Promise<void> {
    const [parent] = snapshot.parentIds;
    if (snapshot.kind === "view" && parent !== undefined) return; // a view shows its parent's own folder
    const folder = this.#folder(id);
    try {
      await mkdir(folder, { mode: 0o755 });
    } catch (error) {
      if (!isErrno(error, "EEXIST")) throw error;
      await removeTree(folder); // an id given before a crash, whose record was never written
      await mkdir(folder, { mode: 0o755 });
    }
    try {
      await chmod(folder, 0o755);
      if (parent !== undefined) await copyTree(this.#folder(parent), folder, { signal: context.signal });
    } catch (error) {
      await removeTree(folder);
      throw error;
    }
  }

  async discard(id: number): Promise<void> {
    const trash = `rm-${id}-${process.pid}-${++this.#trashed}`;
    try {
      await rename(this.#folder(id), `${this.#snapshots}/${trash}`);
    } catch (error) {
      if (!isErrno(error, "ENOENT")) {
        this.#log.warn("failed to move removed snapshot aside", { id, error: messageOf(error) });
      }
      return; // a view has no folder
    }
    await this.free(trash);
  }

  async measure(context: RequestContext, id: number): Promise<SnapshotUsage> {
    const { inodes, size } = await diskUsage(this.#folder(id), { signal: context.signal });
    return { inodes, size };
  }

  async seal(): Promise<void> {
    if (this.#syncCommits) await this.#sync();
  }

  list(): Promise<readonly string[]> {
    return readdir(this.#snapshots);
  }

  async free(name: string): Promise<void> {
    const path = `${this.#snapshots}/${name}`;
    try {
      if (mountsAtOrBelow(path).length === 0) await removeTree(path);
      else this.#log.warn("removed snapshot has mounts, leaving it to a later cleanup", { path });
    } catch (error) {
      this.#log.warn("failed to remove root filesystem", { path, error: messageOf(error) });
    }
  }

  mounts({ id, kind, parentIds }: SnapshotHandle): readonly Mount[] {
    const [parent] = parentIds;
    const source = parent === undefined || kind === "active" ? this.#folder(id) : this.#folder(parent);
    return [{ type: "bind", source, target: "", options: ["rbind", kind === "view" ? "ro" : "rw"] }];
  }

  #folder(id: number): string {
    return `${this.#snapshots}/${id}`;
  }
}
