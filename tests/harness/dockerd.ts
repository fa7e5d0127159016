// Starts Debian's dockerd (docker.io, unpacked under build/docker) on a containerd that a test has started, with folders,
// socket, network namespace, bridge and firewall rules of its own, and ends it leaving nothing.
import { appendFile, mkdir, readdir, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Daemon, repository } from "./daemon.ts";
import { dockerArchive } from "./images.ts";
import { type ExecOptions, eventually, exec, type Result, type Running, start } from "./process.ts";
import { tar } from "./tar.ts";

const BIN = join(repository, "build/docker/bin");
const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** The image every dockerd of a test has: busybox with a web server. */
export const DOCKER_IMAGE = "busybox:test";

/** The folders dockerd makes wherever its own are: removed with it when they are empty. */
const FIXED_FOLDERS = ["/run/docker/plugins", "/run/docker"];

/** A running dockerd. Close it (or `await using`) before its containerd. */
export class Dockerd implements AsyncDisposable {
  readonly containerd: Daemon;
  readonly dir: string;
  readonly host: string;
  /** The parent cgroup of all its containers. */
  readonly cgroup: string;
  readonly #logPath: string;
  readonly #args: readonly string[];
  #child: Bun.Subprocess | undefined;
  readonly #started: Running[] = [];

  private constructor(containerd: Daemon, cgroup: string, args: readonly string[]) {
    this.containerd = containerd;
    this.dir = join(containerd.dir, "docker");
    this.host = `unix://${this.dir}/d.sock`;
    this.cgroup = cgroup;
    this.#args = args;
    this.#logPath = join(this.dir, "log");
  }

  /**
   * Starts one with live-restore, in containerd's namespace `moby` (its default), and loads {@link DOCKER_IMAGE}.
   *
   * @param cgroup name of the cgroup its containers are put below; removed with it
   * @param args more of dockerd's flags
   */
  static async start(containerd: Daemon, cgroup: string, args: readonly string[] = []): Promise<Dockerd> {
    const dockerd = new Dockerd(containerd, cgroup, args);
    await mkdir(dockerd.dir);
    // No flag sets this one; its default is below /etc.
    const fixed = { "deprecated-key-path": join(dockerd.dir, "key.json") };
    await writeFile(join(dockerd.dir, "daemon.json"), JSON.stringify(fixed));
    containerd.use("moby");
    try {
      await dockerd.launch();
      const image = join(dockerd.dir, "image.tar");
      const server = tar([{ path: "bin/httpd", type: "symlink", target: "busybox", mode: 0o777 }]);
      await writeFile(image, await dockerArchive({ name: DOCKER_IMAGE, layers: [server] }));
      await dockerd.must("load", "-i", image);
    } catch (error) {
      await dockerd.close();
      throw error;
    }
    return dockerd;
  }

