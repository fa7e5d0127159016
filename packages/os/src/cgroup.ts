import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, watch, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { classified } from "@stevedore/base/errors";
import {
  type MetricsSources,
  type MetricsV1,
  type MetricsV2,
  metricsV1,
  metricsV2,
  parseKeyed,
  parseProcessCgroups,
} from "./cgroup-parse.ts";
import { fromNodeError, isErrno } from "./errno.ts";
import { FS_MAGIC, fileSystemInfo } from "./files.ts";
import { readMountInfo } from "./mountinfo.ts";

export { MEMORY_V1, MEMORY_V2 } from "./cgroup-parse.ts";
export type { MetricsV1, MetricsV2 };

/**
 * Cgroups of both versions: where a process's are, what they count, freezing, moving and removing them. Files under
 * /sys/fs/cgroup answer from memory: reads are synchronous and take some 10 µs each.
 */

/** Everything unified, v1 controllers beside an empty unified tree, or v1 alone. */
export type CgroupMode = "unified" | "hybrid" | "legacy";

const MOUNT = "/sys/fs/cgroup";

let mode: CgroupMode | undefined;

/** How this machine's cgroups are set up; found out once. */
export function cgroupMode(): CgroupMode {
  if (mode === undefined) {
    if (fileSystemInfo(MOUNT).type === FS_MAGIC.CGROUP2) mode = "unified";
    else mode = isUnifiedBeside() ? "hybrid" : "legacy";
  }
  return mode;
}

function isUnifiedBeside(): boolean {
  try {
    return fileSystemInfo(`${MOUNT}/unified`).type === FS_MAGIC.CGROUP2;
  } catch (error) {
    if (isErrno(error, "ENOENT")) return false;
    throw error;
  }
}

/**
 * Where one group lives: a folder (v2), or one per controller (v1). Absolute paths. `unified`: the folder in the unified tree beside v1
 * controllers, where runtimes make the group too; nothing is read there, but it has to be removed.
 */
export type Cgroup =
  | { readonly version: 2; readonly folder: string }
  | { readonly version: 1; readonly folders: ReadonlyMap<string, string>; readonly unified?: string };

type ControllerMounts = ReadonlyMap<string, { readonly point: string; readonly root: string }>;

let knownMounts: ControllerMounts | undefined;

/**
 * Controller (or `name=x`) → its mount: where, and which group is mounted there. Looked up once: these are there before any
 * of us starts, and the table of mounts has a line for each container.
 */
function controllerMounts(): ControllerMounts {
  if (knownMounts === undefined || knownMounts.size === 0) knownMounts = findControllerMounts();
  return knownMounts;
}

function findControllerMounts(): ControllerMounts {
  const mounts = new Map<string, { point: string; root: string }>();
  for (const { type, superOptions, mountPoint: point, root } of readMountInfo()) {
    if (type !== "cgroup" || !(point === MOUNT || point.startsWith(`${MOUNT}/`))) continue;
    for (const option of superOptions.split(",")) {
      if (option === "rw" || option === "ro" || option === "none" || mounts.has(option)) continue;
      mounts.set(option, { point, root });
    }
  }
  return mounts;
}

/** The folder of group `path` under a mount of group `root`: what the mount already stands for is cut off. */
function below({ point, root }: { point: string; root: string }, path: string): string {
  const rest = root !== "/" && (path === root || path.startsWith(`${root}/`)) ? path.slice(root.length) : path;
  return rest === "" || rest === "/" ? point : `${point}${rest.startsWith("/") ? "" : "/"}${rest}`;
}

/** The groups of process `pid`. @throws not-found when there is no such process */
export function processCgroup(pid: number | "self"): Cgroup {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch (error) {
    throw fromNodeError(error);
  }
  const { unified, controllers } = parseProcessCgroups(text);
  if (cgroupMode() === "unified") return { version: 2, folder: below({ point: MOUNT, root: "/" }, unified ?? "/") };
  const folders = new Map<string, string>();
  const mounts = controllerMounts();
  for (const [controller, path] of controllers) {
    const mount = mounts.get(controller);
    if (mount !== undefined) folders.set(controller, below(mount, path));
  }
  return { version: 1, folders };
}

