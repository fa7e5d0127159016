import { access, chmod, lchown, lstat, mkdir, readdir, readFile, rename } from "node:fs/promises";
import { backgroundContext, createLogger, type Logger, messageOf, type RequestContext } from "@stevedore/base";
import { coalesce } from "@stevedore/core/coalesce";
import type { Labels } from "@stevedore/core/labels";
import type { Mount } from "@stevedore/core/mount";
import {
  createRecordSnapshotter,
  type NewSnapshotFolder,
  type SnapshotFolders,
} from "@stevedore/core/record-snapshotter";
import type { SnapshotHandle, SnapshotRecords } from "@stevedore/core/snapshot-records";
import type { Snapshotter, SnapshotUsage } from "@stevedore/core/snapshots";
import { IMPLIED_MARK } from "@stevedore/oci/layer-job";
import { adoptFolders, diskUsage, removeTree, syncFileSystem, unmountRecursive } from "@stevedore/os/blocking";
import { isErrno } from "@stevedore/os/errno";
import { FS_MAGIC, fileSystemInfo } from "@stevedore/os/files";
import { MNT } from "@stevedore/os/mount";
import { mountsAtOrBelow } from "@stevedore/os/mountinfo";
import { canMapOverlayLayers } from "@stevedore/os/userns";
import { GID_MAPPING_LABEL, mappedRoot, UID_MAPPING_LABEL } from "./id-map.ts";

/** Reported with `upperdir_label`: where a snapshot's own changes lie. */
const UPPERDIR_LABEL = "containerd.io/snapshot/overlay.upperdir";

export interface OverlayOptions {
  /** `root_path`, or the plugin's own folder. Snapshots go to `<root>/snapshots/<id>/{fs,work}`, as containerd's. */
  readonly root: string;
  readonly records: SnapshotRecords;
  /** `upperdir_label`. Default false. */
  readonly upperdirLabel?: boolean;
  /** `sync_remove`: a removed snapshot's space is free when Remove returns. Default false. */
  readonly syncRemove?: boolean;
  /** `mount_options`: further options of overlay mounts; not of binds. */
  readonly mountOptions?: readonly string[];
  /** Whether mounts carry `uidmap=` and `gidmap=` for snapshots with mapping labels: whoever mounts must know them. Default true. */
  readonly remapIds?: boolean;
  /** Sync before a commit is recorded. Default true; off, a crash of the machine may lose what a committed snapshot holds. */
  readonly syncCommits?: boolean;
  readonly logger?: Logger;
}

/**
 * The overlayfs snapshotter: containerd's folders, mounts and labels. Every snapshot has a folder `<id>` with its changes in
 * `fs` and, while active, overlayfs's own `work`.
 */
export async function createOverlaySnapshotter(options: OverlayOptions): Promise<Snapshotter> {
  const folders = new OverlayFolders(options, await prepareRoot(options));
  const snapshotter = createRecordSnapshotter(options.records, folders, {
    create: "failed to create snapshot",
    mounts: "failed to get active mount",
    commit: (key) => `failed to commit snapshot ${key}`,
    remove: (key) => `failed to remove snapshot ${key}`,
  });
  // What a crash left: no call waits for it.
  snapshotter.cleanup(backgroundContext()).catch((error: unknown) => {
    options.logger?.warn("failed to clean up snapshots", { root: options.root, error: messageOf(error) });
  });
  return snapshotter;
}

/** Whether files below `root` can be shown under other owners by an id mapping of mounts. Makes the folder, as the snapshotter does. */
export async function idmappedMounts(root: string): Promise<boolean> {
  await mkdir(root, { recursive: true, mode: 0o700 });
  return canMapOverlayLayers(root);
}