  get pid(): number {
    if (this.#child === undefined) throw new Error("dockerd does not run");
    return this.#child.pid;
  }

  /** What it logged that is no talk of its gRPC client. */
  get log(): Promise<string> {
    return Bun.file(this.#logPath)
      .text()
      .then((text) => text.replaceAll(/^.* module=grpc$\n/gm, ""))
      .catch(() => "");
  }

  /** Starts the process (again) on the same folders. The network is new each time: containers keep the one they have. */
  async launch(): Promise<void> {
    const { dir } = this;
    const command = [
      "dockerd",
      "--config-file",
      join(dir, "daemon.json"),
      "--data-root",
      join(dir, "root"),
      "--exec-root",
      join(dir, "exec"),
      "--pidfile",
      join(dir, "pid"),
      "--host",
      this.host,
      "--containerd",
      this.containerd.address,
      "--storage-driver",
      "overlay2",
      "--bip",
      "192.168.222.1/24",
      "--cgroup-parent",
      `/${this.cgroup}`,
      "--live-restore",
      ...this.#args,
    ];
    const script = `ip link set lo up && exec "$@" >>${this.#logPath} 2>&1`;
    const child = Bun.spawn(["unshare", "--net", "sh", "-c", script, "sh", ...command], {
      env: {
        PATH: `${BIN}:${join(this.containerd.dir, "bin")}:${SYSTEM_PATH}`,
        HOME: dir,
        TMPDIR: dir,
        XTABLES_LOCKFILE: join(dir, "xtables.lock"),
      },
      cwd: "/",
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    this.#child = child;
    try {
      await eventually(
        "dockerd to answer",
        async () => {
          if (child.exitCode !== null) throw new Error(`dockerd ended with status ${child.exitCode}`);
          return (await this.docker("version")).code === 0 ? true : undefined;
        },
        30_000,
      );
    } catch (error) {
      throw new Error(`${String(error)}\n${(await this.log).slice(-3_000)}`, { cause: error });
    }
  }

  /** Ends the process; its containers go on (live-restore). */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    child.kill(signal);
    await child.exited;
  }

  async docker(...args: string[]): Promise<Result> {
    return this.dockerWith({}, ...args);
  }

  async dockerWith(options: ExecOptions, ...args: string[]): Promise<Result> {
    return exec(this.#command(args), { ...options, env: { ...this.#env, ...options.env } });
  }

  /** Like {@link Dockerd.docker}, but throws when it fails; the output without its last line break. */
  async must(...args: string[]): Promise<string> {
    const ran = await this.docker(...args);
    if (ran.code !== 0) {
      const log = (await this.log).split("\n").slice(-8).join("\n");
      throw new Error(
        `docker ${args.join(" ")}: status ${ran.code}\n${ran.stdout}${ran.stderr}--- dockerd ---\n${log}`,
      );
    }
    return ran.stdout.trimEnd();
  }

  /** Starts a docker command that goes on; it is ended with the dockerd. */
  background(...args: string[]): Running {
    const running = start(this.#command(args), { env: this.#env });
    this.#started.push(running);
    return running;
  }

  /** Runs a command in dockerd's network namespace, where its bridge is. */
  async inNetwork(...command: string[]): Promise<Result> {
    return exec(["nsenter", "--net", "-t", String(this.pid), ...command]);
  }

  /** A field of `docker inspect`, by Go template. */
  async inspect(container: string, template: string): Promise<string> {
    return this.must("inspect", "--format", template, container);
  }

  async close(): Promise<void> {
    for (const running of this.#started) await running.stop("SIGKILL");
    if (this.#child !== undefined) {
      const containers = (await this.docker("ps", "-aq")).stdout.split("\n").filter((id) => id !== "");
      if (containers.length > 0) await this.docker("rm", "-f", "-v", ...containers);
      await this.stop();
    }
    // One that was killed leaves its folder bound to itself, also when a later one ends well.
    await exec(["umount", join(this.dir, "root")]);
    for (const folder of FIXED_FOLDERS) await rmdir(folder).catch(() => undefined);
    await this.#removeCgroups();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #env(): Record<string, string> {
    return { PATH: SYSTEM_PATH, HOME: this.dir, DOCKER_CONFIG: join(this.dir, "cli") };
  }

  #command(args: readonly string[]): string[] {
    return [join(BIN, "docker"), "--host", this.host, ...args];
  }

  /** Only empty folders go; one that holds something stays and is reported as a leak. */
  async #removeCgroups(): Promise<void> {
    const top = "/sys/fs/cgroup";
    for (const folder of ["", ...(await readdir(top).catch(() => []))]) {
      const path = join(top, folder, this.cgroup);
      const removed = await rmdir(path).then(
        () => true,
        (error: unknown) => error instanceof Error && "code" in error && error.code === "ENOENT",
      );
      const report = process.env["STEVEDORE_LEAKS"];
      if (!removed && report !== undefined) await appendFile(report, `dockerd: cgroup ${path}\n`);
    }
  }
}
