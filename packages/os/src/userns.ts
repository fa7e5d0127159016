import { mkdirSync, mkdtempSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { classified } from "@stevedore/base/errors";
import { check, fromNodeError } from "./errno.ts";
import { O, OwnedFd } from "./fd.ts";
import { cString, i32, libc, pointer } from "./ffi.ts";
import { FS_MAGIC, fileSystemInfo } from "./files.ts";
import { MNT, type MountStep, mountAll, parseMountOptions, unmount } from "./mount.ts";
import { findExecutable, spawnChild } from "./spawn.ts";

const lib = libc({ open: { args: [pointer, i32, i32], returns: i32 } });

/** How long the helper may take to be in its namespace: a start of a small program. */
const START_TIMEOUT_MS = 5_000;
const POLL_MS = 1;

/** `container:host:size`, several with commas, as containerd's mount options have them. */
function mapLines(ranges: string): string {
  const lines = ranges.split(",").map((range) => {
    const match = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(range);
    if (match === null) {
      throw classified("invalid-argument", `parse id mapping ${JSON.stringify(range)}: want container:host:size`);
    }
    return `${match[1]} ${match[2]} ${match[3]}\n`;
  });
  return lines.join("");
}

/** An id mapping: both as `container:host:size[,...]`. */
export interface IdMapping {
  readonly uid: string;
  readonly gid: string;
}

/**
 * A user namespace with this mapping, as a descriptor the caller owns; it lives as long as that. A threaded process cannot
 * make one, so a helper of util-linux does, and ends again. Takes some 3 ms, off the loop.
 *
 * @throws invalid-argument when the ranges are malformed or overlap.
 */
export async function createUserNamespace(mapping: IdMapping): Promise<OwnedFd> {
  const uid = mapLines(mapping.uid);
  const gid = mapLines(mapping.gid);
  await using child = spawnChild([findExecutable("unshare"), "--user", "cat"], {
    env: { PATH: "/usr/bin:/bin" },
    stdin: "pipe",
  });
  const own = readlinkSync("/proc/self/ns/user");
  const path = `/proc/${child.pid}/ns/user`;
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (readlinkSync(path) === own) {
    if (child.status !== undefined || performance.now() > deadline) {
      throw classified("internal", "create user namespace: the helper did not get into one");
    }
    await sleep(POLL_MS);
  }
  try {
    writeFileSync(`/proc/${child.pid}/uid_map`, uid);
    writeFileSync(`/proc/${child.pid}/gid_map`, gid);
  } catch (error) {
    throw fromNodeError(error);
  }
  return new OwnedFd(check(lib().open(cString(path), O.RDONLY | O.CLOEXEC, 0), "open", path));
}

/** The user namespaces a list of mounts needs, by mapping. Disposing closes them; mounts made with them stay. */
export class UserNamespaces implements Disposable {
  readonly #made = new Map<string, OwnedFd>();

  /** Makes one for each different `uidmap=`/`gidmap=` pair of the steps. */
  static async for(steps: readonly MountStep[]): Promise<UserNamespaces> {
    const all = new UserNamespaces();
    try {
      for (const step of steps) {
        const { idmap } = parseMountOptions(step.options);
        if (idmap === undefined || all.#made.has(`${idmap.uid}/${idmap.gid}`)) continue;
        all.#made.set(`${idmap.uid}/${idmap.gid}`, await createUserNamespace(idmap));
      }
      return all;
    } catch (error) {
      all[Symbol.dispose]();
      throw error;
    }
  }

  /** Descriptors by `uid/gid` mapping, borrowed: what `mountAll` takes. */
  get descriptors(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#made].map(([mapping, fd]) => [mapping, fd.fd]));
  }

  [Symbol.dispose](): void {
    for (const fd of this.#made.values()) fd[Symbol.dispose]();
    this.#made.clear();
  }
}

/** File systems whose mounts take an id mapping, with the kernel's first version that has it (FS_ALLOW_IDMAP in fs/). */
const MAPPABLE: Readonly<Record<number, readonly [major: number, minor: number]>> = {
  [FS_MAGIC.EXT4]: [5, 12],
  [FS_MAGIC.XFS]: [5, 12],
  [FS_MAGIC.BTRFS]: [5, 15],
  [FS_MAGIC.TMPFS]: [6, 3],
};

/** The first kernel whose overlayfs takes lower layers that are mapped. */
const OVERLAY_TAKES_MAPPED = [5, 19] as const;

/**
 * Whether an overlay can have layers of `folder`'s file system that are seen through an id mapping. Known by kernel and file system for the usual
 * ones, which costs two system calls; else tried out in `folder`, which takes some 10 ms.
 */
export async function canMapOverlayLayers(folder: string): Promise<boolean> {
  const since = MAPPABLE[fileSystemInfo(folder).type];
  if (since !== undefined && kernelIsAtLeast(since) && kernelIsAtLeast(OVERLAY_TAKES_MAPPED)) return true;
  return tryMappedOverlay(folder);
}

function kernelIsAtLeast([major, minor]: readonly [number, number]): boolean {
  const [ownMajor = 0, ownMinor = 0] = release()
    .split(".")
    .map((part) => Number.parseInt(part, 10));
  return ownMajor > major || (ownMajor === major && ownMinor >= minor);
}

/** Mounts such an overlay in a folder of its own below `folder`, and takes it off again. */
export async function tryMappedOverlay(folder: string): Promise<boolean> {
  let dir: string | undefined;
  try {
    dir = mkdtempSync(`${folder}/.idmapped-`);
    for (const name of ["lower", "upper", "work", "merged"]) mkdirSync(`${dir}/${name}`);
    const mapping = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];
    const layers = [`workdir=${dir}/work`, `upperdir=${dir}/upper`, `lowerdir=${dir}/lower`];
    const step = { type: "overlay", source: "overlay", options: [...mapping, ...layers] };
    using namespaces = await UserNamespaces.for([step]);
    mountAll([step], `${dir}/merged`, { userNamespaces: namespaces.descriptors });
    unmount(`${dir}/merged`, MNT.DETACH);
    return true;
  } catch {
    return false;
  } finally {
    if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
  }
}
