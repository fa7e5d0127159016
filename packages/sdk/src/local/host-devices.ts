/** Devices of the host, for containers that get some or all of them. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { classified, isErrorClass } from "@stevedore/base";
import type { LinuxDevice } from "@stevedore/oci/runtime-spec";
import { Root } from "@stevedore/os/path";

const FILE_TYPE = 0o170000;
const CHARACTER = 0o020000;
const BLOCK = 0o060000;
const PERMISSIONS = 0o7777;

/** Folders of /dev that a container has its own of, and nodes that belong to the host's login. */
const SKIPPED = new Set(["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"]);

/** Folders deep a device tree is followed. */
const MAX_DEPTH = 16;

/** The device node at a path. @throws invalid-argument for what is no device */
export function hostDevice(path: string): LinuxDevice {
  const device = deviceAt(path);
  if (device === undefined) throw classified("invalid-argument", `${path} is not a device node: invalid argument`);
  return device;
}

function deviceAt(path: string): LinuxDevice | undefined {
  using root = Root.open("/");
  const { mode, rdevMajor: major, rdevMinor: minor, uid, gid } = root.stat(path);
  const type = mode & FILE_TYPE;
  if (type !== CHARACTER && type !== BLOCK) return undefined;
  return { path, type: type === CHARACTER ? "c" : "b", major, minor, fileMode: mode & PERMISSIONS, uid, gid };
}

/** Every device at or below a path, in name order. */
export async function hostDevices(path: string): Promise<LinuxDevice[]> {
  const devices: LinuxDevice[] = [];
  await collect(path, { devices, depth: 0 });
  return devices;
}

async function collect(path: string, to: { readonly devices: LinuxDevice[]; readonly depth: number }): Promise<void> {
  if (to.depth > MAX_DEPTH) return;
  let entries;
  try {
    entries = await readdir(path, { withFileTypes: true });
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOTDIR") {
      to.devices.push(hostDevice(path));
      return;
    }
    throw error;
  }
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (SKIPPED.has(entry.name)) continue;
    const child = join(path, entry.name);
    if (entry.isDirectory()) {
      await collect(child, { devices: to.devices, depth: to.depth + 1 });
    } else if (entry.isCharacterDevice() || entry.isBlockDevice()) {
      try {
        const device = deviceAt(child);
        if (device !== undefined) to.devices.push(device);
      } catch (error) {
        // A node that vanished meanwhile is no device of the host any more.
        if (!isErrorClass(error, "not-found")) throw error;
      }
    }
  }
}
