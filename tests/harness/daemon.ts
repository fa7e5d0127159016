// Starts a daemon, ours or Debian's containerd, on a private root, state, socket and configuration below one temporary folder,
// and ends it leaving nothing: whatever is still there afterwards is reported as a leak.
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, rmdir, symlink, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ExecOptions, eventually, exec, patience, type Result, type Running, start } from "./process.ts";

/** The repository, as a path. */
export const repository = join(import.meta.dirname, "../..");

/** Whose program plays a part: this project's compiled binary, or Debian's containerd package unpacked under build/peer. */
export type Maker = "ours" | "debian";

const BIN: Readonly<Record<Maker, string>> = {
  ours: join(repository, "build/bin"),
  debian: join(repository, "build/peer/usr/bin"),
};

/** The path of a program of ours or the peer's. */
export function program(
  maker: Maker,
  name: "containerd" | "containerd-shim-runc-v2" | "containerd-stress" | "ctr",
): string {
  return join(BIN[maker], name);
}

export type DaemonOptions = {
  readonly maker: Maker;
  /** Whose containerd-shim-runc-v2 the daemon finds in its PATH; its own maker's when absent. */
  readonly shim?: Maker;
  /** Lines put at the end of the configuration file, with `@dir@` for the daemon's folder. */
  readonly config?: string;
  /** Replaces the whole configuration file, with `@dir@` for the daemon's folder. */
  readonly wholeConfig?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
};

/** A command that empties a namespace; a daemon that does not answer by then is reported, not waited for. */
const CLEAR_LIMIT_MS = 20_000;
/** Layers a test image may have and still be cleared. */
const DEEPEST_CHAIN = 20;
const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * No collection by itself: what a case ingests or makes is not always held by anything, and the changes of other cases
 * would have it collected between two of its commands, on the peer as on us.
 */
const NO_COLLECTION = `[plugins."io.containerd.gc.v1.scheduler"]
  # At most one in 50 s unless a client asks: an average of 5 ms is taken for the least.
  pause_threshold = 0.0001
  deletion_threshold = 1000000
  mutation_threshold = 0
  startup_delay = "0s"
`;

/** The configuration with `more` before our table, since it may begin with keys of no table. */
function configFor(maker: Maker, dir: string, more: string): string {
  const collection = more.includes("io.containerd.gc.v1.scheduler") ? "" : NO_COLLECTION;
  const opt = `[plugins."io.containerd.internal.v1.opt"]\n  path = "${dir}/opt"\n`;
  if (maker === "ours") return `version = 3\n${more}\n${opt}${collection}`;
  return [
    "version = 2",
    'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]',
    more,
    opt,
    collection,
  ].join("\n");
}

/** A running daemon. Close it (or `await using`) to end it and everything it started. */
export class Daemon implements AsyncDisposable {
  readonly maker: Maker;
  readonly shim: Maker;
  /** Everything of this daemon is below here. */
  readonly dir: string;
  readonly address: string;
  readonly root: string;
  readonly state: string;
  readonly configPath: string;
  readonly logPath: string;
  readonly #options: DaemonOptions;
  readonly #namespaces = new Set<string>();
  #child: Bun.Subprocess | undefined;

  private constructor(dir: string, options: DaemonOptions) {
    this.#options = options;
    this.maker = options.maker;
    this.shim = options.shim ?? options.maker;
    this.dir = dir;
    this.address = join(dir, "c.sock");
    this.root = join(dir, "root");
    this.state = join(dir, "state");
    this.configPath = join(dir, "config.toml");
    this.logPath = join(dir, "log");
  }

  /** Starts one and waits until its socket answers. Throws with its log when it does not come up. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const daemon = await Daemon.prepare(options);
    await daemon.launch();
    return daemon;
  }

  /** Makes the folder, the configuration and the PATH of one, without starting it. */
  static async prepare(options: DaemonOptions): Promise<Daemon> {
    const dir = await mkdtemp(join(tmpdir(), "stv-"));
    const daemon = new Daemon(dir, options);
    await mkdir(join(dir, "bin"));
    await symlink(program(daemon.shim, "containerd-shim-runc-v2"), join(dir, "bin/containerd-shim-runc-v2"));
    const more = (options.config ?? "").replaceAll("@dir@", dir);
    const whole = options.wholeConfig?.replaceAll("@dir@", dir);
    await writeFile(daemon.configPath, whole === undefined ? configFor(options.maker, dir, more) : `${whole}${more}`);
    return daemon;
  }

