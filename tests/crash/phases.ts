// Processes of the runtime that are killed or stopped at a named phase of a container's life. The phases come from a runc of our own in
// front of the real one, which waits where it is told to: no fault points are in what is tested.
import { expect } from "bun:test";
import { chmod, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KeeperClient } from "@stevedore/keeper/client";
import { Daemon, processesNaming } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { eventually, patience, type Result, type Running } from "../harness/process.ts";
import { clientEnvironment, removeOfClients, settle, shims, taskLeftovers } from "./leftovers.ts";

/** Where in a container's life. `before` and `after` are of the runtime's call. */
export const PHASES = [
  "create.before",
  "create.after",
  "start.before",
  "start.after",
  "exec.before",
  "exec.after",
  "output",
  "exit",
  "delete.before",
  "delete.after",
] as const;
export type Phase = (typeof PHASES)[number];

/** Who is killed; `stop` stops the shim, and lets it go on later. */
export const VICTIMS = ["daemon", "shim", "both", "keeper", "all", "runc", "stop"] as const;
export type Victim = (typeof VICTIMS)[number];

const RUNC = `#!/bin/sh
# Waits before and after the call while a gate of that name is there.
dir=@dir@/gates
verb=""
skip=0
for word in "$@"; do
  if [ "$skip" = 1 ]; then skip=0; continue; fi
  case "$word" in
    --root | --log | --log-format) skip=1 ;;
    -*) ;;
    *) verb="$word"; break ;;
  esac
done
for last in "$@"; do :; done
gate() {
  [ -e "$dir/$last.$1" ] || return 0
  : >"$dir/$last.$1.reached"
  while [ -e "$dir/$last.$1" ]; do /usr/bin/busybox sleep 0.02; done
}
gate "$verb.before"
@runc@ "$@"
code=$?
gate "$verb.after"
exit $code
`;

/** A logger that is no shim's: what a container writes comes to the file though everybody else dies. */
const LOGGER = `#!/bin/sh
exec 5>&-
exec /usr/bin/busybox cat <&3 >>"$1"
`;

/** What a neighbour prints: numbers without a gap. */
const COUNT = "i=0; while [ ! -e /go ]; do echo $i; i=$((i+1)); sleep 0.01; done; echo end; exit 23";

export interface PhaseOptions {
  /** Do without PIDFD_INFO_EXIT, as older kernels must. */
  readonly oldKernel?: boolean;
}

/** A daemon with a neighbour that must feel nothing, and a container that lives through phases. */
export class PhaseWorld implements AsyncDisposable {
  readonly daemon: Daemon;
  readonly namespace: string;
  readonly oldKernel: boolean;
  readonly #env: Record<string, string>;
  #count = 0;

  private constructor(daemon: Daemon, namespace: string, made: { env: Record<string, string>; oldKernel: boolean }) {
    this.daemon = daemon;
    this.namespace = namespace;
    this.#env = made.env;
    this.oldKernel = made.oldKernel;
  }

  static async start({ oldKernel = false }: PhaseOptions = {}): Promise<PhaseWorld> {
    const config = oldKernel
      ? `[plugins."io.containerd.shim.v1.manager"]\n  env = ["STEVEDORE_PIDFD_EXITS=off"]\n`
      : "";
    const daemon = await Daemon.prepare({ maker: "ours", config, args: ["--log-level", "debug"] });
    const script = async (name: string, text: string): Promise<void> => {
      await writeFile(join(daemon.dir, "bin", name), text.replaceAll("@dir@", daemon.dir));
      await chmod(join(daemon.dir, "bin", name), 0o755);
    };
    await mkdir(join(daemon.dir, "gates"));
    await script("runc", RUNC.replaceAll("@runc@", Bun.which("runc") ?? "runc"));
    await script("logger", LOGGER);
    await daemon.launch();
    const namespace = `stvphase${process.pid}-${Date.now()}`;
    daemon.use(namespace);
    const env = await clientEnvironment(daemon);
    await writeFile(join(daemon.dir, "image.tar"), await ociArchive());
    const world = new PhaseWorld(daemon, namespace, { env, oldKernel });
    await world.must("images", "import", join(daemon.dir, "image.tar"));
    return world;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.openAll();
    await this.daemon.close();
  }

