// Tasks as a state machine: a model that says what each step must give, and a driver that does the same steps on a daemon. The
// steps are total: in any state each of them means something, success or a refusal.
import { constants } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { errorClassOf, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { Client } from "@stevedore/sdk/client";
import { connectClient } from "@stevedore/sdk/connect";
import { type Daemon, type Maker, processesNaming } from "./daemon.ts";
import { byContainer } from "./exits.ts";
import { IMAGE, ociArchive } from "./images.ts";
import { eventually, exec } from "./process.ts";

/** Two containers, each with at most one exec. */
export const CONTAINERS = ["a", "b"] as const;
export type ContainerName = (typeof CONTAINERS)[number];

/** One step; `exit` and `exec-exit` make the process end by itself with a code. */
export type Step =
  | readonly [
      (
        | "create"
        | "start"
        | "kill"
        | "term"
        | "pause"
        | "resume"
        | "delete"
        | "exec"
        | "exec-start"
        | "exec-kill"
        | "exec-delete"
      ),
      ContainerName,
    ]
  | readonly ["exit" | "exec-exit", ContainerName, number]
  | DaemonStep;

/** A step of the daemon's: it ends, or is killed, and is started again; or all of its shims are killed, where others take over. */
export type DaemonStep = readonly ["restart" | "crash" | "shim-death"];

function isDaemonStep(step: Step): step is DaemonStep {
  return step[0] === "restart" || step[0] === "crash" || step[0] === "shim-death";
}

type Process =
  | { readonly kind: "none" | "created" | "running" | "paused" }
  | { readonly kind: "stopped"; readonly code: number };

interface TaskModel {
  init: Process;
  exec: Process;
  /** Events told of it, in order. */
  readonly words: string[];
}

/** What a step gives: success, with the exit status of what was deleted, or a refusal. "skip" is a step that the model leaves out. */
export type Outcome = "skip" | "refused" | "ok" | `exit ${number}`;

const SIGKILLED = 137;
const SIGTERMED = 143;

/** What must be. */
export class Model {
  readonly tasks: Readonly<Record<ContainerName, TaskModel>> = {
    a: { init: { kind: "none" }, exec: { kind: "none" }, words: [] },
    b: { init: { kind: "none" }, exec: { kind: "none" }, words: [] },
  };

  /** Does a step, and says what the daemon must answer. */
  apply(step: Step): Outcome {
    if (isDaemonStep(step)) return "ok";
    const [verb, name, code = 0] = step;
    const task = this.tasks[name];
    const init = task.init.kind;
    const exec = task.exec.kind;
    switch (verb) {
      case "create":
        if (init !== "none") return "refused";
        task.init = { kind: "created" };
        task.words.push("create");
        return "ok";
      case "start":
        if (init !== "created") return "refused";
        task.init = { kind: "running" };
        task.words.push("start");
        return "ok";
      case "kill":
        // What a frozen process does with a signal is the kernel's and the runtime's own business.
        if (init === "paused") return "skip";
        if (init !== "running" && init !== "created") return "refused";
        this.#endInit(task, SIGKILLED);
        return "ok";
      case "term":
        if (init !== "running") return init === "none" || init === "stopped" ? "refused" : "skip";
        // The first process of a pid namespace that handles no signal does not hear it.
        return "ok";
      case "exit":
        if (init !== "running") return "skip";
        this.#endInit(task, code);
        return "ok";
      case "pause":
        if (init !== "running") return "refused";
        task.init = { kind: "paused" };
        task.words.push("paused");
        return "ok";
      case "resume":
        if (init !== "paused") return "refused";
        task.init = { kind: "running" };
        task.words.push("resumed");
        return "ok";
      case "delete": {
        // A task with an exec that nobody deleted, or one that never started, is left to the cases of their own.
        if (init === "created" || (init === "stopped" && exec !== "none")) return "skip";
        if (task.init.kind !== "stopped") return "refused";
        const answer: Outcome = `exit ${task.init.code}`;
        task.init = { kind: "none" };
        task.words.push("delete");
        return answer;
      }
      case "exec":
        if (init === "none") return "refused";
        if (init !== "running") return "skip";
        if (exec !== "none") return "refused";
        task.exec = { kind: "created" };
        task.words.push("exec-added e");
        return "ok";
      case "exec-start":
        if (exec === "none" || exec === "running" || exec === "stopped") return "refused";
        if (init !== "running") return "skip";
        task.exec = { kind: "running" };
        task.words.push("exec-started e");
        return "ok";
      case "exec-exit":
        if (exec !== "running" || init !== "running") return "skip";
        this.#endExec(task, code);
        return "ok";
      case "exec-kill":
        if (init === "paused") return "skip";
        if (exec === "none" || exec === "stopped") return "refused";
        if (exec !== "running") return "skip";
        this.#endExec(task, SIGTERMED);
        return "ok";
      case "exec-delete": {
        if (exec === "none") return "refused";
        // A created exec may be deleted or not, by version.
        if (exec === "created") return "skip";
        if (task.exec.kind !== "stopped") return "refused";
        const answer: Outcome = `exit ${task.exec.code}`;
        task.exec = { kind: "none" };
        return answer;
      }
      default:
        return verb satisfies never;
    }
  }

  #endInit(task: TaskModel, code: number): void {
    // With its first process the container's others are killed by the kernel; its own end is told last.
    if (task.exec.kind === "running") this.#endExec(task, SIGKILLED);
    task.init = { kind: "stopped", code };
    task.words.push("exit");
  }

  #endExec(task: TaskModel, code: number): void {
    task.exec = { kind: "stopped", code };
    task.words.push("exit e");
  }
}

const PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const SIGTERM = 15;
const SIGKILL = 9;
/** How often a pause is tried again that the runtime could not carry out. */
const FREEZES = 5;
/** A step that takes longer than this hangs. */
const STEP_LIMIT_MS = 30_000;

/** A daemon on which sequences of steps are done, each with containers of its own. */
export class Machine implements AsyncDisposable {
  readonly #daemon: Daemon;
  readonly #client: Client;
  readonly #namespace: string;
  readonly #maker: Maker;
  readonly #gates: string;
  #sequence = 0;

  private constructor(daemon: Daemon, namespace: string) {
    this.#daemon = daemon;
    this.#maker = daemon.maker;
    this.#namespace = namespace;
    this.#gates = join(daemon.dir, "gates");
    this.#client = connectClient({ address: daemon.address });
  }

  /** Readies a daemon; it stays the caller's. */
  static async on(daemon: Daemon, namespace: string): Promise<Machine> {
    const machine = new Machine(daemon, namespace);
    await mkdir(machine.#gates);
    const archive = join(daemon.dir, "machine.tar");
    await Bun.write(archive, await ociArchive());
    await machine.#ctr("images", "import", archive);
    const mount = `type=bind,src=${machine.#gates},dst=/gates,options=rbind:rw`;
    await machine.#ctr("containers", "create", "--mount", mount, IMAGE, "base", "sh", "/gates/base");
    return machine;
  }

  async #ctr(...args: string[]): Promise<void> {
    const ran = await this.#daemon.ctr("debian", this.#namespace, args);
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: ${ran.stderr}`);
  }

  #context(): RequestContext {
    return { signal: AbortSignal.timeout(STEP_LIMIT_MS), namespace: this.#namespace };
  }

  /**
   * Does the steps and compares with the model after each.
   * @returns the classes of the refusals, by step, for the comparison with another daemon.
   * @throws Error that says at which step what was found
   */
  async run(steps: readonly Step[]): Promise<string[]> {
    this.#sequence += 1;
    const prefix = `s${this.#sequence}`;
    const model = new Model();
    const refusals: string[] = [];
    try {
      for (const name of CONTAINERS) await this.#make(`${prefix}${name}`);
      for (const [index, step] of steps.entries()) {
        const before = JSON.stringify(model.tasks);
        const expected = model.apply(step);
        if (expected === "skip") continue;
        const found = await this.#attempt(prefix, step);
        const outcome = found.startsWith("refused") ? "refused" : found;
        if (outcome !== expected) {
          throw new Error(
            `step ${index} ${JSON.stringify(step)}: ${found}, the model says ${expected}, after ${before}`,
          );
        }
        if (expected === "refused") refusals.push(`${index} ${JSON.stringify(step)}: ${found}`);
        for (const name of CONTAINERS)
          await this.#compare(`${prefix}${name}`, model.tasks[name], `after step ${index} ${JSON.stringify(step)}`);
      }
      if (this.#maker === "ours") await this.#compareEvents(prefix, model);
      return refusals;
    } finally {
      await this.#clear(prefix);
    }
  }

  /** A container like the base, with a snapshot and a gate of its own. */
  async #make(id: string): Promise<void> {
    const context = this.#context();
    const base = await this.#client.containers.get(context, "base");
    const snapshotter = this.#client.snapshotter(base.snapshotter);
    const { parent } = await snapshotter.stat(context, base.snapshotKey);
    await snapshotter.prepare(context, id, { parent });
    for (const gate of [id, `${id}-e`]) {
      const made = await exec(["mkfifo", join(this.#gates, gate)]);
      if (made.code !== 0) throw new Error(made.stderr);
    }
    const { createdAt: _created, updatedAt: _updated, ...rest } = base;
    // Its id is part of the cgroup's path, and its gate takes the place of the base's.
    const text = Buffer.from(base.spec?.value ?? new Uint8Array())
      .toString()
      .replaceAll(`/${this.#namespace}/base`, `/${this.#namespace}/${id}`)
      .replace('"sh","/gates/base"', `"sh","-c","read code < /gates/${id}; exit $code"`);
    if (!text.includes(`read code < /gates/${id}`)) throw new Error(`the spec has no command to replace: ${text}`);
    const spec = { typeUrl: base.spec?.typeUrl ?? "", value: Buffer.from(text) };
    await this.#client.containers.create(context, { ...rest, id, snapshotKey: id, spec });
  }

  async #attempt(prefix: string, step: Step): Promise<Outcome | `refused ${string}`> {
    try {
      return await this.#do(prefix, step);
    } catch (error) {
      return `refused ${errorClassOf(error)}`;
    }
  }

  async #do(prefix: string, step: Step): Promise<Outcome> {
    if (step[0] === "shim-death") {
      // The peer's tasks end with their shims.
      if (this.#maker === "ours") await this.#killShims();
      return "ok";
    }
    if (isDaemonStep(step)) {
      await this.#daemon.stop(step[0] === "crash" ? "SIGKILL" : "SIGTERM");
      await this.#daemon.launch();
      return "ok";
    }
    const { tasks, containers } = this.#client;
    const context = this.#context();
    const id = `${prefix}${step[1]}`;
    const init = { containerId: id, execId: "" };
    const extra = { containerId: id, execId: "e" };
    const io = { stdin: "", stdout: "", stderr: "", terminal: false };
    switch (step[0]) {
      case "create": {
        const container = await containers.get(context, id);
        const rootfs = await this.#client.snapshotter(container.snapshotter).mounts(context, id);
        await tasks.create(context, { containerId: id, rootfs, io, runtimePath: "" });
        return "ok";
      }
      case "start":
        await tasks.start(context, init);
        return "ok";
      case "kill":
        // Not all: that is no error when there is nobody left.
        await tasks.kill(context, init, { number: SIGKILL, all: false });
        await tasks.wait(context, init);
        return "ok";
      case "term":
        await tasks.kill(context, init, { number: SIGTERM, all: false });
        return "ok";
      case "exit":
        await this.#let(id, step[2]);
        await tasks.wait(context, init);
        return "ok";
      case "pause":
        for (let left = FREEZES; ; left -= 1) {
          try {
            await tasks.pause(context, id);
            return "ok";
          } catch (error) {
            // The runtime gives up on a freezer that a busy machine does not get to, and thaws it.
            if (left === 0 || !messageOf(error).includes("unable to freeze")) throw error;
          }
        }
      case "resume":
        await tasks.resume(context, id);
        return "ok";
      case "delete":
        return `exit ${(await tasks.delete(context, init)).exitStatus}`;
      case "exec": {
        const args = ["sh", "-c", `read code < /gates/${id}-e; exit $code`];
        const spec = { args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } };
        const any = { typeUrl: PROCESS, value: Buffer.from(JSON.stringify(spec)) };
        await tasks.exec(context, { containerId: id, execId: "e", io, spec: any });
        return "ok";
      }
      case "exec-start":
        await tasks.start(context, extra);
        return "ok";
      case "exec-exit":
        await this.#let(`${id}-e`, step[2]);
        await tasks.wait(context, extra);
        return "ok";
      case "exec-kill":
        await tasks.kill(context, extra, { number: SIGTERM, all: false });
        await tasks.wait(context, extra);
        return "ok";
      case "exec-delete":
        return `exit ${(await tasks.delete(context, extra)).exitStatus}`;
      default:
        return step satisfies never;
    }
  }

  async #killShims(): Promise<void> {
    for (const { pid, command } of await processesNaming(this.#daemon.dir)) {
      if (command.includes("containerd-shim") && !command.includes(" keeper ")) process.kill(pid, "SIGKILL");
    }
  }

  /** Lets a process that waits at its gate end with a code. */
  async #let(gate: string, code: number): Promise<void> {
    const writer = await eventually("a process at the gate", () =>
      open(join(this.#gates, gate), constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined),
    );
    await writer.write(`${code}\n`);
    await writer.close();
  }

  async #compare(id: string, model: TaskModel, when: string): Promise<void> {
    for (const [execId, process] of [
      ["", model.init],
      ["e", model.exec],
    ] as const) {
      const wanted = process.kind === "stopped" ? `stopped ${process.code}` : process.kind;
      // An exec of a task that is paused is paused with it, on some versions.
      if (execId !== "" && (model.init.kind === "paused" || model.init.kind === "none")) continue;
      let found = "";
      await eventually(
        `${id} ${execId}`,
        async () => {
          found = await this.#stateOf(id, execId);
          return found === wanted ? true : undefined;
        },
        5_000,
      ).catch(() => {
        throw new Error(`${when}: process "${execId}" of ${id} is ${found}, the model says ${wanted}`);
      });
    }
  }

  async #stateOf(containerId: string, execId: string): Promise<string> {
    try {
      const { status, exitStatus } = await this.#client.tasks.get(this.#context(), { containerId, execId });
      return status === "stopped" ? `stopped ${exitStatus}` : status;
    } catch (error) {
      if (isErrorClass(error, "not-found")) return "none";
      throw error;
    }
  }

  /** The log must have told of all that happened, of each container in its order. */
  async #compareEvents(prefix: string, model: Model): Promise<void> {
    for (const name of CONTAINERS) {
      const id = `${prefix}${name}`;
      const wanted = model.tasks[name].words.join(", ");
      let found = "";
      await eventually(
        "its events",
        async () => {
          const filters = [`namespace=="${this.#namespace}",topic~=|^/tasks/|,event.container_id=="${id}"`];
          const from = { kind: "oldest" } as const;
          const events = this.#client.eventLog.replay(this.#context(), { from, filters, follow: false });
          const envelopes = (await Array.fromAsync(events)).map(({ envelope }) => envelope);
          found = (byContainer(envelopes).get(id) ?? []).join(", ");
          return found === wanted ? true : undefined;
        },
        15_000,
      ).catch(() => {
        throw new Error(`events of ${id} are [${found}], the model says [${wanted}]`);
      });
    }
  }

  async #clear(prefix: string): Promise<void> {
    if (!this.#daemon.running) await this.#daemon.launch();
    for (const name of CONTAINERS) {
      const id = `${prefix}${name}`;
      await this.#daemon.ctr("debian", this.#namespace, ["tasks", "resume", id]);
      await this.#daemon.ctr("debian", this.#namespace, ["tasks", "rm", "--force", id]);
      await this.#daemon.ctr("debian", this.#namespace, ["containers", "rm", id]);
      await rm(join(this.#gates, id), { force: true });
      await rm(join(this.#gates, `${id}-e`), { force: true });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client[Symbol.asyncDispose]();
  }
}
