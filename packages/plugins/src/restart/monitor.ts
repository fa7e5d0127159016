import {
  backgroundContext,
  classified,
  decodeText,
  isErrorClass,
  type Logger,
  messageOf,
  type RequestContext,
  withContext,
} from "@stevedore/base";
import {
  type Container,
  type ContainerStore,
  KeyedLock,
  type Mount,
  type NamespaceStore,
  type Snapshotter,
  type TaskIO,
  type TaskManager,
} from "@stevedore/core";
import { backOff, type Decision, decide, RESTART_LABEL, restartCount, SETTLED_MS, type TaskFacts } from "./policy.ts";

export interface RestartMonitorOptions {
  readonly namespaces: Pick<NamespaceStore, "list">;
  readonly containers: Pick<ContainerStore, "get" | "list">;
  readonly tasks: TaskManager;
  /** By name. */
  readonly snapshotters: ReadonlyMap<string, Pick<Snapshotter, "mounts">>;
  /** Sets a label of a container and announces the change. */
  readonly setLabel: (
    context: RequestContext,
    container: Container,
    label: { key: string; value: string },
  ) => Promise<void>;
  /** Ends of tasks from now on, until the signal ends. */
  readonly exits: (signal: AbortSignal) => AsyncIterable<{ readonly namespace: string; readonly containerId: string }>;
  /** Milliseconds between looks at all containers. */
  readonly intervalMs: number;
  readonly log: Logger;
}

/** Containers that are started or stopped at the same time: after a reboot there may be hundreds. */
const PARALLEL = 8;
/** How long a task may take to end after SIGKILL, milliseconds. */
const KILL_LIMIT_MS = 10_000;
const SIGKILL = 9;

/** What the monitor remembers of a container between looks. */
interface Memory {
  /** Restarts in a row that did not last. */
  failures: number;
  /** When it was started last, milliseconds of the steady clock. */
  startedAt: number;
  timer: ReturnType<typeof setTimeout> | undefined;
  /** Its task was created and not started at the last look: nobody may be about to start it any more. */
  seenCreated: boolean;
  /** The last complaint, which is not said again and again. */
  complaint: string;
}

/**
 * Keeps tasks in the state that their containers' labels ask for: looks at all of them every interval, and at one soon
 * after its task has ended. The labels are all it needs to know, so it goes on where an earlier daemon ended. Runs from
 * its making until it is disposed.
 */
export class RestartMonitor implements AsyncDisposable {
  readonly #options: RestartMonitorOptions;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  readonly #memories = new Map<string, Memory>();
  readonly #locks = new KeyedLock();
  readonly #working = new Set<Promise<void>>();
  readonly #looking: Promise<void>;
  readonly #following: Promise<void>;

  constructor(options: RestartMonitorOptions) {
    this.#options = options;
    this.#log = options.log;
    // Before the first look, so that no end between the two is missed.
    this.#following = this.#follow();
    this.#looking = this.#look();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    for (const { timer } of this.#memories.values()) clearTimeout(timer);
    await Promise.allSettled([this.#looking, this.#following, ...this.#working]);
  }

  async #look(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await this.#lookAtAll();
      } catch (error) {
        if (!signal.aborted) this.#log.error("reconcile", { error: messageOf(error) });
      }
      await pause(this.#options.intervalMs, signal);
    }
  }

