// What a daemon still holds once its namespaces were emptied: the long lanes look after every round.
import { mkdir, readdir, rm, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Daemon, mountsBelow, processesNaming } from "../harness/daemon.ts";
import { exec, patience } from "../harness/process.ts";

/** Where clients put the FIFOs of containers' streams, a folder for each container. */
const FIFOS = "/run/containerd/fifo";

/** Entries of a folder, none when it is not there. */
async function names(path: string): Promise<string[]> {
  return readdir(path).catch(() => []);
}

/** Paths of the entries of the folders below `path` (one level of namespaces). */
async function perNamespace(path: string): Promise<string[]> {
  const found: string[] = [];
  for (const namespace of await names(path))
    for (const name of await names(join(path, namespace))) found.push(join(path, namespace, name));
  return found;
}

async function cgroupsOf(namespace: string): Promise<string[]> {
  const top = "/sys/fs/cgroup";
  const found: string[] = [];
  for (const hierarchy of ["", ...(await names(top))]) {
    const folder = join(top, hierarchy, namespace);
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) if (entry.isDirectory()) found.push(`cgroup ${join(folder, entry.name)}`);
  }
  return found;
}

/** What tasks leave: bundles, working folders, the runtime's state, cgroups, mounts, and processes other than the daemon and idle shims. */
export async function taskLeftovers(daemon: Daemon, namespace: string): Promise<string[]> {
  const id = "io.containerd.runtime.v2.task";
  const found = [
    ...(await perNamespace(join(daemon.state, id))),
    ...(await perNamespace(join(daemon.root, id))),
    ...(await names(join("/run/containerd/runc", namespace))).map((name) => `runc state of ${name}`),
    ...(await cgroupsOf(namespace)),
    ...(await mountsBelow(daemon.dir))
      .filter((point) => point !== daemon.root && !point.startsWith(join(daemon.dir, "clients/")))
      .map((point) => `mount ${point}`),
  ];
  for (const { pid, command } of await processesNaming(daemon.dir))
    if (pid !== daemon.pid && !command.includes("containerd-shim") && !command.includes(" keeper -address "))
      found.push(`process ${pid} ${command}`);
  return found;
}

/** What images and snapshots leave: blobs, ingests, snapshot folders. */
export async function storeLeftovers(daemon: Daemon): Promise<string[]> {
  const content = join(daemon.root, "io.containerd.content.v1.content");
  const found: string[] = [];
  for (const folder of [
    join(content, "blobs/sha256"),
    join(content, "ingest"),
    join(daemon.root, "io.containerd.snapshotter.v1.overlayfs/snapshots"),
  ])
    for (const name of await names(folder)) found.push(join(folder, name));
  return found;
}

/** Shims of a daemon that run. */
export async function shims(daemon: Daemon): Promise<{ pid: number; command: string }[]> {
  return (await processesNaming(daemon.dir)).filter(({ command }) => command.includes("containerd-shim"));
}

/** What clients that may be killed are started with: a folder for what they cannot remove then. */
export async function clientEnvironment(daemon: Daemon): Promise<Record<string, string>> {
  const folder = join(daemon.dir, "clients");
  await mkdir(folder, { recursive: true });
  return { TMPDIR: folder };
}

/** Removes what clients themselves make and a killed one cannot remove: FIFOs, and mounts to look into an image. */
export async function removeOfClients(daemon: Daemon): Promise<void> {
  // Older ones are not of this daemon's clients: what another file of the lane left is to be seen at its end.
  const { mtimeMs: since } = await stat(daemon.configPath);
  for (const name of await names(FIFOS)) {
    const path = join(FIFOS, name);
    if ((await stat(path)).mtimeMs >= since) await rm(path, { recursive: true, force: true });
  }
  const folder = join(daemon.dir, "clients");
  for (const point of await mountsBelow(folder)) await exec(["umount", point]);
  for (const name of await names(folder)) if (name.startsWith("containerd-mount")) await rmdir(join(folder, name));
}

/** Asks again until nothing is found or the time is over. @returns what was found last */
export async function settle(find: () => Promise<string[]>, limitMs = 10_000): Promise<string[]> {
  const end = performance.now() + patience(limitMs);
  for (;;) {
    const found = await find();
    if (found.length === 0 || performance.now() > end) return found;
    await Bun.sleep(50);
  }
}

/** Random numbers from 0 to 1 that a seed decides (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Milliseconds a file of a long lane has, as the runner says, for all its rounds; a tenth is left for the last one's end. */
export const LANE_MS = Number(process.env["MINUTES"] || "0.1") * 54_000;

/** What the lane's random choices come from. */
export const SEED = Number(process.env["SEED"] || "1");
