import { closeSync, mkdirSync, openSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { classified } from "@stevedore/base/errors";
import { isErrno } from "./errno.ts";
import { FS_MAGIC, fileSystemInfo } from "./files.ts";
import { MNT, MS, mountRaw, unmountAll } from "./mount.ts";
import { runCommand } from "./spawn.ts";
import { fileIdentity, statPath } from "./stat.ts";

/**
 * Network namespaces with a name of their own in the file system. A namespace pinned to a file lives without processes
 * until the file is unmounted. A threaded process does not enter or create one itself: util-linux's unshare does.
 */

/** Creates the pin's file. @throws already-exists */
function createPin(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  try {
    closeSync(openSync(path, "wx", 0o444));
  } catch (error) {
    if (isErrno(error, "EEXIST")) throw classified("already-exists", `create network namespace ${path}: file exists`);
    throw error;
  }
}

/**
 * Makes a new network namespace and pins it to `path`, which must not exist; missing folders above it are made. Its
 * loopback is down, as a CNI plugin expects. Takes some 3 ms, off the loop.
 */
export async function createNetns(path: string, options: { signal?: AbortSignal } = {}): Promise<void> {
  createPin(path);
  try {
    const result = await runCommand(["unshare", `--net=${path}`, "true"], {
      env: {},
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    if (result.code !== 0) {
      throw classified(
        "internal",
        `create network namespace ${path}: unshare ended with ${result.code}: ${result.text()}`,
      );
    }
  } catch (error) {
    removeNetns(path);
    throw error;
  }
}

/** Pins the network namespace of process `pid` to `path`, which must not exist. */
export function pinNetns(pid: number, path: string): void {
  createPin(path);
  try {
    mountRaw(`/proc/${pid}/ns/net`, path, { flags: MS.BIND });
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  }
}

/**
 * Takes a pin away: the namespace ends when nothing else holds it. A path that is missing, or a plain file left by a
 * crash, is fine. The unmount is a detached one and quick.
 */
export function removeNetns(path: string): void {
  unmountAll(path, { flags: MNT.DETACH | MNT.NOFOLLOW });
  rmSync(path, { force: true });
}

/** Whether a namespace is pinned to `path` (or is there, for paths below /proc). */
export function isNetns(path: string): boolean {
  try {
    return fileSystemInfo(path).type === FS_MAGIC.NSFS;
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR")) return false;
    throw error;
  }
}

/** Which namespace `path` stands for: equal for two names of one. @throws not-found */
export function namespaceIdentity(path: string): string {
  return fileIdentity(statPath(path, { follow: true }));
}
