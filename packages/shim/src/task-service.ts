import { classified, messageOf } from "@stevedore/base/errors";
import { nanosOf } from "@stevedore/base/moment";
import type { MessageInitShape } from "@stevedore/wire/codec";
import type { StateResponseSchema } from "@stevedore/wire/gen/light/containerd/task/v3/shim_pb";
import type { Timestamp } from "@stevedore/wire/light/wkt";
import type { RecentEvent } from "./adopt.ts";
import { Container } from "./container.ts";
import type { EventPublisher } from "./events.ts";
import { type AnyBytes, decodeCheckpointOptions, decodeOptions } from "./options.ts";
import type { ContainerProcess, ProcessEnd, ProcessStatus, ShimContext } from "./process.ts";
import type { SocketLinks } from "./socket-links.ts";

/**
 * The task service of a shim, for all versions of the API: its messages are read by shape, and Task v2 and v3 have the
 * same ones.
 */

interface Target {
  readonly id: string;
}

interface ProcessTarget extends Target {
  readonly execId: string;
}

interface StreamFields {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

interface MountFields {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

interface CreateRequest extends Target, StreamFields {
  readonly bundle: string;
  readonly rootfs: readonly MountFields[];
  readonly checkpoint: string;
  readonly parentCheckpoint: string;
  readonly options?: AnyBytes | undefined;
}

interface ExecRequest extends ProcessTarget, StreamFields {
  readonly spec?: AnyBytes | undefined;
}

/** Numbers of containerd.v1.types.Status. */
const STATUS: Readonly<Record<ProcessStatus, 1 | 2 | 3 | 4 | 5>> = {
  created: 1,
  running: 2,
  stopped: 3,
  paused: 4,
  pausing: 5,
};

type StateAnswer = MessageInitShape<typeof StateResponseSchema>;
type StateFields = Omit<StateAnswer, "$typeName" | "$unknown">;

/** Go's zero time as the peer sends it: clients print it, and compare with it. */
const ZERO_TIME = { seconds: -62_135_596_800n, nanos: 0 };

type TimeFields = Pick<Timestamp, "seconds" | "nanos">;

/** A point in time as the wire has it. */
export function timestamp(date: Date | undefined): TimeFields {
  if (date === undefined) return ZERO_TIME;
  return { seconds: BigInt(Math.floor(date.getTime() / 1000)), nanos: nanosOf(date) };
}

export interface TaskServiceOptions {
  readonly shim: ShimContext;
  readonly events: EventPublisher;
  /** Id of the container whose end ends all others of the shim; undefined when there is no such container. */
  readonly shimId: string | undefined;
  /** Throws when no container may be made here any more. */
  readonly assertOpen?: () => void;
  /** Told of the containers that come and go. */
  readonly links?: Pick<SocketLinks, "add" | "remove">;
  /** Called once when a shutdown was asked for and no container is left. */
  readonly shutdown: () => void;
}

export class TaskService {
  readonly #shim: ShimContext;
  readonly #events: EventPublisher;
  readonly #shimId: string | undefined;
  readonly #shutdown: () => void;
  readonly #links: TaskServiceOptions["links"];
  readonly #assertOpen: () => void;
  readonly #containers = new Map<string, Container>();
  /** Ids that are being made, with a promise of the end of that. Calls for them wait. */
  readonly #creating = new Map<string, Promise<void>>();

  constructor(options: TaskServiceOptions) {
    this.#shim = options.shim;
    this.#events = options.events;
    this.#shimId = options.shimId;
    this.#shutdown = options.shutdown;
    this.#links = options.links;
    this.#assertOpen = options.assertOpen ?? (() => undefined);
  }

  /** Whether no container is here or being made. */
  get isEmpty(): boolean {
    return this.#containers.size === 0 && this.#creating.size === 0;
  }