/** The group `path` (`/a/b`, as in a runtime spec's cgroupsPath) in every hierarchy this machine has. */
export function cgroupAt(path: string): Cgroup {
  const clean = `/${path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")}`;
  if (clean.split("/").includes("..")) throw classified("invalid-argument", `open cgroup ${path}: ".." in it`);
  if (cgroupMode() === "unified") return { version: 2, folder: below({ point: MOUNT, root: "/" }, clean) };
  const folders = new Map<string, string>();
  for (const [controller, mount] of controllerMounts()) folders.set(controller, below(mount, clean));
  if (cgroupMode() === "legacy") return { version: 1, folders };
  return { version: 1, folders, unified: below({ point: `${MOUNT}/unified`, root: "/" }, clean) };
}

/** Whether this is the group of everything: the one a process that has ended is in. */
export function isRootCgroup(cgroup: Cgroup): boolean {
  if (cgroup.version === 2) return cgroup.folder === MOUNT;
  const folder = anyFolder(cgroup);
  return [...controllerMounts().values()].some(({ point }) => point === folder);
}

function readIfAny(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    // EOPNOTSUPP: a file of a feature switched off (memsw without swap accounting).
    if (isErrno(error, "ENOENT", "ENODEV", "EOPNOTSUPP", "ENXIO")) return undefined;
    throw fromNodeError(error);
  }
}

/**
 * Files that this kernel does not have in its v1 groups, by controller's mount and name: a third of what the metrics could be
 * read from. (In v2 it is the group that has a controller or not.)
 */
const absent = new Set<string>();

function readIfKernelHas(folder: string, file: string): string | undefined {
  const key = `${folder.split("/", 5)[4] ?? ""}/${file}`;
  if (absent.has(key)) return undefined;
  const text = readIfAny(`${folder}/${file}`);
  // The group itself may be what is missing; the root of a hierarchy has fewer files than others.
  if (text === undefined && existsSync(`${folder}/notify_on_release`) && !existsSync(`${folder}/release_agent`)) {
    absent.add(key);
  }
  return text;
}

function folderOf(cgroup: Cgroup, controller: string): string | undefined {
  if (cgroup.version === 2) return cgroup.folder;
  return cgroup.folders.get(controller);
}

function allFolders(cgroup: Cgroup): string[] {
  return cgroup.version === 2 ? [cgroup.folder] : [...new Set(cgroup.folders.values())];
}

/** Some controller's folder, for files every group has. */
function anyFolder(cgroup: Cgroup): string {
  const folder = folderOf(cgroup, "freezer") ?? folderOf(cgroup, "pids") ?? allFolders(cgroup)[0];
  if (folder === undefined) throw classified("not-found", "open cgroup: this machine has no cgroup hierarchy");
  return folder;
}

/** The counters of a group, in the shape of the metrics message of its version. */
export type CgroupMetrics =
  | { readonly version: 1; readonly metrics: MetricsV1 }
  | { readonly version: 2; readonly metrics: MetricsV2 };

/** Reads them. Files that are missing count as 0; a group that is gone altogether is not-found. */
export function readCgroupMetrics(cgroup: Cgroup): CgroupMetrics {
  if (!cgroupExists(cgroup)) throw classified("not-found", "read cgroup metrics: cgroup deleted");
  const sources: MetricsSources = {
    read: (controller, file) => {
      const folder = folderOf(cgroup, controller);
      if (folder === undefined) return undefined;
      return cgroup.version === 1 ? readIfKernelHas(folder, file) : readIfAny(`${folder}/${file}`);
    },
    pageSizes: hugePageSizes(),
    deviceName: blockDeviceNames(),
  };
  if (cgroup.version === 2) return { version: 2, metrics: metricsV2(sources) };
  return { version: 1, metrics: metricsV1(sources) };
}

export function cgroupExists(cgroup: Cgroup): boolean {
  return allFolders(cgroup).some((folder) => readIfAny(`${folder}/cgroup.procs`) !== undefined);
}

let pageSizes: readonly string[] | undefined;

/** Huge page sizes of this machine as cgroup files spell them: `2MB`, `1GB`. */
export function hugePageSizes(): readonly string[] {
  if (pageSizes === undefined) {
    let names: string[] = [];
    try {
      names = readdirSync("/sys/kernel/mm/hugepages");
    } catch (error) {
      if (!isErrno(error, "ENOENT")) throw fromNodeError(error);
    }
    pageSizes = names
      .map((name) => Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0))
      .filter((size) => size > 0)
      .map((size) => (size >= 1 << 20 ? `${size >> 20}GB` : size >= 1 << 10 ? `${size >> 10}MB` : `${size}KB`));
  }
  return pageSizes;
}

