// What a machine holds of a container runtime, read before and after a run; the difference is what the run left behind.
// The run has a mount and a process namespace of its own (tools/test.ts), so every process, mount and file seen here is the run's.
import { readdir, readFile, readlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** One line per thing found. */
export type Snapshot = ReadonlySet<string>;

/** Reads processes (other than this one, its children and the namespace's init), mounts, network namespaces, cgroups, sockets and files. */
export async function snapshot(): Promise<Snapshot> {
  const found = new Set<string>();
  for (const one of await processes()) found.add(one);
  for (const one of await mounts()) found.add(one);
  for (const one of await cgroups("/sys/fs/cgroup", 0)) found.add(one);
  for (const folder of ["/run/containerd", tmpdir()]) for (const one of await files(folder, folder)) found.add(one);
  return found;
}

/** What `after` has and `before` had not, sorted. */
export function leaked(before: Snapshot, after: Snapshot): string[] {
  return [...after].filter((line) => !before.has(line)).sort();
}

async function processes(): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry) || entry === "1" || entry === String(process.pid)) continue;
    const stat = await readFile(`/proc/${entry}/stat`, "utf8").catch(() => "");
    const parent = /^\d+ \(.*\) \S (\d+)/s.exec(stat)?.[1];
    if (parent === undefined || parent === String(process.pid)) continue;
    const command = (await readFile(`/proc/${entry}/cmdline`, "utf8").catch(() => "")).replaceAll("\0", " ").trim();
    const net = await readlink(`/proc/${entry}/ns/net`).catch(() => "");
    const ours = await readlink("/proc/self/ns/net").catch(() => "");
    found.push(`process ${entry} ${command === "" ? stat.slice(0, 60) : command}${net === ours ? "" : ` (in ${net})`}`);
  }
  return found;
}

async function mounts(): Promise<string[]> {
  const table = await readFile("/proc/self/mountinfo", "utf8");
  return table
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [left = "", right = ""] = line.split(" - ");
      return `mount ${left.split(" ")[4] ?? ""} (${right.split(" ")[0] ?? ""})`;
    });
}

// Namespaces of tests begin so; only their cgroups are looked at, since the file system is the machine's.
const TEST_CGROUP = /^(stv|stevedore)/;
const CGROUP_DEPTH = 4;

async function cgroups(folder: string, depth: number): Promise<string[]> {
  if (depth > CGROUP_DEPTH) return [];
  const found: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    if (!entry.isDirectory()) continue;
    const path = join(folder, entry.name);
    // The folder of a namespace stays after its containers, as with the peer; what is in it must not.
    if (TEST_CGROUP.test(entry.name))
      found.push(
        ...(await readdir(path, { withFileTypes: true }).catch(() => []))
          .filter((one) => one.isDirectory())
          .map((one) => `cgroup ${join(path, one.name)}`),
      );
    else found.push(...(await cgroups(path, depth + 1)));
  }
  return found;
}

// Debian's shims listen here whatever the daemon's state folder is, and one that was killed cannot remove its socket; its
// daemon does so when a container of that name comes again. A socket that somebody listens on is a leak.
const PEER_SOCKETS = "/run/containerd/s";

async function files(folder: string, top: string): Promise<string[]> {
  const found: string[] = [];
  const listening = folder === PEER_SOCKETS ? await readFile("/proc/net/unix", "utf8") : "";
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    const path = join(folder, entry.name);
    if (folder === PEER_SOCKETS && entry.isSocket() && !listening.includes(` ${path}\n`)) continue;
    if (!entry.isDirectory()) found.push(`file ${path}`);
    // Folders of a daemon's own (fifo, s, runc/<namespace>) may stay empty under /run/containerd; below /tmp nothing stays.
    else if (folder === top && top !== "/run/containerd") found.push(`folder ${path}`);
    else found.push(...(await files(path, top)));
  }
  return found;
}