  /** The containers that are here. */
  get containers(): readonly Container[] {
    return [...this.#containers.values()];
  }

  /** Resolves when no container is being made that was asked for before. */
  async settled(): Promise<void> {
    await Promise.all(this.#creating.values());
  }

  /** The bundle of a container that is here, if any. */
  get bundle(): string | undefined {
    return this.#containers.values().next().value?.bundle;
  }

  async create(request: CreateRequest): Promise<{ pid: number }> {
    const { id } = request;
    this.#assertOpen();
    if (this.#containers.has(id) || this.#creating.has(id)) {
      throw classified("already-exists", `container ${id}: already exists`);
    }
    const made = Promise.withResolvers<void>();
    this.#creating.set(id, made.promise);
    try {
      const container = await Container.create(
        {
          id,
          bundle: request.bundle,
          rootfs: request.rootfs,
          names: streams(request),
          options: await decodeOptions(request.options),
          checkpoint: request.checkpoint,
          parentCheckpoint: request.parentCheckpoint,
        },
        this.#shim,
      );
      this.#containers.set(id, container);
      this.#links?.add(id, container.bundle);
      const { pid } = container.init;
      this.#shim.log.debug("container created", { container: id, pid });
      this.#events.send("TaskCreate", {
        containerId: id,
        bundle: request.bundle,
        rootfs: request.rootfs.map((mount) => ({ ...mountFields(mount) })),
        io: streams(request),
        checkpoint: request.checkpoint,
        pid,
      });
      if (pid > 0) this.#watchInit(container);
      return { pid };
    } finally {
      this.#creating.delete(id);
      made.resolve();
    }
  }