/** `/dev/<name>` of block devices by number, from /proc/diskstats; "" for unknown ones. Read when first asked. */
function blockDeviceNames(): (major: number, minor: number) => string {
  let names: Map<string, string> | undefined;
  return (major, minor) => {
    if (names === undefined) {
      names = new Map();
      for (const line of (readIfAny("/proc/diskstats") ?? "").split("\n")) {
        const [a, b, name] = line.trim().split(/\s+/);
        if (name !== undefined) names.set(`${a}:${b}`, `/dev/${name}`);
      }
    }
    return names.get(`${major}:${minor}`) ?? "";
  };
}

/** The processes in a group, not in groups below it; with `recursive` also those. */
export function cgroupProcesses(cgroup: Cgroup, options: { recursive?: boolean } = {}): number[] {
  const pids: number[] = [];
  const visit = (folder: string): void => {
    const text = readIfAny(`${folder}/cgroup.procs`);
    if (text === undefined) return;
    for (const line of text.split("\n")) if (line !== "") pids.push(Number(line));
    if (options.recursive === true) for (const name of subfolders(folder)) visit(`${folder}/${name}`);
  };
  visit(anyFolder(cgroup));
  return pids;
}

function subfolders(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return [];
    throw fromNodeError(error);
  }
}

/** Creates the group in every hierarchy; existing ones stay. */
export function createCgroup(cgroup: Cgroup): void {
  for (const folder of allFolders(cgroup)) {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
    const parent = folder.slice(0, folder.lastIndexOf("/"));
    if (cgroup.version === 1 && folder === cgroup.folders.get("cpuset")) inheritCpuset(parent, folder);
  }
}

/** A v1 cpuset takes no process before its cpus and mems are set. */
function inheritCpuset(parent: string, folder: string): void {
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    const own = readIfAny(`${folder}/${file}`);
    const above = readIfAny(`${parent}/${file}`);
    if (own?.trim() === "" && above !== undefined) writeFileSync(`${folder}/${file}`, above);
  }
}

/** Moves process `pid` into the group, in every hierarchy it has. @throws not-found without that process or group */
export function addProcess(cgroup: Cgroup, pid: number): void {
  for (const folder of allFolders(cgroup)) {
    try {
      writeFileSync(`${folder}/cgroup.procs`, String(pid));
    } catch (error) {
      throw fromNodeError(error);
    }
  }
}

/** Pauses between tries to remove a group whose processes are still on their way out: 10, 20, 40 … ms, about 5 s in all. */
const DELETE_TRIES = 10;
const FIRST_DELETE_PAUSE_MS = 10;

/**
 * Removes the group and the empty groups below it, in every hierarchy. Waits up to 5 s for processes that are ending.
 *
 * @throws failed-precondition (EBUSY) when processes stay.
 */
export async function deleteCgroup(cgroup: Cgroup): Promise<void> {
  const unified = cgroup.version === 1 && cgroup.unified !== undefined ? [cgroup.unified] : [];
  for (const folder of [...allFolders(cgroup), ...unified]) {
    for (let tries = 0, pause = FIRST_DELETE_PAUSE_MS; ; tries++, pause *= 2) {
      try {
        removeFolders(folder);
        break;
      } catch (error) {
        if (!isErrno(error, "EBUSY") || tries >= DELETE_TRIES) throw fromNodeError(error);
        await sleep(pause);
      }
    }
  }
}

/**
 * Removes a group that nobody is in any more, after waiting at most `limitMs` for what is ending there.
 *
 * @returns false when processes stay: the group is left as it is.
 */
export async function deleteEmptyCgroup(cgroup: Cgroup, limitMs: number): Promise<boolean> {
  const end = performance.now() + limitMs;
  while (cgroupExists(cgroup) && cgroupProcesses(cgroup, { recursive: true }).length > 0) {
    if (performance.now() > end) return false;
    await sleep(FIRST_DELETE_PAUSE_MS);
  }
  await deleteCgroup(cgroup);
  return true;
}

function removeFolders(folder: string): void {
  for (const name of subfolders(folder)) removeFolders(`${folder}/${name}`);
  try {
    rmdirSync(folder);
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error;
  }
}