  ctr(...args: string[]): Promise<Result> {
    return this.daemon.ctr("ours", this.namespace, args, { env: this.#env, timeoutMs: 40_000 });
  }

  begin(...args: string[]): Running {
    return this.daemon.startCtr("ours", this.namespace, args, { env: this.#env });
  }

  async must(...args: string[]): Promise<string> {
    const ran = await this.ctr(...args);
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: ${ran.stderr}\n${await this.told()}`);
    return ran.stdout;
  }

  /** What the daemon has logged, without the noise of its start. */
  async told(): Promise<string> {
    const lines = (await this.daemon.log)
      .split("\n")
      .filter((line) => !/loading plugin|duration_ms=\S+ peer/.test(line));
    return lines.join("\n").slice(-12_000);
  }

  /** A running container that writes numbers to a file by a logger. */
  async neighbour(): Promise<string> {
    const id = `n${++this.#count}`;
    const uri = `binary://${this.daemon.dir}/bin/logger?${this.fileOf(id)}`;
    await this.must("run", "-d", "--log-uri", uri, IMAGE, id, "sh", "-c", COUNT);
    return id;
  }

  fileOf(id: string): string {
    return join(this.daemon.dir, `${id}.out`);
  }

  async statusOf(id: string): Promise<string> {
    const line = (await this.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
    return line?.trim().split(/\s+/)[2] ?? "gone";
  }

  /** Has a neighbour end, and looks at all it wrote and at its exit code. */
  async endOf(id: string, code = 23): Promise<void> {
    const said = await this.ctr("tasks", "exec", "--exec-id", "say", id, "sh", "-c", "echo heard; exit 5");
    expect([said.stdout, said.code, said.stderr]).toEqual(["heard\n", 5, said.stderr]);
    // The end of init may end this one before it has ended by itself.
    await this.ctr("tasks", "exec", "--exec-id", "go", id, "touch", "/go");
    await eventually(`${id} to stop`, async () => ((await this.statusOf(id)) === "STOPPED" ? true : undefined), 20_000);
    const removed = await this.ctr("tasks", "rm", id);
    expect(removed.stderr).toContain(`exit code ${code}`);
    await this.must("containers", "rm", id);
    const lines = await eventually("the logger to end", async () => {
      const text = await readFile(this.fileOf(id), "utf8");
      return text.endsWith("end\n") ? text.trimEnd().split("\n") : undefined;
    });
    expect(lines.slice(0, -1).map(Number)).toEqual(lines.slice(0, -1).map((_, at) => at));
    expect(lines.length).toBeGreaterThan(2);
  }

  /** Closes the gate of a phase for a container: its runtime call waits there. */
  async close(id: string, phase: string): Promise<void> {
    await writeFile(join(this.daemon.dir, "gates", `${id}.${phase}`), "");
  }

  async reached(id: string, phase: string): Promise<void> {
    const path = join(this.daemon.dir, "gates", `${id}.${phase}.reached`);
    await eventually(`${phase} of ${id}`, async () => ((await Bun.file(path).exists()) ? true : undefined), 20_000);
  }

  async open(id: string, phase: string): Promise<void> {
    await rm(join(this.daemon.dir, "gates", `${id}.${phase}`), { force: true });
    await rm(join(this.daemon.dir, "gates", `${id}.${phase}.reached`), { force: true });
  }

  async openAll(): Promise<void> {
    const folder = join(this.daemon.dir, "gates");
    for (const name of await readdir(folder).catch(() => [])) await rm(join(folder, name), { force: true });
  }

  /** Kills (or stops) who is named. @returns what has to be done for all to go on: a daemon that was killed is started again */
  async strike(victim: Victim): Promise<() => Promise<void>> {
    const kill = (pids: readonly number[], signal: NodeJS.Signals = "SIGKILL"): void => {
      for (const pid of pids) {
        try {
          process.kill(pid, signal);
        } catch {
          // It has ended by itself.
        }
      }
    };
    const theShims = async (): Promise<number[]> => (await shims(this.daemon)).map(({ pid }) => pid);
    const keepers = async (): Promise<number[]> => (await keepersOf(this.daemon)).map(({ pid }) => pid);
    const relaunch = (): Promise<void> => this.daemon.launch();
    switch (victim) {
      case "daemon":
        await this.daemon.stop("SIGKILL");
        return relaunch;
      case "shim":
        kill(await theShims());
        return () => Promise.resolve();
      case "both":
        await this.daemon.stop("SIGKILL");
        kill(await theShims());
        return relaunch;
      case "keeper":
        kill(await keepers());
        return () => Promise.resolve();
      case "all": {
        const others = [...(await keepers()), ...(await theShims())];
        await this.daemon.stop("SIGKILL");
        kill(others);
        return relaunch;
      }
      case "runc": {
        const calls = (await processesNaming(this.daemon.dir)).filter(({ command }) =>
          /bin\/runc |runc --root/.test(command),
        );
        kill(calls.map(({ pid }) => pid));
        return () => Promise.resolve();
      }
      case "stop": {
        const stopped = await theShims();
        kill(stopped, "SIGSTOP");
        return async () => kill(stopped, "SIGCONT");
      }
    }
  }

  /** One container through its life up to a phase, with somebody killed there, then its end; a neighbour feels nothing. */
  async scenario(phase: Phase, victim: Victim): Promise<void> {
    const neighbour = await this.neighbour();
    const id = `v${++this.#count}`;
    const clients: Running[] = [];
    const run = (...args: string[]): void => {
      clients.push(this.begin(...args));
    };
    const [verb = "", side] = phase.split(".");
    if (side !== undefined) {
      if (verb === "exec" || verb === "delete") await this.must("run", "-d", IMAGE, id, "sleep", "1000");
      if (verb === "delete") {
        await this.must("tasks", "kill", "-s", "KILL", id);
        await eventually(
          "it to stop",
          async () => ((await this.statusOf(id)) === "STOPPED" ? true : undefined),
          20_000,
        );
      }
      await this.close(id, phase);
      if (verb === "exec") run("tasks", "exec", "--exec-id", "x", id, "true");
      else if (verb === "delete") run("tasks", "rm", id);
      else run("run", "-d", IMAGE, id, "sleep", "1000");
      await this.reached(id, phase).catch((error: unknown) => {
        const said = clients.map((client) => client.stderr()).join("");
        throw new Error(`${String(error)}; the client says ${JSON.stringify(said)}`, { cause: error });
      });
    } else if (phase === "output") {
      await this.must("run", "-d", IMAGE, id, "sleep", "1000");
    } else {
      await this.must("run", "-d", IMAGE, id, "sh", "-c", "while [ ! -e /go ]; do sleep 0.01; done; exit 3");
      run("tasks", "exec", "--exec-id", "x", id, "touch", "/go");
    }
    const goOn = await this.strike(victim);
    await this.openAll();
    if (victim === "stop") await Bun.sleep(200);
    await goOn();
    for (const client of clients) {
      const ended = await Promise.race([client.exited.then(() => true), Bun.sleep(patience(20_000)).then(() => false)]);
      if (!ended) throw new Error(`${phase}, ${victim}: a client hangs\n${client.stderr()}\n${await this.told()}`);
    }
    if (phase === "exit") await this.#exitOf(id);
    await this.#remove(id, `${phase}, ${victim}`);
    // When keeper and shims die together, an orphan's parent is somebody else: only the kernel can tell its exit then.
    const isKnown = !(this.oldKernel && victim === "all");
    await this.endOf(neighbour, isKnown ? 23 : 255);
    if (!isKnown) expect(await this.daemon.log).toContain("exit status unknown");
    await this.#nothingLeft(`${phase}, ${victim}`);
  }

  /** A container that ended while somebody died: its code is exact, since each kill leaves a holder here. */
  async #exitOf(id: string): Promise<void> {
    // The exec that has it end may have been lost with the daemon or the shim.
    await this.ctr("tasks", "exec", "--exec-id", "again", id, "touch", "/go");
    await eventually(`${id} to stop`, async () => ((await this.statusOf(id)) === "STOPPED" ? true : undefined), 20_000);
    expect((await this.ctr("tasks", "rm", id)).stderr).toContain("exit code 3");
  }

  async #remove(id: string, what: string): Promise<void> {
    const gone = async (): Promise<string[]> => {
      const left: string[] = [];
      for (const line of (await this.must("tasks", "ls", "-q")).split("\n")) {
        if (line === id && (await this.ctr("tasks", "rm", "--force", id)).code !== 0) left.push(`task ${id}`);
      }
      for (const line of (await this.must("containers", "ls", "-q")).split("\n")) {
        if (line === id && (await this.ctr("containers", "rm", id)).code !== 0) left.push(`container ${id}`);
      }
      return left;
    };
    const left = await settle(gone, 20_000);
    if (left.length > 0) process.stderr.write(`--- ${what}\n${await this.told()}\n`);
    expect({ what, left }).toEqual({ what, left: [] });
  }

  async #nothingLeft(what: string): Promise<void> {
    const find = async (): Promise<string[]> => [
      ...(await taskLeftovers(this.daemon, this.namespace)),
      ...(await this.#heldByKeeper()),
    ];
    const left = await settle(find, 15_000);
    if (left.length > 0) process.stderr.write(`--- ${what}\n${await this.told()}\n`);
    expect({ what, left }).toEqual({ what, left: [] });
    // A client of a killed daemon could not remove its lease, which would end by itself in a day.
    for (const lease of (await this.must("leases", "ls", "-q")).split("\n").filter((line) => line !== ""))
      await this.must("leases", "rm", "--sync", lease);
    await removeOfClients(this.daemon);
  }

  async #heldByKeeper(): Promise<string[]> {
    let client: KeeperClient;
    try {
      client = KeeperClient.connect(join(this.daemon.state, "keeper.sock"));
    } catch {
      return ["no keeper"];
    }
    const { containers, descriptors } = await client.status();
    client.close();
    return containers + descriptors === 0 ? [] : [`keeper: ${containers} containers, ${descriptors} descriptors`];
  }
}

/** Keepers of a daemon that run. */
export async function keepersOf(daemon: Daemon): Promise<{ pid: number; command: string }[]> {
  return (await processesNaming(daemon.dir)).filter(({ command }) => / keeper -address /.test(command));
}