  /** Takes over a container whose shim has died. Answers again for one that is here already. */
  async adopt({ id, bundle }: { readonly id: string; readonly bundle: string }): Promise<{
    adopted: boolean;
    pid: number;
    lost: string[];
  }> {
    await this.#creating.get(id);
    const here = this.#containers.get(id);
    if (here !== undefined) return { adopted: true, pid: here.init.pid, lost: [] };
    const made = Promise.withResolvers<void>();
    this.#creating.set(id, made.promise);
    try {
      const { adoptContainer } = await import("./adopt.ts");
      const found = await adoptContainer({ id, bundle }, this.#shim);
      if (found === undefined) return { adopted: false, pid: 0, lost: [] };
      const { container, lost } = found;
      this.#containers.set(id, container);
      this.#links?.add(id, bundle);
      for (const what of lost) this.#shim.log.warn("lost with the shim that died", { id, what });
      const { pid } = container.init;
      for (const event of found.recent) this.#tellAgain(container, event);
      for (const { exec, end, told } of found.execs) {
        if (end === undefined) container.watchAdopted(exec, (ended) => this.#sendExit(container, exec.id, ended));
        else if (!told) this.#sendExit(container, exec.id, end);
      }
      if (found.end === undefined || !found.told) this.#watchInit(container, found.end);
      if (container.init.status !== "stopped") {
        container.watchOom(() => this.#events.send("TaskOOM", { containerId: id }));
      }
      this.#shim.log.info("adopted a container", { id, pid, status: container.init.status });
      return { adopted: true, pid, lost: [...lost] };
    } finally {
      this.#creating.delete(id);
      made.resolve();
    }
  }

  /** Tells of what a dead shim may have had no time to tell; the daemon leaves out what it knows. */
  #tellAgain({ id: containerId, bundle, init }: Container, { what, exec: execId, pid, at }: RecentEvent): void {
    const events = this.#events;
    switch (what) {
      case "created":
        if (execId !== "") events.send("TaskExecAdded", { containerId, execId }, undefined, at);
        // The mounts that the root came from are not written down.
        else events.send("TaskCreate", { containerId, bundle, io: { ...init.names }, pid }, undefined, at);
        return;
      case "started":
        if (execId !== "") events.send("TaskExecStarted", { containerId, execId, pid }, undefined, at);
        else events.send("TaskStart", { containerId, pid }, undefined, at);
        return;
      case "paused":
      case "resumed":
        events.send(what === "paused" ? "TaskPaused" : "TaskResumed", { containerId }, undefined, at);
        return;
      default:
        what satisfies never;
    }
  }

  async start(request: ProcessTarget): Promise<{ pid: number }> {
    const container = await this.#container(request.id);
    const containerId = container.id;
    if (request.execId !== "") {
      const { execId } = request;
      const pid = await container.startExec(execId, {
        started: (started) => this.#events.send("TaskExecStarted", { containerId, execId, pid: started }),
        ended: (end) => this.#sendExit(container, execId, end),
      });
      return { pid };
    }
    const { init } = container;
    const begin = (): Promise<void> => init.start(() => this.#events.send("TaskStart", { containerId, pid: init.pid }));
    if (init.pid > 0) await begin();
    else {
      // Restored: it may have ended before its pid is known here.
      await this.#shim.exits.expectingChild(async () => {
        await begin();
        this.#watchInit(container);
      });
    }
    container.watchOom(() => this.#events.send("TaskOOM", { containerId }));
    return { pid: init.pid };
  }

  async delete(request: ProcessTarget): Promise<{ pid: number; exitStatus: number; exitedAt: TimeFields }> {
    const container = await this.#container(request.id);
    const deleted = await container.delete(request.execId);
    const { pid } = deleted;
    const exitStatus = deleted.end?.status ?? 0;
    const exitedAt = timestamp(deleted.end?.exitedAt);
    if (request.execId === "") {
      this.#containers.delete(request.id);
      this.#links?.remove(request.id);
      this.#events.send("TaskDelete", { containerId: container.id, pid, exitStatus, exitedAt });
    }
    return { pid, exitStatus, exitedAt };
  }

  async exec(request: ExecRequest): Promise<Record<string, never>> {
    const container = await this.#container(request.id);
    container.addExec({
      id: request.execId,
      names: streams(request),
      spec: request.spec?.value ?? new Uint8Array(),
    });
    this.#events.send("TaskExecAdded", { containerId: container.id, execId: request.execId });
    return {};
  }

  async resizePty(
    request: ProcessTarget & { readonly width: number; readonly height: number },
  ): Promise<Record<string, never>> {
    await (await this.#process(request)).resize(request);
    return {};
  }

  async state(request: ProcessTarget): Promise<StateFields> {
    const container = await this.#container(request.id);
    return stateOf(container, container.process(request.execId));
  }

  /** The state of each container's first process: a daemon asks once for all that share this shim. */
  states(): StateFields[] {
    return [...this.#containers.values()].map((container) => stateOf(container, container.init));
  }

  async pause(request: Target): Promise<Record<string, never>> {
    const container = await this.#container(request.id);
    await container.init.pause();
    this.#tellChange(container, "paused");
    return {};
  }

  async resume(request: Target): Promise<Record<string, never>> {
    const container = await this.#container(request.id);
    await container.init.resume();
    this.#tellChange(container, "resumed");
    return {};
  }

  /** Writes it down with the very time of its event, which tells a repetition from another pause. */
  #tellChange({ id: containerId, journal }: Container, what: "paused" | "resumed"): void {
    const at = new Date();
    journal.write({ what, at: at.getTime() });
    this.#events.send(what === "paused" ? "TaskPaused" : "TaskResumed", { containerId }, undefined, at);
  }

  async kill(
    request: ProcessTarget & { readonly signal: number; readonly all: boolean },
  ): Promise<Record<string, never>> {
    await (await this.#process(request)).kill(request.signal, request.all);
    return {};
  }

  async pids(request: Target): Promise<{ processes: { pid: number; info?: AnyBytes }[] }> {
    const container = await this.#container(request.id);
    const { execs } = container;
    const pids = await container.init.runtime.ps(container.id);
    const processes = pids.map(async (pid) => {
      const exec = execs.find((one) => one.pid === pid);
      return exec === undefined ? { pid } : { pid, info: await processDetails(exec.id) };
    });
    return { processes: await Promise.all(processes) };
  }

  async closeIO(request: ProcessTarget & { readonly stdin: boolean }): Promise<Record<string, never>> {
    const found = await this.#process(request);
    if (request.stdin) found.closeStdin();
    return {};
  }

  async checkpoint(
    request: Target & { readonly path: string; readonly options?: AnyBytes | undefined },
  ): Promise<Record<string, never>> {
    const { init, id } = await this.#container(request.id);
    await init.checkpoint(request.path, await decodeCheckpointOptions(request.options));
    this.#events.send("TaskCheckpointed", { containerId: id, checkpoint: request.path });
    return {};
  }

  async update(request: Target & { readonly resources?: AnyBytes | undefined }): Promise<Record<string, never>> {
    await (await this.#container(request.id)).init.update(request.resources?.value ?? new Uint8Array());
    return {};
  }

  async wait(request: ProcessTarget): Promise<{ exitStatus: number; exitedAt: TimeFields }> {
    const { status, exitedAt } = await (await this.#process(request)).ended;
    return { exitStatus: status, exitedAt: timestamp(exitedAt) };
  }

  async stats(request: Target): Promise<{ stats: AnyBytes }> {
    const { cgroup } = await this.#container(request.id);
    if (cgroup === undefined) throw classified("not-found", "cgroup does not exist: not found");
    const { readStats } = await import("./stats.ts");
    return { stats: await readStats(cgroup) };
  }

  async connect(request: Target): Promise<{ shimPid: number; taskPid: number; version: string }> {
    await this.#creating.get(request.id);
    return { shimPid: process.pid, taskPid: this.#containers.get(request.id)?.init.pid ?? 0, version: "" };
  }

  async shutdown(request: Target): Promise<Record<string, never>> {
    // What is being made is there in a moment, or has failed.
    await this.settled();
    // The end of the container a shim was made for ends the whole group.
    if (request.id === this.#shimId)
      for (const container of this.#containers.values()) await this.#endContainer(container);
    if (this.isEmpty) this.#shutdown();
    return {};
  }

  async #endContainer(container: Container): Promise<void> {
    if (container.id !== this.#shimId && !(await container.mustKillRest())) return;
    const { init, id } = container;
    const failed = (what: string) => (error: unknown) => {
      this.#shim.log.error(`failed to ${what} container id is ${id}`, { error: messageOf(error) });
    };
    await init.killAll().catch(failed("kill"));
    await init.runtime.delete(id, true).catch(failed("delete"));
    container.forget();
    this.#containers.delete(id);
    this.#links?.remove(id);
  }

  /** Waits for the making of it: whoever gives up a create must be able to delete what comes of it. */
  async #container(id: string): Promise<Container> {
    const making = this.#creating.get(id);
    if (making !== undefined) await making;
    const found = this.#containers.get(id);
    if (found === undefined) throw classified("not-found", "container not created: not found");
    return found;
  }

  async #process(target: ProcessTarget): Promise<ContainerProcess> {
    return (await this.#container(target.id)).process(target.execId);
  }

  /** @param known its end, when it is over already. */
  #watchInit(container: Container, known?: ProcessEnd): void {
    void this.#untilInitEnds(container, known).catch((error: unknown) =>
      this.#shim.log.error("failed to handle the exit of init", { id: container.id, error: messageOf(error) }),
    );
  }

  async #untilInitEnds(container: Container, known?: ProcessEnd): Promise<void> {
    const end = known ?? (await container.init.untilExit());
    if (await container.initEnded(end)) this.#sendExit(container, "", end);
  }

  #sendExit(container: Container, exec: string, end: ProcessEnd): void {
    const { pid, status: exitStatus, exitedAt } = end;
    const containerId = container.id;
    const id = exec === "" ? containerId : exec;
    if (end.source === "unknown") {
      this.#shim.log.warn("exit status unknown", { container: containerId, id, pid, reason: end.reason ?? "" });
    }
    this.#events.send("TaskExit", { containerId, id, pid, exitStatus, exitedAt: timestamp(exitedAt) }, () =>
      container.journal.write({ what: "told", exec, pid }),
    );
  }
}

function stateOf({ bundle }: Container, { id, pid, status, names, end }: ContainerProcess): StateFields {
  const exitStatus = end?.status ?? 0;
  return { id, bundle, pid, status: STATUS[status], ...names, exitStatus, exitedAt: timestamp(end?.exitedAt) };
}

function streams({ stdin, stdout, stderr, terminal }: StreamFields): StreamFields {
  return { stdin, stdout, stderr, terminal };
}

function mountFields({ type, source, target, options }: MountFields): MountFields & { options: string[] } {
  return { type, source, target, options: [...options] };
}

async function processDetails(execId: string): Promise<AnyBytes> {
  const [{ makeMessage, encodeMessage }, { ProcessDetailsSchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb"),
  ]);
  const details = makeMessage(ProcessDetailsSchema, { execId });
  return { typeUrl: ProcessDetailsSchema.typeName, value: encodeMessage(ProcessDetailsSchema, details) };
}