/** Makes the folders and finds out which mount options this kernel needs. */
async function prepareRoot({ root, mountOptions = [] }: OverlayOptions): Promise<readonly string[]> {
  await mkdir(root, { recursive: true, mode: 0o700 });
  await makeFolder(`${root}/snapshots`, 0o700);
  await requireEntryTypes(root);
  const chosen = [...mountOptions];
  const has = (key: string): boolean => chosen.some((option) => option === key || option.startsWith(`${key}=`));
  if (!has("userxattr") && (await needsUserXattr(root))) chosen.push("userxattr");
  if (!has("index") && (await exists("/sys/module/overlay/parameters/index"))) chosen.push("index=off");
  return chosen;
}

/** Makes one folder with exactly `mode`, whatever the umask; an existing one is left as it is. */
async function makeFolder(path: string, mode: number): Promise<void> {
  try {
    await mkdir(path, { mode });
  } catch (error) {
    if (isErrno(error, "EEXIST")) return;
    throw error;
  }
  await chmod(path, mode);
}

/** overlayfs finds whiteouts by the entry types readdir gives; XFS without ftype gives none. */
async function requireEntryTypes(root: string): Promise<void> {
  const entries = await readdir(root, { withFileTypes: true });
  if (entries.some((entry) => entry.name === "snapshots" && entry.isDirectory())) return;
  throw new Error(
    `${root} does not support d_type. If the backing filesystem is xfs, please reformat with ftype=1 to enable d_type support`,
  );
}

/** In a user namespace overlayfs keeps its marks in user.overlay.*; tmpfs has no such attributes. */
async function needsUserXattr(root: string): Promise<boolean> {
  return (await inUserNamespace()) && fileSystemInfo(root).type !== FS_MAGIC.TMPFS;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}

async function inUserNamespace(): Promise<boolean> {
  const map = await readFile("/proc/self/uid_map", "utf8");
  const fields = map.trim().split(/\s+/);
  return fields.join(" ") !== "0 0 4294967295";
}

/** Folders of this name are being deleted; left by a crash, they are found by it. */
const TRASH = "rm-";

class OverlayFolders implements SnapshotFolders {
  readonly rebase = true;
  readonly #options: OverlayOptions;
  readonly #mountOptions: readonly string[];
  readonly #snapshots: string;
  readonly #log: Logger;
  readonly #sync: () => Promise<void>;
  /** Deletions going on, one after the other: they are heavy, and nobody waits for them. */
  #deleting: Promise<void> = Promise.resolve();
  #trashed = 0;

  constructor(options: OverlayOptions, mountOptions: readonly string[]) {
    this.#options = options;
    this.#mountOptions = mountOptions;
    this.#snapshots = `${options.root}/snapshots`;
    this.#log = options.logger ?? createLogger();
    this.#sync = coalesce(() => syncFileSystem(this.#snapshots));
  }

  async make(_context: RequestContext, id: number, snapshot: NewSnapshotFolder): Promise<void> {
    const { kind, parentIds, labels } = snapshot;
    const owner = mappedRoot(labels) ?? (await this.#ownerOf(parentIds[0]));
    const folder = `${this.#snapshots}/${id}`;
    try {
      await mkdir(folder, { mode: 0o700 });
    } catch (error) {
      if (!isErrno(error, "EEXIST")) throw error;
      await removeTree(folder); // an id given before a crash, whose record was never written
      await mkdir(folder, { mode: 0o700 });
    }
    try {
      await chmod(folder, 0o700);
      await makeFolder(`${folder}/fs`, 0o755);
      if (kind === "active") await makeFolder(`${folder}/work`, 0o711);
      if (owner !== undefined) await lchown(`${folder}/fs`, owner.uid, owner.gid);
    } catch (error) {
      await removeTree(folder);
      throw error;
    }
  }

  async #ownerOf(parent: number | undefined): Promise<{ uid: number; gid: number } | undefined> {
    if (parent === undefined) return undefined;
    const { uid, gid } = await lstat(this.#upper(parent));
    return { uid, gid };
  }

  async discard(id: number): Promise<void> {
    const done = await this.#moveAside(String(id));
    if (this.#options.syncRemove === true) await done();
  }

  /** Renames a folder so that its name is free, and starts deleting it. The result waits for that. */
  async #moveAside(name: string): Promise<() => Promise<void>> {
    const trash = `${TRASH}${name}-${process.pid}-${++this.#trashed}`;
    try {
      await rename(`${this.#snapshots}/${name}`, `${this.#snapshots}/${trash}`);
    } catch (error) {
      if (!isErrno(error, "ENOENT")) {
        // The next cleanup finds it: no record has it.
        this.#log.warn("failed to move removed snapshot aside", { name, error: messageOf(error) });
      }
      return () => Promise.resolve();
    }
    const deleted = this.#delete(trash);
    return () => deleted;
  }

  /** Deletes in the background, in order. The result never rejects: what fails is for the next cleanup. */
  #delete(name: string): Promise<void> {
    this.#deleting = this.#deleting.then(() => this.#remove(name));
    return this.#deleting;
  }