  get pid(): number {
    if (this.#child === undefined) throw new Error("the daemon does not run");
    return this.#child.pid;
  }

  /** Whether the process still runs, as far as is known. */
  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get log(): Promise<string> {
    return readFile(this.logPath, "utf8").catch(() => "");
  }

  /** Starts the process (again) on the same folders. */
  async launch(): Promise<void> {
    const folders = ["--root", this.root, "--state", this.state, "--address", this.address];
    const command = [
      program(this.maker, "containerd"),
      "--config",
      this.configPath,
      ...folders,
      ...(this.#options.args ?? []),
    ];
    await appendFile(this.logPath, "");
    const child = Bun.spawn(["sh", "-c", `exec "$@" >>${this.logPath} 2>&1`, "sh", ...command], {
      env: { PATH: `${join(this.dir, "bin")}:${SYSTEM_PATH}`, HOME: "/root", TMPDIR: this.dir, ...this.#options.env },
      cwd: "/",
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    this.#child = child;
    try {
      await eventually(
        `${this.maker} containerd to answer`,
        async () => {
          if (child.exitCode !== null) throw new Error(`the daemon ended with status ${child.exitCode}`);
          return (await connects(this.address)) ? true : undefined;
        },
        20_000,
      );
    } catch (error) {
      const text = await this.log;
      await this.close().catch(() => undefined);
      throw new Error(`${String(error)}\n${text.slice(-4_000)}`, { cause: error });
    }
  }

  /** Ends the process with a signal and waits for it. Containers go on. @returns its exit status. */
  async stop(signal: "SIGTERM" | "SIGKILL" | "SIGINT" | "SIGHUP" = "SIGTERM", limitMs = 15_000): Promise<number> {
    const child = this.#child;
    if (child === undefined) return 0;
    child.kill(signal);
    const ended = await Promise.race([child.exited, Bun.sleep(patience(limitMs)).then(() => undefined)]);
    if (ended === undefined) {
      child.kill("SIGKILL");
      await child.exited;
      throw new Error(
        `the daemon did not end within ${patience(limitMs)} ms of ${signal}\n${(await this.log).slice(-2_000)}`,
      );
    }
    this.#child = undefined;
    return ended;
  }

  /** Runs a ctr against this daemon, in `namespace`. */
  async ctr(client: Maker, namespace: string, args: readonly string[], options: ExecOptions = {}): Promise<Result> {
    this.#namespaces.add(namespace);
    return exec([program(client, "ctr"), "--address", this.address, "--namespace", namespace, ...args], {
      ...options,
      env: { PATH: `${join(this.dir, "bin")}:${SYSTEM_PATH}`, ...options.env },
    });
  }

  /** Runs a ctr against this daemon without naming a namespace. */
  async ctrPlain(client: Maker, args: readonly string[], options: ExecOptions = {}): Promise<Result> {
    return exec([program(client, "ctr"), "--address", this.address, ...args], {
      ...options,
      env: { PATH: `${join(this.dir, "bin")}:${SYSTEM_PATH}`, ...options.env },
    });
  }

  /** Starts a ctr that goes on, for events or an attached task. The caller stops it. */
  startCtr(client: Maker, namespace: string, args: readonly string[], options: Pick<ExecOptions, "env"> = {}): Running {
    this.#namespaces.add(namespace);
    return start([program(client, "ctr"), "--address", this.address, "--namespace", namespace, ...args], {
      env: { PATH: `${join(this.dir, "bin")}:${SYSTEM_PATH}`, ...options.env },
    });
  }

  /** A namespace to be emptied when the daemon is closed. */
  use(namespace: string): void {
    this.#namespaces.add(namespace);
  }

  /**
   * Removes all tasks, containers, images and snapshots of a namespace, then the namespace.
   * @returns what had no business being there any more: leases and ingests that nobody removed.
   */
  async clear(namespace: string): Promise<string[]> {
    const left: string[] = [];
    this.#namespaces.delete(namespace);
    const base = [program("debian", "ctr"), "--address", this.address, "--namespace", namespace];
    const ctr: Ctr = async (...args) => exec([...base, ...args], { timeoutMs: CLEAR_LIMIT_MS });
    const list = async (...args: string[]): Promise<string[]> =>
      (await ctr(...args)).stdout.split("\n").filter((line) => line !== "");
    for (const task of await list("tasks", "ls", "-q")) await ctr("tasks", "rm", "--force", task);
    for (const container of await list("containers", "ls", "-q")) await ctr("containers", "rm", container);
    const images = await list("images", "ls", "-q");
    if (images.length > 0) await ctr("images", "rm", "--sync", ...images);
    for (const lease of await list("leases", "ls", "-q")) left.push(`lease ${lease} in ${namespace}`);
    for (const ingest of (await list("content", "active")).slice(1)) left.push(`ingest ${ingest} in ${namespace}`);
    for (const snapshotter of ["overlayfs", "native"]) await clearSnapshots(ctr, snapshotter);
    await ctr("namespaces", "rm", namespace);
    await removeEmptyCgroups(namespace);
    return left;
  }

  /** Ends everything and removes the folder. What was left behind goes to the run's list of leaks. */
  async close(): Promise<void> {
    const leaks: string[] = [];
    if (this.running) {
      try {
        for (const namespace of this.#namespaces) leaks.push(...(await this.clear(namespace)));
        await this.stop();
      } catch (error) {
        leaks.push(`it could not be emptied and stopped: ${String(error)}`);
      }
    }
    const swept = await this.#sweep();
    leaks.push(...swept);
    // The folder goes, and with it what could tell why.
    if (swept.length > 0)
      process.stderr.write(`--- log of a daemon that left something ---\n${(await this.log).slice(-6_000)}\n`);
    await rm(this.dir, { recursive: true, force: true });
    const report = process.env["STEVEDORE_LEAKS"];
    if (leaks.length === 0) return;
    if (report !== undefined) await appendFile(report, leaks.map((leak) => `${this.maker} daemon: ${leak}\n`).join(""));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Kills processes and takes down mounts that name our folder, and says which. */
  async #sweep(): Promise<string[]> {
    const found: string[] = [];
    // A shim ends a moment after its last task is deleted.
    const deadline = performance.now() + 3_000;
    let processes = await processesNaming(this.dir);
    while (processes.length > 0 && performance.now() < deadline) {
      await Bun.sleep(50);
      processes = await processesNaming(this.dir);
    }
    for (const { pid, command } of processes) {
      found.push(`process ${command}`);
      process.kill(pid, "SIGKILL");
    }
    for (let round = 0; round < 3; round += 1) {
      for (const point of await mountsBelow(this.dir)) {
        if (round === 0) found.push(`mount ${point}`);
        await exec(["umount", "-l", point]);
      }
    }
    return found;
  }
}

/** Takes away the cgroups above a namespace's containers, which every containerd leaves; one that still holds something stays, and is a leak. */
async function removeEmptyCgroups(namespace: string): Promise<void> {
  const top = "/sys/fs/cgroup";
  const hierarchies = await readdir(top).catch(() => []);
  for (const folder of ["", ...hierarchies]) await rmdir(join(top, folder, namespace)).catch(() => undefined);
}

type Ctr = (...args: string[]) => Promise<Result>;

async function clearSnapshots(ctr: Ctr, snapshotter: string): Promise<void> {
  for (let round = 0; round < DEEPEST_CHAIN; round += 1) {
    const listed = await ctr("snapshots", "--snapshotter", snapshotter, "ls");
    const keys = listed.stdout
      .split("\n")
      .slice(1)
      .map((line) => line.split(/\s+/)[0] ?? "")
      .filter((key) => key !== "");
    if (listed.code !== 0 || keys.length === 0) return;
    // Children hold their parents: each round takes what has none left.
    for (const key of keys.reverse()) await ctr("snapshots", "--snapshotter", snapshotter, "rm", key);
  }
}

async function connects(address: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = createConnection(address);
    socket.once("connect", () => {
      socket.destroy();
      done(true);
    });
    socket.once("error", () => done(false));
  });
}

/** Processes whose arguments or environment name a path, other than ourselves. */
export async function processesNaming(path: string): Promise<{ pid: number; command: string }[]> {
  const found: { pid: number; command: string }[] = [];
  for (const entry of await readdir("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const command = await readFile(`/proc/${entry}/cmdline`, "utf8").catch(() => "");
    if (command.includes(path)) found.push({ pid, command: command.replaceAll("\0", " ").trim() });
  }
  return found;
}

/** Mount points at or below a path, deepest first. */
export async function mountsBelow(path: string): Promise<string[]> {
  const table = await readFile("/proc/self/mountinfo", "utf8");
  return table
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((point) => point === path || point.startsWith(`${path}/`))
    .sort((a, b) => b.length - a.length);
}
