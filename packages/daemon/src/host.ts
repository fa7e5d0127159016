/** What the daemon does to itself at start: folders, its lock, its cgroup, its OOM score. */
import { existsSync } from "node:fs";
import { chmod, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { classified, type Logger, messageOf, withContext } from "@stevedore/base";
import { FileLock } from "@stevedore/os/files";
import { setOomScoreAdj } from "@stevedore/os/process";
import type { Settings } from "./settings.ts";

/** containerd's modes: the state folder is walked by clients in user namespaces, the root is private. */
const ROOT_MODE = 0o700;
const STATE_MODE = 0o711;

/** Makes root and state. @throws invalid-argument when one is not absolute, is missing or both are the same */
export async function makeFolders({ root, state, temp }: Settings): Promise<void> {
  if (root === "" || state === "")
    throw classified("invalid-argument", "root and state must be specified: invalid argument");
  if (root === state) throw classified("invalid-argument", "root and state must be different paths: invalid argument");
  for (const [path, mode] of [
    [root, ROOT_MODE],
    [state, STATE_MODE],
  ] as const) {
    await mkdir(path, { recursive: true, mode });
    await chmod(path, mode);
  }
  if (temp !== "") {
    await mkdir(temp, { recursive: true, mode: ROOT_MODE });
    process.env["TMPDIR"] = temp;
  }
}

/** How often the root's lock is asked for while another daemon is ending. */
const LOCK_RETRY_MS = 20;

/**
 * How long it is asked for at least: a process that a killed daemon was starting holds it until it is executed, and a service
 * manager starts the next daemon at once.
 */
const LOCK_LEAST_MS = 1_000;

/**
 * Two daemons on one root would destroy each other's records.
 * @param waitMs how long another one may take to end, `[timeouts]` bolt.open
 * @throws failed-precondition when another one runs
 */
export async function lockRoot(root: string, waitMs: number): Promise<FileLock> {
  const end = performance.now() + Math.max(waitMs, LOCK_LEAST_MS);
  for (;;) {
    const lock = FileLock.take(join(root, "stevedore.lock"));
    if (lock !== undefined) return lock;
    if (performance.now() >= end) {
      throw classified("failed-precondition", `start daemon: another one runs on root ${root}: failed precondition`);
    }
    await Bun.sleep(LOCK_RETRY_MS);
  }
}

/** The mode that containerd gives the folders that `ctr install` fills. */
const OPT_MODE = 0o711;

/** Makes the folder that `ctr install` fills and searches it first for programs and libraries from now on. */
export async function useOptFolder(path: string): Promise<void> {
  for (const [folder, variable] of [
    ["bin", "PATH"],
    ["lib", "LD_LIBRARY_PATH"],
  ] as const) {
    const found = join(path, folder);
    await mkdir(found, { recursive: true, mode: OPT_MODE });
    const before = process.env[variable] ?? "";
    process.env[variable] = before === "" ? found : `${found}:${before}`;
  }
}

const CGROUP_ROOT = "/sys/fs/cgroup";

/** Moves this process into a cgroup in every hierarchy, as `[cgroup] path` asks. */
export async function joinCgroup(path: string): Promise<void> {
  const unified = existsSync(join(CGROUP_ROOT, "cgroup.controllers"));
  const hierarchies = unified ? [CGROUP_ROOT] : await cgroupHierarchies();
  for (const hierarchy of hierarchies) {
    const folder = join(hierarchy, path);
    try {
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "cgroup.procs"), String(process.pid));
    } catch (error) {
      throw withContext(`join cgroup ${folder}`, error);
    }
  }
}

/** Controllers of cgroup v1 that containerd moves itself into; cpuset needs its members set first and is left out. */
const JOINED = new Set(["memory", "cpu", "cpuacct", "cpu,cpuacct", "pids", "blkio", "freezer", "devices"]);

async function cgroupHierarchies(): Promise<string[]> {
  const names = await readdir(CGROUP_ROOT);
  return names.filter((name) => JOINED.has(name)).map((name) => join(CGROUP_ROOT, name));
}

/** Sets the OOM score; lowering it needs a capability that containers and some machines lack, which is only told of, in the peer's words. */
export function applyOomScore(score: number, log: Logger): void {
  if (score === 0) return;
  try {
    setOomScoreAdj(score);
  } catch (error) {
    log.error(`failed to change OOM score to ${score}`, { error: messageOf(error) });
  }
}