  async #remove(name: string): Promise<void> {
    const path = `${this.#snapshots}/${name}`;
    try {
      const mounted = mountsAtOrBelow(path);
      if (mounted.length > 0) {
        // A detached tree is not deleted in the same attempt: what was mounted may still be reached below it.
        this.#log.warn("removed snapshot has mounts, detaching them", { path, mounts: mounted.length });
        await unmountRecursive(path, { flags: MNT.DETACH });
        return;
      }
      await removeTree(path);
    } catch (error) {
      this.#log.warn("failed to remove directory", { path, error: messageOf(error) });
    }
  }

  async measure(context: RequestContext, id: number): Promise<SnapshotUsage> {
    const { inodes, size } = await diskUsage(this.#upper(id), { signal: context.signal });
    return { inodes, size };
  }

  async seal(context: RequestContext, id: number, adopted: readonly number[] | undefined): Promise<void> {
    const lowers = (adopted ?? []).map((parent) => this.#upper(parent));
    await adoptFolders(this.#upper(id), lowers, { mark: IMPLIED_MARK, signal: context.signal });
    if (this.#options.syncCommits ?? true) await this.#sync();
  }

  async list(): Promise<readonly string[]> {
    await this.#deleting;
    return readdir(this.#snapshots);
  }

  async free(name: string): Promise<void> {
    if (name.startsWith(TRASH)) void this.#delete(name);
    else await this.#moveAside(name);
  }

  extraLabels(id: number): Labels {
    return this.#options.upperdirLabel === true ? { [UPPERDIR_LABEL]: this.#upper(id) } : {};
  }

  mounts({ id, kind, parentIds, labels }: SnapshotHandle & { readonly labels: Labels }): readonly Mount[] {
    const options: string[] = [];
    if (this.#options.remapIds ?? true) {
      const uid = labels[UID_MAPPING_LABEL];
      const gid = labels[GID_MAPPING_LABEL];
      if (uid !== undefined) options.push(`uidmap=${uid}`);
      if (gid !== undefined) options.push(`gidmap=${gid}`);
    }
    const [parent] = parentIds;
    const bind = (source: string, mode: string): readonly Mount[] => [
      { type: "bind", source, target: "", options: [...options, mode, "rbind"] },
    ];
    // One layer alone needs no overlay, and overlayfs would refuse it.
    if (parent === undefined) return bind(this.#upper(id), kind === "view" ? "ro" : "rw");
    if (kind !== "active" && parentIds.length === 1) return bind(this.#upper(parent), "ro");
    if (kind === "active") options.push(`workdir=${this.#snapshots}/${id}/work`, `upperdir=${this.#upper(id)}`);
    options.push(`lowerdir=${parentIds.map((ancestor) => this.#upper(ancestor)).join(":")}`, ...this.#mountOptions);
    return [{ type: "overlay", source: "overlay", target: "", options }];
  }

  #upper(id: number): string {
    return `${this.#snapshots}/${id}/fs`;
  }
}