  async #lookAtAll(): Promise<void> {
    const { namespaces, containers } = this.#options;
    const found: { namespace: string; id: string }[] = [];
    for (const { name: namespace } of await namespaces.list(this.#context(undefined))) {
      const filters = [`labels."${RESTART_LABEL.status}"`];
      for (const { id } of await containers.list(this.#context(namespace), filters)) found.push({ namespace, id });
    }
    const present = new Set(found.map(({ namespace, id }) => keyOf(namespace, id)));
    for (const [key, { timer }] of this.#memories) {
      if (present.has(key)) continue;
      clearTimeout(timer);
      this.#memories.delete(key);
    }
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let at = next++; at < found.length && !this.#stop.signal.aborted; at = next++) {
        const one = found[at];
        // One that waits for its back-off is looked at then, which is no later than the next look.
        if (one === undefined || this.#memories.get(keyOf(one.namespace, one.id))?.timer !== undefined) continue;
        await this.#lookAt(one.namespace, one.id, "interval");
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, worker));
  }

  /** Looks at a container soon after its task has ended. */
  async #follow(): Promise<void> {
    const { exits, containers, intervalMs } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        for await (const { namespace, containerId } of exits(signal)) {
          const container = await containers.get(this.#context(namespace), containerId).catch(() => undefined);
          if (container === undefined || !Object.hasOwn(container.labels, RESTART_LABEL.status)) continue;
          const memory = this.#memory(namespace, containerId);
          if (memory.timer !== undefined) continue;
          if (performance.now() - memory.startedAt >= SETTLED_MS) memory.failures = 0;
          memory.timer = setTimeout(
            () => {
              memory.timer = undefined;
              const work = this.#lookAt(namespace, containerId, "exit");
              this.#working.add(work);
              void work.finally(() => this.#working.delete(work));
            },
            backOff(memory.failures, intervalMs),
          );
        }
      } catch (error) {
        // It was too slow for the events; the next look at all finds what it missed.
        if (!signal.aborted) this.#log.warn("following exits", { error: messageOf(error) });
      }
      await pause(intervalMs, signal);
    }
  }