/** Sends SIGKILL to all in the group and below: at once by cgroup.kill (v2, Linux 5.14), else one by one. */
export function killCgroup(cgroup: Cgroup): void {
  if (cgroup.version === 2) {
    try {
      writeFileSync(`${cgroup.folder}/cgroup.kill`, "1");
      return;
    } catch (error) {
      if (!isErrno(error, "ENOENT", "EOPNOTSUPP")) throw fromNodeError(error);
    }
  }
  for (const pid of cgroupProcesses(cgroup, { recursive: true })) {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (!isErrno(error, "ESRCH")) throw fromNodeError(error);
    }
  }
}

export type FreezerState = "thawed" | "freezing" | "frozen";

/** Whether the group's processes are stopped. @throws not-found when the group is gone */
export function freezerState(cgroup: Cgroup): FreezerState {
  if (cgroup.version === 2) {
    const events = readIfAny(`${cgroup.folder}/cgroup.events`);
    if (events === undefined) throw classified("not-found", `read freezer state of ${cgroup.folder}: no such cgroup`);
    if (parseKeyed(events).get("frozen") === 1n) return "frozen";
    return readIfAny(`${cgroup.folder}/cgroup.freeze`)?.trim() === "1" ? "freezing" : "thawed";
  }
  const folder = cgroup.folders.get("freezer");
  const text = folder === undefined ? undefined : readIfAny(`${folder}/freezer.state`);
  if (text === undefined) throw classified("not-found", "read freezer state: no such cgroup");
  const state = text.trim().toLowerCase();
  return state === "frozen" || state === "freezing" ? state : "thawed";
}

/** Asks the kernel to stop or continue the group's processes; {@link freezerState} tells when it has. */
export function setFreezer(cgroup: Cgroup, frozen: boolean): void {
  const folder = folderOf(cgroup, "freezer");
  if (folder === undefined) throw classified("not-implemented", "freeze cgroup: no freezer on this machine");
  const [file, value] =
    cgroup.version === 2 ? ["cgroup.freeze", frozen ? "1" : "0"] : ["freezer.state", frozen ? "FROZEN" : "THAWED"];
  try {
    writeFileSync(`${folder}/${file}`, value);
  } catch (error) {
    throw fromNodeError(error);
  }
}

/** Processes the out-of-memory killer took in this group so far. */
export function oomKills(cgroup: Cgroup): bigint {
  if (cgroup.version === 2) return parseKeyed(readIfAny(`${cgroup.folder}/memory.events`)).get("oom_kill") ?? 0n;
  const folder = cgroup.folders.get("memory");
  return parseKeyed(folder === undefined ? undefined : readIfAny(`${folder}/memory.oom_control`)).get("oom_kill") ?? 0n;
}

/** How often a v1 group is looked at: its eventfd cannot be waited for on Bun's loop, and one read takes 10 µs. */
const OOM_POLL_MS = 1_000;

/**
 * Tells of out-of-memory kills in a group: at once on v2 (the kernel notifies memory.events), within a second on v1.
 * Call {@link OomWatch.check} before reporting an exit, so that the kill is told first.
 */
export class OomWatch implements Disposable {
  readonly #cgroup: Cgroup;
  readonly #onKill: (kills: bigint) => void;
  readonly #stop: () => void;
  #seen: bigint;

  /** @param onKill gets the number of kills since it was last told. */
  constructor(cgroup: Cgroup, onKill: (kills: bigint) => void) {
    this.#cgroup = cgroup;
    this.#onKill = onKill;
    this.#seen = oomKills(cgroup);
    if (cgroup.version === 2) {
      const watcher = watch(`${cgroup.folder}/memory.events`, { persistent: false }, () => this.check());
      watcher.on("error", () => undefined); // the group has gone; so have its kills
      this.#stop = () => watcher.close();
    } else {
      const timer = setInterval(() => this.check(), OOM_POLL_MS);
      timer.unref();
      this.#stop = () => clearInterval(timer);
    }
  }

  /** Looks now. */
  check(): void {
    const now = oomKills(this.#cgroup);
    if (now <= this.#seen) return;
    const fresh = now - this.#seen;
    this.#seen = now;
    this.#onKill(fresh);
  }

  [Symbol.dispose](): void {
    this.#stop();
  }
}