  /** Does what is to be done about a container. Never fails: another one's trouble is nobody else's. */
  async #lookAt(namespace: string, id: string, cause: "interval" | "exit"): Promise<void> {
    const { signal } = this.#stop;
    if (signal.aborted) return;
    const memory = this.#memory(namespace, id);
    const fields = { namespace, container: id };
    try {
      using _lock = await this.#locks.acquire(keyOf(namespace, id), signal);
      const context = this.#context(namespace);
      const container = await this.#options.containers.get(context, id).catch((error: unknown) => {
        if (isErrorClass(error, "not-found")) return undefined;
        throw error;
      });
      if (container === undefined) return;
      const task = await this.#factsOf(context, id);
      const decision = this.#decide(container, task, memory);
      if (decision === "start") {
        this.#log.info("restarting container", {
          ...fields,
          cause,
          status: task.exitStatus,
          failures: memory.failures,
        });
        await this.#start(context, container, task);
        memory.startedAt = performance.now();
        memory.failures += 1;
      } else if (decision === "stop") {
        this.#log.info("stopping container", fields);
        await this.#end(context, id, task);
      }
      memory.complaint = "";
    } catch (error) {
      if (signal.aborted) return;
      memory.failures += 1;
      const complaint = messageOf(error);
      if (complaint !== memory.complaint)
        this.#log.error("keep container in its state", { ...fields, error: complaint });
      memory.complaint = complaint;
    }
  }

  #decide(container: Container, task: TaskFacts, memory: Memory): Decision {
    const decision = decide(container.labels, task);
    const waits = decision === "start" && task.status === "created" && !memory.seenCreated;
    memory.seenCreated = task.status === "created";
    // Between a client's create and its start there is a moment that is none of our business.
    return waits ? "leave" : decision;
  }

  async #factsOf(context: RequestContext, id: string): Promise<TaskFacts> {
    try {
      const { status, exitStatus } = await this.#options.tasks.get(context, { containerId: id, execId: "" });
      return { status, exitStatus };
    } catch (error) {
      if (isErrorClass(error, "not-found")) return { status: "none", exitStatus: 0 };
      throw withContext("look at task", error);
    }
  }

  async #start(context: RequestContext, container: Container, task: TaskFacts): Promise<void> {
    const { tasks, setLabel } = this.#options;
    const { id, labels } = container;
    // All that may be wrong with the container, before what is left of its last task goes.
    const io = ioOf(container);
    const rootfs = await this.#rootfsOf(context, container);
    await setLabel(context, container, { key: RESTART_LABEL.count, value: String(restartCount(labels) + 1) });
    await this.#end(context, id, task);
    await tasks.create(context, { containerId: id, rootfs, io, runtimePath: "" });
    try {
      await tasks.start(context, { containerId: id, execId: "" });
    } catch (error) {
      await this.#end(context, id, { status: "created", exitStatus: 0 }).catch((left: unknown) =>
        this.#log.warn("delete task that did not start", { container: id, error: messageOf(left) }),
      );
      throw withContext("start task", error);
    }
  }

  async #rootfsOf(context: RequestContext, { snapshotter, snapshotKey }: Container): Promise<readonly Mount[]> {
    if (snapshotKey === "") return [];
    const found = this.#options.snapshotters.get(snapshotter);
    if (found === undefined) {
      throw classified("invalid-argument", `snapshotter not loaded: ${snapshotter}: invalid argument`);
    }
    return found.mounts(context, snapshotKey);
  }

  /** Ends a task, whatever state it is in, and deletes it. */
  async #end(context: RequestContext, id: string, task: TaskFacts): Promise<void> {
    const { tasks } = this.#options;
    const init = { containerId: id, execId: "" };
    if (task.status === "none") return;
    if (task.status !== "stopped") {
      const limited = { ...context, signal: AbortSignal.any([context.signal, AbortSignal.timeout(KILL_LIMIT_MS)]) };
      const ended = tasks.wait(limited, init);
      ended.catch(() => undefined);
      try {
        await tasks.kill(limited, init, { number: SIGKILL, all: true });
        // What is frozen does not die before it goes on.
        if (task.status === "paused" || task.status === "pausing")
          await tasks.resume(limited, id).catch(() => undefined);
      } catch (error) {
        if (!isErrorClass(error, "not-found")) throw withContext("kill task", error);
      }
      await ended.catch((error: unknown) => {
        if (!isErrorClass(error, "not-found")) throw withContext("wait for the killed task", error);
      });
    }
    try {
      await tasks.delete(context, init);
    } catch (error) {
      if (!isErrorClass(error, "not-found")) throw withContext("delete task", error);
    }
  }

  #memory(namespace: string, id: string): Memory {
    const key = keyOf(namespace, id);
    const known = this.#memories.get(key);
    if (known !== undefined) return known;
    const made: Memory = { failures: 0, startedAt: 0, timer: undefined, seenCreated: false, complaint: "" };
    this.#memories.set(key, made);
    return made;
  }

  #context(namespace: string | undefined): RequestContext {
    return backgroundContext({ signal: this.#stop.signal, ...(namespace === undefined ? {} : { namespace }) });
  }
}

function keyOf(namespace: string, id: string): string {
  return `${namespace}/${id}`;
}

/** The streams of a restarted task: its log, or none. @throws invalid-argument for a spec or URI that cannot be read */
function ioOf({ id, spec, labels }: Container): TaskIO {
  const uri = labels[RESTART_LABEL.logUri] ?? "";
  if (uri !== "" && !URL.canParse(uri)) {
    throw classified(
      "invalid-argument",
      `label ${RESTART_LABEL.logUri} of container ${id} is no URI: ${uri}: invalid argument`,
    );
  }
  let terminal: boolean;
  try {
    terminal = hasTerminal(JSON.parse(decodeText(spec?.value ?? new Uint8Array())));
  } catch (error) {
    throw classified("invalid-argument", `read the spec of container ${id}: ${messageOf(error)}: invalid argument`);
  }
  return { stdin: "", stdout: uri, stderr: terminal ? "" : uri, terminal };
}

function hasTerminal(spec: unknown): boolean {
  const process = field(spec, "process");
  if (process === undefined) throw classified("invalid-argument", "it has no process");
  return field(process, "terminal") === true;
}

function field(record: unknown, name: string): unknown {
  return typeof record === "object" && record !== null ? Reflect.get(record, name) : undefined;
}

/** Waits, shorter when the signal ends. */
async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const stop = (): void => resolve();
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", stop, { once: true });
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", stop);
}
