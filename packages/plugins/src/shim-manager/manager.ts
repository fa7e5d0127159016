import { lstat, readdir, realpath, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  backgroundContext,
  ClassifiedError,
  classified,
  decodeText,
  errorClassOf,
  isErrorClass,
  type Logger,
  messageOf,
  type RequestContext,
  requireNamespace,
  type Span,
  traced,
  withContext,
} from "@stevedore/base";
import { anyToProto } from "@stevedore/convert/any";
import { mountToProto } from "@stevedore/convert/mounts";
import { taskStatusFromProto } from "@stevedore/convert/tasks";
import { optionalDateFromProto, timestampToProto } from "@stevedore/convert/timestamps";
import type {
  AnyValue,
  Container,
  ContainerStore,
  EventExchange,
  ExecTask,
  ExitRecord,
  KnownTask,
  LocalCreateTask,
  LocalTaskManager,
  ProcessRef,
  ProcessState,
  SandboxStore,
  TaskIO,
  TaskMetric,
} from "@stevedore/core";
import { matcher } from "@stevedore/core/filters";
import { goQuote } from "@stevedore/core/go-quote";
import { validateIdentifier } from "@stevedore/core/identifiers";
import { KeyedLock } from "@stevedore/core/keyed-lock";
import { KEEPER_VARIABLE } from "@stevedore/keeper/protocol";
import { removeTree } from "@stevedore/os/blocking";
import { openFifoBoth } from "@stevedore/os/fifo";
import { SIGKILL } from "@stevedore/os/signals";
import { TaskDeleteSchema, TaskExitSchema } from "@stevedore/wire/gen/containerd/events/task_pb";
import { OptionsSchema } from "@stevedore/wire/gen/containerd/runc/v1/options_pb";
import type { StateResponse as StateResponseV2 } from "@stevedore/wire/gen/containerd/task/v2/shim_pb";
import type { StateResponse as StateResponseV3 } from "@stevedore/wire/gen/containerd/task/v3/shim_pb";
import type { CallOptions } from "@stevedore/wire/rpc/index";
import {
  type BootstrapRecord,
  BUNDLE_FILE,
  type Bundle,
  type BundleFolders,
  bundleOf,
  createBundle,
  deleteBundle,
  readBootstrap,
  readText,
  writeBootstrap,
} from "./bundle.ts";
import { cleanUpDead, cleanUpLater } from "./dead-shim.ts";
import { folders } from "./folders.ts";
import { FoundShims } from "./found-shims.ts";
import { KeeperLink } from "./keeper-link.ts";
import { RunningWork } from "./running-work.ts";
import { type RuntimeSearch, resolveRuntime } from "./runtime-path.ts";
import { apiRecord } from "./sandbox-address.ts";
import type { SandboxHosts } from "./sandbox-shims.ts";
import { type FoundBundle, settleBundles } from "./settle-bundles.ts";
import { type SharedKind, type SharedShim, SharedShims } from "./shared-shims.ts";
import { type DeadExit, ShimBinary, type ShimCallSettings } from "./shim-binary.ts";
import { isConnectionGone, ShimConnection, type TaskCall } from "./shim-client.ts";
import { readShimLog, type ShimLogSink } from "./shim-log.ts";
import { answers, removeSocketLeft } from "./shim-socket.ts";
import { SpareShim } from "./spare-shim.ts";
import { type Asked, isWithin, withoutStragglers } from "./stragglers.ts";
import { TaskEntry, TaskTable } from "./task-entry.ts";
import { untilAborted } from "./until-aborted.ts";

/** Limits in milliseconds, as `[timeouts]` of the config names them. The defaults are the peer's. */
export interface ShimTimeouts {
  /** `io.containerd.timeout.shim.load`: until a bundle found at start must be settled. */
  readonly load: number;
  /** `io.containerd.timeout.shim.cleanup` */
  readonly cleanup: number;
  /** `io.containerd.timeout.shim.shutdown` */
  readonly shutdown: number;
  /** `io.containerd.timeout.task.state` */
  readonly state: number;
  /** `io.containerd.timeout.metrics.shimstats` */
  readonly stats: number;
}

export const DEFAULT_TIMEOUTS: ShimTimeouts = {
  load: 5_000,
  cleanup: 5_000,
  shutdown: 3_000,
  state: 2_000,
  stats: 2_000,
};

export interface ShimManagerOptions extends BundleFolders, ShimCallSettings, RuntimeSearch {
  readonly containers: Pick<ContainerStore, "get">;
  /** Without it no container is in a sandbox. */
  readonly sandboxes?: { readonly store: Pick<SandboxStore, "get">; readonly hosts: SandboxHosts };
  readonly events: Pick<EventExchange, "publish" | "subscribe">;
  readonly timeouts?: ShimTimeouts;
  /** Where shims' own logs go; default the daemon's stderr, as in the peer. */
  readonly shimLog?: ShimLogSink;
  /** The command that starts a keeper; without it there is none, and shims are children of whoever reaps orphans here. */
  readonly keeper?: readonly string[];
  /** Whether the containers of a shim that died are taken over; false cleans up after it, as the peer does. Default true. */
  readonly adopt?: boolean;
  /** Whether a runtime's containers get a shim of their own each. */
  readonly isolated?: (runtime: string) => boolean;
  /** Whether a shim is started ahead for the next namespace that needs one. Default false. */
  readonly spare?: boolean;
  /** Whether a shim binary can be shared by containers; default: if it is this very program. */
  readonly sharesShims?: (path: string) => boolean;
}

/** Annotations that group containers in one shim by the shim's own rule. */
const GROUP_ANNOTATIONS = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/** The runtime whose shims are shared and kept ahead: clients' default. */
const USUAL_RUNTIME = "io.containerd.runc.v2";

/** Names of runtimes that are remembered with their shims' paths. */
const MAX_RUNTIME_NAMES = 256;

/** Label or annotation of a container that is to have a shim of its own: "true". */
const ISOLATED = "stevedore.isolated";

/** How long a shim may take to take a container over, milliseconds: it waits for runtimes that the dead one has called. */
const ADOPT_MS = 30_000;

/**
 * How long a list waits for a shim when all others have answered, milliseconds: many times what an answer takes, and what one
 * list takes longer when a shim has been stopped.
 */
const LIST_PATIENCE_MS = 100;

/** How long a shared shim may take to say that it is there before a container is given to another one, milliseconds. */
const PRESENCE_MS = 1_000;

/** So many that say nothing are passed by: where all are so slow, the machine is, and one more shim makes that worse. */
const MOST_SILENT = 3;

/** How often a container is tried to be taken over before what is left of it is cleaned up, and the first pause in between. */
const ADOPT_ATTEMPTS = 4;
const ADOPT_PAUSE_MS = 250;

/** For how long the socket of a process that is being killed may outlive its connections, milliseconds. */
const DYING_MS = 200;

/** Longest folder in which a socket named by 64 hex digits still fits sun_path (108 bytes with slash and NUL). */
const MAX_SOCKET_DIR = 42;

/** Where shims listen when the daemon's state folder has too long a name; the peer's folder. */
const FALLBACK_SOCKET_DIR = "/run/containerd/s";

/**
 * How long a create that its caller gave up may take to end, milliseconds: what it makes is taken down after, and a runtime
 * on a machine with too much to do takes its time.
 */
const ABANDONED_CREATE_MS = 30_000;

/** How long a delete waits for its shim to have told everybody, so that what a client deletes next is told of later. */
const DELETE_EVENT_MS = 500;

/** From this version of the task API on a shim can be a sandbox, as the peer has it. */
const SANDBOX_VERSION = 3;

/** How to reach the shim of a sandbox, and the program that it is. */
interface SandboxHost {
  readonly record: BootstrapRecord;
  readonly binaryPath: string;
}

/** The status of an exit that nobody saw. */
const UNKNOWN_STATUS = 255;

/**
 * Tasks by shims: one shim process per task, started by its runtime's binary and spoken to by ttrpc.
 *
 * Call {@link ShimTaskManager.load} once before any other call.
 */
export class ShimTaskManager implements LocalTaskManager {
  readonly #options: ShimManagerOptions;
  readonly #timeouts: ShimTimeouts;
  readonly #log: Logger;
  readonly #table = new TaskTable();
  /** Ids that create is working on, as `namespace/id`. */
  readonly #creating = new Set<string>();
  /** One change of a task at a time: delete and kill. */
  readonly #locks = new KeyedLock();
  readonly #shared: SharedShims;
  readonly #spare: SpareShim | undefined;
  readonly #keeper: KeeperLink;
  readonly #stop = new AbortController();
  #scanned: Promise<void> = Promise.resolve();
  #following: Promise<void> = Promise.resolve();
  /** Creates and deletes that run; their callers may be gone. */
  readonly #working = new RunningWork();
  readonly #runtimePaths = new Map<string, string>();

  constructor(options: ShimManagerOptions) {
    this.#keeper = new KeeperLink({
      command: options.keeper,
      socket: join(dirname(options.state), "keeper.sock"),
      grpcAddress: options.grpcAddress,
      env: options.env,
      log: options.log,
      replaced: () => this.#shared.retire(),
    });
    const { socket } = this.#keeper;
    this.#options = {
      ...options,
      socketDir: socketDirOf(options),
      env: { ...options.env, ...(socket === "" ? {} : { [KEEPER_VARIABLE]: socket }) },
      runStart: (argv, how) => this.#keeper.run(argv, how),
    };
    this.#timeouts = options.timeouts ?? DEFAULT_TIMEOUTS;
    this.#log = options.log;
    const spare = new SpareShim({
      path: async () => {
        if (this.#options.env["SCHED_CORE"] !== undefined || options.isolated?.(USUAL_RUNTIME) === true)
          return undefined;
        const path = await this.#runtimePath(USUAL_RUNTIME);
        return (await this.#isOurs(path)) ? path : undefined;
      },
      folder: "/",
      settings: () => this.#options,
      log: options.log,
    });
    this.#spare = options.spare === true ? spare : undefined;
    this.#shared = new SharedShims(options.log, this.#spare);
  }

  /**
   * Finds the tasks of an earlier daemon. Returns at once; calls that name a bundle on disk, and lists, wait for it.
   * Shims that cannot be reached any more are cleaned up after.
   */
  load(): void {
    void this.#keeper.client(); // there before the first task needs it
    this.#spare?.soon();
    this.#following = this.#followExits();
    this.#scanned = this.#scan().catch((error: unknown) =>
      this.#log.error("loading tasks", { error: messageOf(error) }),
    );
  }

  /** Resolves when every bundle found at the start is settled. */
  async loaded(): Promise<void> {
    await this.#scanned;
    await Promise.all(this.#table.list().map((entry) => settled(entry)));
  }

  /** Leaves all shims running and closes the connections to them. */
  async close(): Promise<void> {
    await this.#working.done(this.#timeouts.cleanup);
    this.#stop.abort();
    for (const entry of this.#table.list()) {
      entry.deleted = true;
      if (entry.shim.kind === "connected") entry.shim.connection.close();
    }
    // Before the tasks let go of them: a shim with containers goes on.
    await this.#shared.close();
    for (const entry of this.#table.list()) entry.over.abort();
    await this.#keeper.close();
    await this.#following;
  }

  async create(context: RequestContext, task: LocalCreateTask): Promise<{ readonly pid: number }> {
    const namespace = requireNamespace(context);
    const { containerId: id } = task;
    const container = await this.#options.containers.get(context, id);
    const exists = (): Error => classified("already-exists", `task ${id}: already exists`);
    await this.#find(context, id);
    const key = `${namespace}/${id}`;
    if (this.#table.get(namespace, id) !== undefined || this.#creating.has(key)) throw exists();
    this.#creating.add(key);
    const make = async (): Promise<{ readonly pid: number }> => {
      // Of a task and a sandbox of one id, whose shims would have one socket, at least one sees the other.
      if ((await this.#options.sandboxes?.hosts.has(context, id)) === true) throw exists();
      return this.#create(context, { task, container, namespace });
    };
    const work = make().finally(() => this.#creating.delete(key));
    return untilAborted(this.#working.track(work), context.signal);
  }

  async start(context: RequestContext, { containerId, execId }: ProcessRef): Promise<{ readonly pid: number }> {
    const entry = await this.#task(context, containerId);
    const { pid } = await this.#call(
      context,
      entry,
      (task, options) => task.start({ id: entry.id, execId }, options),
      // The shim that died may have started it.
      { done: async (task, options) => startedPid(await task.state({ id: entry.id, execId }, options)) },
    );
    if (execId === "") entry.last = { ...entry.last, pid, status: "running" };
    return { pid };
  }

  async delete(context: RequestContext, { containerId, execId }: ProcessRef): Promise<ExitRecord> {
    const namespace = requireNamespace(context);
    if (execId !== "") {
      const entry = await this.#task(context, containerId);
      const answer = await this.#call(
        context,
        entry,
        (task, options) => task.delete({ id: entry.id, execId }, options),
        {
          done: async (task, options) => {
            const found = await orNotFound(task.state({ id: entry.id, execId }, options));
            const told = entry.exits.get(execId);
            if (found !== undefined || told === undefined) return undefined;
            return { told };
          },
        },
      );
      const record = "told" in answer ? answer.told : exitRecord(execId, answer);
      entry.exits.forget(execId, record.pid);
      return record;
    }
    const lock = await this.#locks.acquire(`${namespace}/${containerId}`, context.signal);
    // It goes on when the caller has given up: half of a delete is a task that nobody sees and nobody ends.
    return untilAborted(
      this.#working.track(this.#deleteHolding(lock, { namespace, containerId, ...spanOf(context) })),
      context.signal,
    );
  }

  async #deleteHolding(
    lock: Disposable,
    {
      namespace,
      containerId,
      span,
    }: { readonly namespace: string; readonly containerId: string; readonly span?: Span },
  ): Promise<ExitRecord> {
    using _lock = lock;
    const context = backgroundContext({ namespace, ...(span === undefined ? {} : { span }) });
    const { id } = await this.#options.containers.get(context, containerId);
    const entry = await this.#task(context, id);
    try {
      return await this.#deleteTask(context, entry);
    } catch (error) {
      throw withContext("failed to delete task", error);
    }
  }

  async get(context: RequestContext, { containerId, execId }: ProcessRef): Promise<ProcessState> {
    const entry = await this.#task(context, containerId);
    return this.#state(context, entry, execId);
  }

  async list(context: RequestContext): Promise<readonly ProcessState[]> {
    const namespace = requireNamespace(context);
    await this.#scanned;
    const entries = this.#table.list(namespace);
    await Promise.all(entries.filter(isLoading).map((entry) => this.#settle(entry, context.signal)));
    const together = await this.#askTogether(context, entries);
    const asked = entries.map((entry): Asked<ProcessState | undefined> => {
      // Given up once already, and has not answered since.
      if (entry.unanswered !== undefined) return { answer: Promise.resolve(entry.last) };
      const answer = together.get(entry) ?? this.#listed(context, entry);
      // After a restart of the daemon nothing is known of a task but what its shim tells.
      if (entry.last.status === "unknown") return { answer };
      const instead = (): ProcessState => {
        this.#askOn(entry);
        return entry.last;
      };
      return { answer, instead };
    });
    return (await withoutStragglers(asked, LIST_PATIENCE_MS)).filter((state) => state !== undefined);
  }

  /** States of tasks that share a shim of ours, by one question to each shim: a thousand questions are most of what a list costs. */
  async #askTogether(
    context: RequestContext,
    entries: readonly TaskEntry[],
  ): Promise<ReadonlyMap<TaskEntry, Promise<ProcessState | undefined>>> {
    const answers = new Map<TaskEntry, Promise<ProcessState | undefined>>();
    const asked = entries.filter(({ shim, unanswered }) => shim.kind === "connected" && unanswered === undefined);
    const ours = new Map<string, boolean>();
    for (const { binary } of asked) if (!ours.has(binary.path)) ours.set(binary.path, await this.#isOurs(binary.path));
    const limits = { signal: context.signal, timeoutMs: this.#timeouts.state, ...spanOf(context) };
    for (const group of Map.groupBy(asked, ({ address }) => address ?? "").values()) {
      const [first] = group;
      if (group.length === 1 || first?.shim.kind !== "connected" || ours.get(first.binary.path) !== true) continue;
      const states = first.shim.connection.states(limits);
      for (const entry of group) answers.set(entry, this.#listedFrom(context, entry, states));
    }
    return answers;
  }

  /** A task's state as the answer for its whole shim has it; where that has none, its shim is asked for the one. */
  async #listedFrom(
    context: RequestContext,
    entry: TaskEntry,
    states: Promise<ReadonlyMap<string, StateResponseV3>>,
  ): Promise<ProcessState | undefined> {
    try {
      const answer = (await states).get(entry.id);
      if (answer !== undefined) return told(entry, answer);
    } catch (error) {
      if (context.signal.aborted) throw error;
      if (isErrorClass(error, "deadline-exceeded")) return this.#lastOf(entry, error);
      // A shim of an earlier version, or one that has just died.
      this.#log.debug("asking a shim for all of its states", { id: entry.id, error: messageOf(error) });
    }
    return this.#listed(context, entry);
  }

  /** A task's state for a list; undefined when it was deleted meanwhile. */
  async #listed(context: RequestContext, entry: TaskEntry): Promise<ProcessState | undefined> {
    try {
      return await this.#state(context, entry, "");
    } catch (error) {
      if (isErrorClass(error, "not-found")) return undefined;
      if (context.signal.aborted) throw error;
      return entry.last;
    }
  }

  async kill(
    context: RequestContext,
    { containerId, execId }: ProcessRef,
    signal: { readonly number: number; readonly all: boolean },
  ): Promise<void> {
    using _lock = await this.#locks.acquire(`${requireNamespace(context)}/${containerId}`, context.signal);
    const entry = await this.#task(context, containerId);
    await this.#call(
      context,
      entry,
      (task, options) => task.kill({ id: entry.id, execId, signal: signal.number, all: signal.all }, options),
      { insist: signal.number === SIGKILL },
    );
  }

  async exec(context: RequestContext, exec: ExecTask): Promise<void> {
    const { containerId, execId, io, spec } = exec;
    const entry = await this.#task(context, containerId);
    try {
      validateIdentifier(execId);
    } catch (error) {
      throw withContext(`invalid exec id ${execId}`, error);
    }
    await this.#call(
      context,
      entry,
      (task, options) => task.exec({ id: entry.id, execId, ...io, spec: anyToProto(spec) }, options),
      { done: async (task, options) => orNotFound(task.state({ id: entry.id, execId }, options)) },
    );
  }

  async resizePty(
    context: RequestContext,
    { containerId, execId }: ProcessRef,
    { width, height }: { readonly width: number; readonly height: number },
  ): Promise<void> {
    const entry = await this.#task(context, containerId);
    await this.#call(context, entry, (task, options) =>
      task.resizePty({ id: entry.id, execId, width, height }, options),
    );
  }

  async closeIo(
    context: RequestContext,
    { containerId, execId }: ProcessRef,
    { stdin }: { readonly stdin: boolean },
  ): Promise<void> {
    const entry = await this.#task(context, containerId);
    if (!stdin) return;
    await this.#call(context, entry, (task, options) => task.closeIO({ id: entry.id, execId, stdin }, options));
  }

  async pause(context: RequestContext, containerId: string): Promise<void> {
    const entry = await this.#task(context, containerId);
    await this.#call(context, entry, (task, options) => task.pause({ id: entry.id }, options), {
      done: async (task, options) => ifStatus("paused", await task.state({ id: entry.id }, options)),
    });
    entry.last = { ...entry.last, status: "paused" };
  }

  async resume(context: RequestContext, containerId: string): Promise<void> {
    const entry = await this.#task(context, containerId);
    await this.#call(context, entry, (task, options) => task.resume({ id: entry.id }, options), {
      done: async (task, options) => ifStatus("running", await task.state({ id: entry.id }, options)),
    });
    entry.last = { ...entry.last, status: "running" };
  }

  async pids(
    context: RequestContext,
    containerId: string,
  ): Promise<readonly { readonly pid: number; readonly info?: AnyValue }[]> {
    const entry = await this.#task(context, containerId);
    const { processes } = await this.#call(context, entry, (task, options) => task.pids({ id: entry.id }, options));
    return processes.map(({ pid, info }) =>
      info === undefined ? { pid } : { pid, info: { typeUrl: info.typeUrl, value: info.value } },
    );
  }

  async checkpoint(
    context: RequestContext,
    containerId: string,
    { path, options: extra }: { readonly path: string; readonly options?: AnyValue },
  ): Promise<void> {
    const entry = await this.#task(context, containerId);
    await this.#call(context, entry, (task, options) =>
      task.checkpoint({ id: entry.id, path, ...(extra === undefined ? {} : { options: anyToProto(extra) }) }, options),
    );
  }

  async update(
    context: RequestContext,
    containerId: string,
    {
      resources,
      annotations,
    }: { readonly resources: AnyValue; readonly annotations: Readonly<Record<string, string>> },
  ): Promise<void> {
    const entry = await this.#task(context, containerId);
    await this.#call(context, entry, (task, options) =>
      task.update({ id: entry.id, resources: anyToProto(resources), annotations: { ...annotations } }, options),
    );
  }

  known(): readonly KnownTask[] {
    return this.#table.list().map(({ id, bundle, last, binary, shim }) => ({
      namespace: bundle.namespace,
      id,
      pid: last.pid,
      status: shim.kind === "gone" ? "stopped" : last.status,
      shim: binary.path,
    }));
  }

  async metrics(context: RequestContext, filters: readonly string[]): Promise<readonly TaskMetric[]> {
    const namespace = requireNamespace(context);
    await this.#scanned;
    const matches = matcher<TaskEntry>(filters, (entry, [field]) => {
      if (field === "id") return entry.id;
      return field === "namespace" ? entry.bundle.namespace : undefined;
    });
    const collected = this.#table
      .list(namespace)
      .filter(matches)
      .map(async (entry): Promise<TaskMetric | undefined> => {
        if (entry.unanswered !== undefined) return undefined; // as when it does not answer in time, and everybody would wait
        const timestamp = new Date();
        try {
          const { stats } = await this.#call(context, entry, (task, options) => task.stats({ id: entry.id }, options), {
            timeoutMs: this.#timeouts.stats,
          });
          if (stats === undefined) return undefined;
          return { id: entry.id, timestamp, data: { typeUrl: stats.typeUrl, value: stats.value } };
        } catch (error) {
          if (context.signal.aborted) throw error;
          if (!isErrorClass(error, "not-found")) {
            this.#log.error(`collecting metrics for ${entry.id}`, { error: messageOf(error) });
          }
          if (isErrorClass(error, "deadline-exceeded")) this.#askOn(entry);
          return undefined;
        }
      });
    return (await Promise.all(collected)).filter((metric) => metric !== undefined);
  }

  async wait(context: RequestContext, { containerId, execId }: ProcessRef): Promise<ExitRecord> {
    const entry = await this.#task(context, containerId);
    const id = execId === "" ? entry.id : execId;
    for (;;) {
      const connection = await this.#connection(entry, context.signal);
      try {
        const answer = await connection.endless((task, options) => task.wait({ id: entry.id, execId }, options), {
          signal: context.signal,
        });
        const pid = entry.exits.get(id)?.pid ?? (execId === "" ? entry.last.pid : 0);
        const exit = { ...exitRecord(id, answer), pid };
        // Whoever is told of the end here must not find it running in a list, though its shim does not answer that.
        if (execId === "") {
          const { exitStatus, exitedAt } = exit;
          entry.last = { ...entry.last, status: "stopped", exitStatus, exitedAt };
        }
        return exit;
      } catch (error) {
        if (!isConnectionGone(error, connection) || entry.deleted) throw error;
        // The shim has gone: another one takes over, or what the clean-up finds out is the answer.
        const told = entry.exits.get(id);
        if (told !== undefined) return told;
        await this.#recovered(entry, connection, context.signal);
        if (entry.shim.kind === "gone") return { ...entry.shim.exit, id };
      }
    }
  }

  async #create(
    context: RequestContext,
    request: { readonly task: LocalCreateTask; readonly container: Container; readonly namespace: string },
  ): Promise<{ readonly pid: number }> {
    const { task, container, namespace } = request;
    const { containerId: id } = task;
    const bundle = await createBundle(this.#options, { namespace, id }, container.spec);
    await using undo = new AsyncDisposableStack();
    undo.defer(() =>
      deleteBundle(bundle).catch((error: unknown) =>
        this.#log.error("failed to delete bundle", { id, error: messageOf(error) }),
      ),
    );
    for (let isAgain = false; ; isAgain = true) {
      let entry: TaskEntry;
      try {
        entry = await traced(context, { name: "shim.start" }, async (inner) => this.#startShim(inner, bundle, request));
      } catch (error) {
        throw withContext("failed to start shim", error);
      }
      const { connection } = connected(entry);
      const options = chooseOptions(task.options, container.runtime.options);
      // Not ended by the caller's signal: a shim goes on with it in any case.
      const creating = connection.call(
        (client, callOptions) =>
          client.create(
            {
              id,
              bundle: bundle.path,
              rootfs: task.rootfs.map(mountToProto),
              ...task.io,
              checkpoint: task.checkpointPath ?? checkpointIn(task.options),
              ...(options === undefined ? {} : { options: anyToProto(options) }),
            },
            callOptions,
          ),
        spanOf(context),
      );
      let pid: number;
      try {
        ({ pid } = await untilAborted(creating, context.signal));
      } catch (error) {
        if (!isAgain && isConnectionGone(error, connection) && (await this.#hadNotBegun(entry))) {
          this.#log.info("a shim died before it was asked for a task, asking another one", { id });
          this.#shared.forget(connection.record.address);
          entry.over.abort();
          continue;
        }
        await this.#discard(entry, creating);
        throw withContext("failed to create shim task", error);
      }
      entry.last = { ...entry.last, pid, status: "created" };
      this.#table.add(entry);
      void this.#watch(entry, connection);
      undo.move();
      return { pid };
    }
  }

  /** Whether the shared shim of a task that is being made is dead and has not begun with it: a journal is what it makes first. */
  async #hadNotBegun({ shared, address, bundle }: TaskEntry): Promise<boolean> {
    if (shared === undefined || address === undefined) return false;
    const limit = performance.now() + DYING_MS;
    while (answers(address)) {
      if (performance.now() > limit) return false; // it lives, and may be at it
      await Bun.sleep(5);
    }
    return (await readText(join(bundle.path, BUNDLE_FILE.journal))) === undefined;
  }

  async #startShim(
    context: RequestContext,
    bundle: Bundle,
    request: { readonly task: LocalCreateTask; readonly container: Container },
  ): Promise<TaskEntry> {
    const { task, container } = request;
    const host = container.sandbox === "" ? undefined : await this.#sandboxHost(context, request);
    if (host !== undefined) return this.#joinSandbox(context, { bundle, host, request });
    const runtime = task.runtimePath === "" ? container.runtime.name : task.runtimePath;
    const path = await this.#runtimePath(runtime);
    const binary = new ShimBinary(path, bundle, this.#options);
    if (await this.#mayShare(path, { ...request, runtime }))
      return this.#joinShared(context, { bundle, binary, request });
    const over = new AbortController();
    readShimLog(bundle, { sink: this.#shimLog(), signal: over.signal, log: this.#log });
    let record: BootstrapRecord | undefined;
    try {
      const options = task.options ?? container.runtime.options;
      record = await this.#launch((cut) => binary.start(options, cut), context.signal).catch((error: unknown) => {
        throw withContext("start failed", error);
      });
      await writeFile(join(bundle.path, BUNDLE_FILE.shimBinary), path, { mode: 0o600 });
      await writeBootstrap(bundle, record);
      const connection = await ShimConnection.open(record, bundle.namespace, context.signal);
      const shim = { kind: "connected", connection } as const;
      const entry = new TaskEntry(bundle, { binary, shim, io: task.io, sandboxed: false });
      entry.over.signal.addEventListener("abort", () => over.abort(), { once: true });
      return entry;
    } catch (error) {
      // Its log is read until it has ended: Debian's shim waits for a reader when it begins.
      if (record !== undefined) await this.#endUnused(bundle, record);
      over.abort();
      throw error;
    }
  }

  /**
   * Has a shim started. A caller that gives up waits a little for that to end, since a start that is cut off in the middle
   * may leave a shim whose address nobody knows.
   */
  async #launch(start: (cut: AbortSignal) => Promise<BootstrapRecord>, signal: AbortSignal): Promise<BootstrapRecord> {
    signal.throwIfAborted();
    const cut = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const onAbort = (): void => {
      timer = setTimeout(() => cut.abort(signal.reason), this.#timeouts.cleanup);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await start(cut.signal);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Ends a shim that was started for a task that does not come, unless it has others (a group's). */
  async #endUnused({ namespace, id }: Bundle, record: BootstrapRecord): Promise<void> {
    const limit = AbortSignal.timeout(this.#timeouts.cleanup);
    try {
      const connection = await ShimConnection.open(record, namespace, limit);
      await connection.call((task, options) => task.shutdown({ id: "" }, options), { signal: limit });
      connection.close();
    } catch (error) {
      this.#log.warn("failed to end the shim of a task that was not made", { id, error: messageOf(error) });
    }
  }

  /** A task of ours lives in a shim with others of its namespace. */
  async #joinShared(
    context: RequestContext,
    made: {
      readonly bundle: Bundle;
      readonly binary: ShimBinary;
      readonly request: { readonly task: LocalCreateTask; readonly container: Container };
    },
  ): Promise<TaskEntry> {
    const { bundle, binary, request } = made;
    const { task, container } = request;
    const over = new AbortController();
    readShimLog(bundle, { sink: this.#shimLog(), signal: over.signal, log: this.#log });
    await using undo = new AsyncDisposableStack();
    undo.defer(() => over.abort());
    const start = (): Promise<BootstrapRecord> =>
      this.#launch((cut) => binary.startShared(task.options ?? container.runtime.options, cut), context.signal);
    const note = async (record: BootstrapRecord): Promise<void> => {
      await Promise.all([
        writeFile(join(bundle.path, BUNDLE_FILE.shimBinary), binary.path, { mode: 0o600 }),
        writeFile(join(bundle.path, BUNDLE_FILE.shared), "", { mode: 0o600 }),
        writeBootstrap(bundle, record),
      ]);
    };
    const kind = await kindOf(binary, bundle);
    const found = await this.#connectShared(kind, { start, note }, context.signal).catch((error: unknown) => {
      throw withContext("start failed", error);
    });
    const { shared, connection } = found;
    undo.defer(() => this.#shared.release(shared));
    undo.defer(() => connection.close());
    const entry = new TaskEntry(bundle, {
      binary,
      shim: { kind: "connected", connection },
      io: task.io,
      sandboxed: false,
    });
    this.#useShared(entry, shared);
    entry.over.signal.addEventListener("abort", () => over.abort(), { once: true });
    undo.move();
    return entry;
  }

  /**
   * A shared shim and a connection to it. One that has died a moment ago is not yet known to have, so it is tried twice; one that
   * is stopped takes connections but would keep the container for as long as it is, so it is asked whether it is there.
   *
   * @param doing.note writes down whose the container is, while the shim is asked
   */
  async #connectShared(
    kind: SharedKind,
    doing: {
      readonly start: () => Promise<BootstrapRecord>;
      readonly note?: (record: BootstrapRecord) => Promise<void>;
    },
    signal: AbortSignal,
  ): Promise<{ readonly shared: SharedShim; readonly connection: ShimConnection }> {
    let dead = 0;
    let silent = 0;
    for (;;) {
      const shared = await this.#shared.acquire(kind, doing.start, signal);
      const { address } = shared.record;
      await using undo = new AsyncDisposableStack();
      undo.defer(() => this.#shared.release(shared));
      let connection: ShimConnection;
      try {
        connection = await ShimConnection.open(shared.record, kind.namespace, signal);
      } catch (error) {
        if (signal.aborted) throw error;
        this.#shared.forget(address);
        dead++;
        if (dead > 1) throw error;
        continue;
      }
      const answer = this.#present(connection);
      undo.defer(() => void answer.then(() => connection.close()));
      const isThere = silent === MOST_SILENT || untilAborted(isWithin(answer, PRESENCE_MS), signal);
      const [taken] = await Promise.all([isThere, doing.note?.(shared.record)]);
      if (taken) {
        undo.move();
        return { shared, connection };
      }
      silent++;
      this.#log.warn("a shared shim does not answer, asking another one", { address });
      this.#shared.avoid(address, answer);
    }
  }

  /** Resolves when a shim has said something, if only that it is gone. */
  async #present(connection: ShimConnection): Promise<void> {
    try {
      await connection.call((task, options) => task.connect({ id: "" }, options), {});
    } catch (error) {
      this.#log.debug("asking a shim whether it is there", { error: messageOf(error) });
    }
  }

  /** Gives the shim back when the task leaves the table. */
  #useShared(entry: TaskEntry, shared: SharedShim): void {
    entry.shared = shared;
    entry.over.signal.addEventListener("abort", () => this.#shared.release(shared), { once: true });
  }

  /**
   * Whether a container may have its shim in common with others: the shim must be ours, and nothing may ask for one with
   * properties of its own (a cgroup, a core scheduling cookie, a group).
   */
  async #mayShare(
    path: string,
    {
      task,
      container,
      runtime,
    }: { readonly task: LocalCreateTask; readonly container: Container; readonly runtime: string },
  ): Promise<boolean> {
    if (this.#options.env["SCHED_CORE"] !== undefined || !(await this.#isOurs(path))) return false;
    if (container.labels[ISOLATED] === "true" || this.#options.isolated?.(runtime) === true) return false;
    const options = chooseOptions(task.options, container.runtime.options);
    if (options !== undefined && options.value.byteLength > 0) {
      if (!options.typeUrl.endsWith(OptionsSchema.typeName)) return false;
      if (fromBinary(OptionsSchema, options.value).shimCgroup !== "") return false;
    }
    const spec = container.spec === undefined ? "" : decodeText(container.spec.value);
    if (RegExp(`"${ISOLATED}"\\s*:\\s*"true"`).test(spec)) return false;
    return !GROUP_ANNOTATIONS.some((name) => spec.includes(name));
  }

  /** Whether a shim binary is this very program, so that it knows how to be shared. */
  async #isOurs(path: string): Promise<boolean> {
    if (this.#options.sharesShims !== undefined) return this.#options.sharesShims(path);
    const [shim, self] = await Promise.all(
      [path, this.#options.self].map((one) => realpath(one).catch(() => undefined)),
    );
    return shim !== undefined && shim === self;
  }

  /** How shims are called, for those that are not tasks'. */
  get calls(): Pick<ShimCallSettings, "env" | "socketDir" | "runStart"> {
    const { env, socketDir, runStart } = this.#options;
    return { env, socketDir, ...(runStart === undefined ? {} : { runStart }) };
  }

  /** Whether another shim of this program takes over from one that died. */
  async adopts(path: string): Promise<boolean> {
    return this.#options.adopt !== false && (await this.#isOurs(path));
  }

  /** Whether there is a task of that id, or one is being made. */
  async has(context: RequestContext, id: string): Promise<boolean> {
    const entry = await this.#find(context, id);
    return entry !== undefined || this.#creating.has(`${requireNamespace(context)}/${id}`);
  }

  /**
   * Ends and deletes the tasks in the shim at an address, as their clients would: exits are told before deletes. What
   * fails is left to the end of the shim.
   */
  async endTasksAt(namespace: string, address: string): Promise<void> {
    await this.#scanned;
    const entries = this.#table.list(namespace).filter((entry) => entry.address === address);
    const ended = entries.map(async ({ id }) => {
      const context = backgroundContext({ namespace, signal: AbortSignal.timeout(this.#timeouts.cleanup) });
      const init = { containerId: id, execId: "" };
      try {
        await this.kill(context, init, { number: SIGKILL, all: true }).catch((error: unknown) => {
          if (!isErrorClass(error, "not-found")) throw error; // it has ended already
        });
        await this.wait(context, init);
        await this.delete(context, init);
      } catch (error) {
        this.#log.warn("failed to delete a task of a sandbox", { id, namespace, error: messageOf(error) });
      }
    });
    await Promise.all(ended);
  }

  /**
   * The shim of a container's sandbox. Undefined when the container gets a shim by its runtime's own rule: its sandbox has
   * no record (one of containerd 1.x), or its shim is too old to be a sandbox.
   *
   * @throws not-found when the sandbox does not run
   */
  async #sandboxHost(
    context: RequestContext,
    { task, container }: { readonly task: LocalCreateTask; readonly container: Container },
  ): Promise<SandboxHost | undefined> {
    const { sandbox, id } = container;
    const { sandboxes } = this.#options;
    try {
      if (sandboxes === undefined) return undefined;
      await sandboxes.store.get(context, sandbox);
    } catch (error) {
      if (!isErrorClass(error, "not-found")) throw error;
      this.#log.warn(`sandbox (id=${sandbox}) not found, maybe created from v1.x`, { id });
      return undefined;
    }
    const host =
      task.taskApi === undefined
        ? ((await sandboxes.hosts.find(context, sandbox)) ?? (await this.#taskHost(context, sandbox)))
        : { record: apiRecord(task.taskApi), binaryPath: await this.#runtimePath(container.runtime.name) };
    if (host === undefined) {
      throw classified("not-found", `can't find shim for sandbox ${sandbox}: not found`);
    }
    return host.record.version < SANDBOX_VERSION ? undefined : host;
  }

  /** A sandbox that is itself a task: CRI's, which has a container for nothing else. */
  async #taskHost(context: RequestContext, id: string): Promise<SandboxHost | undefined> {
    const entry = await this.#find(context, id);
    if (entry === undefined) return undefined;
    const { record } = await this.#connection(entry, context.signal);
    return { record, binaryPath: entry.binary.path };
  }

  /** A task of a sandbox lives in the sandbox's shim. */
  async #joinSandbox(
    context: RequestContext,
    made: {
      readonly bundle: Bundle;
      readonly host: SandboxHost;
      readonly request: { readonly task: LocalCreateTask; readonly container: Container };
    },
  ): Promise<TaskEntry> {
    const { bundle, host, request } = made;
    const { sandbox } = request.container;
    await writeFile(join(bundle.path, BUNDLE_FILE.sandbox), sandbox, { mode: 0o600 });
    await writeFile(join(bundle.path, BUNDLE_FILE.shimBinary), host.binaryPath, { mode: 0o600 });
    await writeBootstrap(bundle, host.record);
    let connection: ShimConnection;
    try {
      connection = await ShimConnection.open(host.record, bundle.namespace, context.signal);
    } catch (error) {
      throw withContext(`failed to load sandbox task ${goQuote(sandbox)}`, error);
    }
    const shim = { kind: "connected", connection } as const;
    const binary = new ShimBinary(host.binaryPath, bundle, this.#options);
    return new TaskEntry(bundle, { binary, shim, io: request.task.io, sandboxed: true });
  }

  /** Ends a shim whose create failed, with a deadline of its own: the caller's may be what ended the create. */
  async #discard(entry: TaskEntry, creating: Promise<unknown>): Promise<void> {
    entry.deleted = true;
    let { connection } = connected(entry);
    const limit = { timeoutMs: this.#timeouts.cleanup };
    const quietly = (error: unknown): void =>
      this.#log.debug("ending shim after a failed create", { id: entry.id, error: messageOf(error) });
    if (connection.isClosed) {
      // It died in the middle: what the runtime has made by then, or still makes, is taken down without it.
      await this.#cleanUpDead(entry, ADOPT_MS).catch(quietly);
      removeSocketLeft(entry.address, this.#log);
      await this.#keeper.drop(entry.bundle.namespace, entry.id);
      entry.over.abort();
      return;
    }
    if (!(await untilEnded(creating, entry.last.io))) {
      // The end of its connection tells a shim that nobody waits any more.
      connection.close();
      this.#log.warn("a create that was given up does not end", { id: entry.id });
      await entry.binary.delete(AbortSignal.timeout(this.#timeouts.cleanup)).catch(quietly);
      const again = AbortSignal.timeout(this.#timeouts.cleanup);
      connection = await ShimConnection.open(connection.record, entry.bundle.namespace, again).catch(
        (error: unknown) => {
          quietly(error);
          return connection;
        },
      );
    }
    await connection.call((task, options) => task.delete({ id: entry.id }, options), limit).catch(quietly);
    if (this.#mayShutDown(entry)) {
      await connection.call((task, options) => task.shutdown({ id: entry.id }, options), limit).catch(quietly);
    }
    connection.close();
    entry.over.abort();
  }

  async #deleteTask(context: RequestContext, entry: TaskEntry): Promise<ExitRecord> {
    const told = entry.untilDeleteTold();
    for (;;) {
      const connection = await this.#connection(entry, context.signal);
      let record: ExitRecord;
      try {
        const deleting = connection.call((task, options) => task.delete({ id: entry.id }, options), {
          signal: context.signal,
          ...spanOf(context),
        });
        record = exitRecord(entry.id, await this.#orKillStuck(deleting, entry, connection));
      } catch (error) {
        if (isConnectionGone(error, connection)) {
          await this.#recovered(entry, connection, context.signal);
          if (entry.shim.kind === "gone") return entry.shim.exit;
          continue;
        }
        // A shim that does not know the task has nothing left of it; the rest is still to be removed.
        if (!isErrorClass(error, "not-found")) throw error;
        await this.#remove(entry, connection);
        throw error;
      }
      await this.#remove(entry, connection, told);
      return record;
    }
  }

  /** Takes a deleted task out: from here on the end of its shim is no news. */
  async #remove(entry: TaskEntry, connection: ShimConnection, told?: Promise<void>): Promise<void> {
    entry.deleted = true;
    const tasks: Promise<unknown>[] = [
      ...(told === undefined ? [] : [untilAborted(told, AbortSignal.timeout(DELETE_EVENT_MS)).catch(() => undefined)]),
      deleteBundle(entry.bundle).catch((error: unknown) =>
        this.#log.error("failed to delete bundle", { id: entry.id, error: messageOf(error) }),
      ),
    ];
    if (this.#mayShutDown(entry)) tasks.push(this.#shutdown(entry, connection));
    await Promise.all(tasks);
    this.#table.remove(entry);
    connection.close();
  }

  /** Whether a task's shim is its own: not a sandbox's, and not in common with others. */
  #mayShutDown(entry: TaskEntry): boolean {
    if (entry.sandboxed || entry.shared !== undefined) return false;
    const { address } = connected(entry).connection.record;
    if (this.#shared.has(address)) return false;
    // After a restart of the daemon only the addresses tell which tasks share a shim.
    return !this.#table
      .list()
      .some(
        (other) =>
          other !== entry && other.shim.kind === "connected" && other.shim.connection.record.address === address,
      );
  }

  async #shutdown(entry: TaskEntry, connection: ShimConnection): Promise<void> {
    try {
      await connection.call((task, options) => task.shutdown({ id: entry.id }, options), {
        timeoutMs: this.#timeouts.shutdown,
      });
    } catch (error) {
      if (isConnectionGone(error, connection)) return;
      this.#log.error("failed to shutdown shim task and the shim might be leaked", {
        id: entry.id,
        error: messageOf(error),
      });
    }
  }

  /** Waits for the end of a shim's connection and sees to its task. */
  async #watch(entry: TaskEntry, connection: ShimConnection): Promise<void> {
    const { recovery } = entry;
    await connection.closed;
    try {
      if (entry.deleted || this.#stop.signal.aborted) return;
      this.#log.info("shim disconnected", { id: entry.id });
      await this.#recover(entry);
    } finally {
      recovery.resolve();
    }
  }

  /** After a shim's death: another one takes its task over, else what is left is cleaned up. */
  async #recover(entry: TaskEntry): Promise<void> {
    if (await this.#adopt(entry)) return;
    if (this.#stop.signal.aborted) return;
    await this.#cleanUpAfter(entry, { announce: true });
  }

  /** Resolves when what follows the end of a connection is done. */
  async #recovered(entry: TaskEntry, connection: ShimConnection, signal: AbortSignal): Promise<void> {
    while (entry.shim.kind === "connected" && entry.shim.connection === connection) {
      await untilAborted(entry.recovery.promise, signal);
      if (this.#stop.signal.aborted) throw classified("unavailable", "the daemon is stopping");
    }
    if (entry.shim.kind === "adopting") await untilAborted(entry.shim.settled, signal);
  }

  /** Whether another shim has the task now. */
  async #adopt(entry: TaskEntry): Promise<boolean> {
    const { bundle, id } = entry;
    if (!(await this.adopts(entry.binary.path))) return false;
    if ((await readText(join(bundle.path, BUNDLE_FILE.journal))) === undefined) return false;
    const before = entry.shim;
    const { promise, resolve } = Promise.withResolvers<void>();
    entry.shim = { kind: "adopting", settled: promise };
    try {
      const connection = await this.#adoptPersistently(entry);
      if (connection === undefined) {
        entry.shim = before;
        return false;
      }
      entry.recovery = Promise.withResolvers();
      entry.shim = { kind: "connected", connection };
      void this.#watch(entry, connection);
      return true;
    } catch (error) {
      entry.shim = before;
      this.#log.error("taking over the container of a dead shim", { id, error: messageOf(error) });
      return false;
    } finally {
      resolve();
    }
  }

  /** A container is at stake: what fails once (a new shim that dies too, a keeper that is just being replaced) is tried again. */
  async #adoptPersistently(entry: TaskEntry): Promise<ShimConnection | undefined> {
    for (let attempt = 1; ; attempt++) {
      try {
        const connection = await this.#adoptInto(entry);
        return connection;
      } catch (error) {
        if (attempt === ADOPT_ATTEMPTS || this.#stop.signal.aborted) throw error;
        this.#log.warn("taking over the container of a dead shim failed, trying again", {
          id: entry.id,
          error: messageOf(error),
        });
        await Bun.sleep(attempt * ADOPT_PAUSE_MS);
      }
    }
  }

  /** The connection to the shim that has taken a task over; undefined when there was nothing to take over. */
  async #adoptInto(entry: TaskEntry): Promise<ShimConnection | undefined> {
    const { bundle, binary, id } = entry;
    const { namespace } = bundle;
    const signal = AbortSignal.any([AbortSignal.timeout(ADOPT_MS), this.#stop.signal]);
    if (entry.sandboxed) return this.#adoptIntoSandbox(entry, signal);
    if (entry.address !== undefined && answers(entry.address)) {
      // Only the connection was lost: two shims must never have one container.
      const record = await readBootstrap(bundle);
      try {
        return await ShimConnection.open(record, namespace, signal);
      } catch (error) {
        // A shim that is being killed loses its connections a moment before its socket: then it is dead after all.
        if (signal.aborted || answers(entry.address)) throw error;
      }
    }
    removeSocketLeft(entry.address, this.#log);
    if (entry.address !== undefined) this.#shared.forget(entry.address);
    const context = backgroundContext({ namespace });
    const container = await orNotFound(this.#options.containers.get(context, id));
    const options = container?.runtime.options;
    await using undo = new AsyncDisposableStack();
    let connection: ShimConnection;
    let shared: SharedShim | undefined;
    if ((await readText(join(bundle.path, BUNDLE_FILE.shared))) === undefined) {
      connection = await ShimConnection.open(await binary.start(options, signal), namespace, signal);
    } else {
      const start = (): Promise<BootstrapRecord> => binary.startShared(options, signal);
      const found = await this.#connectShared(await kindOf(binary, bundle), { start }, signal);
      ({ shared, connection } = found);
      undo.defer(() => this.#shared.release(found.shared));
    }
    const { record } = connection;
    undo.defer(() => connection.close());
    const { adopted, pid, lost } = await connection.adopt({ id, bundle: bundle.path }, { signal });
    if (!adopted) {
      if (shared === undefined) await this.#endUnused(bundle, record);
      return undefined;
    }
    await writeBootstrap(bundle, record);
    entry.address = record.address;
    entry.last = { ...entry.last, pid };
    if (shared !== undefined) this.#useShared(entry, shared);
    undo.move();
    this.#log.warn("another shim has taken over from one that died", { id, namespace, pid, lost: lost.join("; ") });
    return connection;
  }

  /** The same for a task of a sandbox: its shim is the sandbox's, which is replaced first. */
  async #adoptIntoSandbox(entry: TaskEntry, signal: AbortSignal): Promise<ShimConnection | undefined> {
    const { bundle, id } = entry;
    const { namespace } = bundle;
    const host = await this.#hostOf(bundle, signal);
    if (host === undefined) return undefined;
    const connection = await ShimConnection.open(host.record, namespace, signal);
    await using undo = new AsyncDisposableStack();
    undo.defer(() => connection.close());
    const { adopted, pid, lost } = await connection.adopt({ id, bundle: bundle.path }, { signal });
    if (!adopted) return undefined;
    await writeBootstrap(bundle, host.record);
    entry.address = host.record.address;
    entry.last = { ...entry.last, pid };
    undo.move();
    this.#log.warn("the new shim of a sandbox has taken over a task", { id, namespace, pid, lost: lost.join("; ") });
    return connection;
  }

  /** The shim of the sandbox that a bundle names, once it is known what it is; undefined when there is none. */
  async #hostOf(bundle: Bundle, signal: AbortSignal): Promise<SandboxHost | undefined> {
    const sandbox = (await readText(join(bundle.path, BUNDLE_FILE.sandbox))) ?? "";
    const context = backgroundContext({ namespace: bundle.namespace, signal });
    return this.#options.sandboxes?.hosts.find(context, sandbox);
  }

  /** Cleans up after a shim that is gone: its binary's delete, the bundle, and the events nobody else sends. */
  async #cleanUpAfter(entry: TaskEntry, { announce }: { readonly announce: boolean }): Promise<void> {
    const { id } = entry;
    this.#log.warn("cleaning up after shim disconnected", { id });
    let found: DeadExit | undefined;
    let late = false;
    try {
      found = await this.#cleanUpDead(entry);
    } catch (error) {
      late = isErrorClass(error, "deadline-exceeded");
      this.#log.warn("failed to clean up after shim disconnected", { id, error: messageOf(error) });
    }
    const removeBundle = async (): Promise<void> =>
      deleteBundle(entry.bundle).catch((error: unknown) =>
        this.#log.error("failed to delete bundle", { id, error: messageOf(error) }),
      );
    // The task is over for everyone else after the time-out. Its bundle stays for as long as something is done about the rest; should the
    // daemon end meanwhile, the next one finds it.
    if (late) {
      const options = { limitMs: this.#timeouts.cleanup, log: this.#log, signal: this.#stop.signal };
      void cleanUpLater(entry.binary, entry.bundle, options).then(removeBundle, async (error: unknown) => {
        if (this.#stop.signal.aborted) return;
        this.#log.error("gave up cleaning up after a dead shim", { id, error: messageOf(error) });
        await removeBundle();
      });
    } else await removeBundle();
    removeSocketLeft(entry.address, this.#log);
    await this.#keeper.drop(entry.bundle.namespace, id);
    const told = entry.exits.get(id);
    const exit: ExitRecord =
      told ??
      (found === undefined
        ? { id, pid: entry.last.pid, exitStatus: UNKNOWN_STATUS, exitedAt: new Date() }
        : { id, pid: found.pid, exitStatus: found.exitStatus, exitedAt: found.exitedAt });
    entry.deleted = true;
    entry.setGone(exit);
    this.#table.remove(entry);
    if (!announce) return;
    const context = backgroundContext({ namespace: entry.bundle.namespace });
    const { pid, exitStatus } = exit;
    const exitedAt = timestampToProto(exit.exitedAt);
    if (told === undefined) {
      const reason = found === undefined ? "nobody saw the exit: its shim has gone" : "its shim has gone";
      this.#log.warn("task ended with its shim", { id, pid, exitStatus, reason });
      const event = create(TaskExitSchema, { containerId: id, id, pid, exitStatus, exitedAt });
      await this.#publish(context, "/tasks/exit", { typeUrl: event.$typeName, value: toBinary(TaskExitSchema, event) });
    }
    const event = create(TaskDeleteSchema, { containerId: id, pid, exitStatus, exitedAt });
    await this.#publish(context, "/tasks/delete", {
      typeUrl: event.$typeName,
      value: toBinary(TaskDeleteSchema, event),
    });
  }

  /** Has the binary of a dead shim clean up, for at most `limitMs` milliseconds besides what it waits for. */
  async #cleanUpDead({ binary, bundle }: TaskEntry, limitMs = this.#timeouts.cleanup): Promise<DeadExit> {
    return cleanUpDead(binary, bundle, { limitMs, log: this.#log });
  }

  /**
   * Takes out a bundle whose shim lives and knows no task of it: a daemon was killed in the middle of the create, and the end of its
   * connection cut the shim's off. What the runtime had made by then is taken down once the shim is at nothing any more.
   */
  async #removeUnknown(entry: TaskEntry, connection: ShimConnection): Promise<void> {
    entry.deleted = true;
    if (this.#mayShutDown(entry)) await this.#shutdown(entry, connection);
    await this.#cleanUpDead(entry).catch((error: unknown) =>
      this.#log.warn("failed to clean up what a create has left", { id: entry.id, error: messageOf(error) }),
    );
    await deleteBundle(entry.bundle).catch((error: unknown) =>
      this.#log.error("failed to delete bundle", { id: entry.id, error: messageOf(error) }),
    );
    await this.#keeper.drop(entry.bundle.namespace, entry.id);
    this.#table.remove(entry);
    connection.close();
  }

  /**
   * Takes out a task that its shim has deleted though nobody here has asked for it: a daemon did, and was killed before it heard of it,
   * and the shim still had the task when this one looked.
   */
  async #removeDeleted(entry: TaskEntry): Promise<void> {
    const { namespace } = entry.bundle;
    const { signal } = this.#stop;
    try {
      using _lock = await this.#locks.acquire(`${namespace}/${entry.id}`, signal);
      await this.#settle(entry, signal);
      if (entry.deleted || this.#table.get(namespace, entry.id) !== entry || entry.shim.kind !== "connected") return;
      const { connection } = entry.shim;
      const limit = { timeoutMs: this.#timeouts.state };
      const ask = connection.call((task, options) => task.state({ id: entry.id, execId: "" }, options), limit);
      if ((await orNotFound(ask)) !== undefined) return;
      this.#log.info("removing what is left of a task that a daemon before had deleted", { id: entry.id, namespace });
      await this.#removeUnknown(entry, connection);
    } catch (error) {
      this.#log.debug("looking at a task that was deleted", { id: entry.id, error: messageOf(error) });
    }
  }

  async #publish(context: RequestContext, topic: string, event: AnyValue): Promise<void> {
    await this.#options.events
      .publish(context, topic, event)
      .catch((error: unknown) => this.#log.error("publish event", { topic, error: messageOf(error) }));
  }

  /** Keeps what shims tell of exits, so that the end of a shim does not tell it again, and learns that deletes were told. */
  async #followExits(): Promise<void> {
    const context = backgroundContext({ signal: this.#stop.signal });
    try {
      const filters = ['topic=="/tasks/exit"', 'topic=="/tasks/delete"'];
      for await (const { namespace, topic, event } of this.#options.events.subscribe(context, filters)) {
        if (topic === "/tasks/delete") {
          const { containerId, id } = fromBinary(TaskDeleteSchema, event.value);
          const deleted = id === "" || id === containerId ? this.#table.get(namespace, containerId) : undefined;
          if (deleted?.setDeleteTold() === false) void this.#removeDeleted(deleted);
          continue;
        }
        const exit = fromBinary(TaskExitSchema, event.value);
        const entry = this.#table.get(namespace, exit.containerId);
        if (entry === undefined) continue;
        const { id, pid, exitStatus } = exit;
        const exitedAt = optionalDateFromProto(exit.exitedAt) ?? new Date();
        entry.exits.tell({ id, pid, exitStatus, exitedAt });
        if (id === entry.id) entry.last = { ...entry.last, pid, status: "stopped", exitStatus, exitedAt };
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#log.error("following task exits", { error: messageOf(error) });
    }
  }

  /** The state of a process as its shim tells it within the state time-out, else as it was last known. */
  async #state(context: RequestContext, entry: TaskEntry, execId: string): Promise<ProcessState> {
    try {
      const answer = await this.#call(
        context,
        entry,
        (task, options) => task.state({ id: entry.id, execId }, options),
        { timeoutMs: this.#timeouts.state },
      );
      return execId === "" ? told(entry, answer) : processState(entry.id, answer);
    } catch (error) {
      if (context.signal.aborted || execId !== "" || !isErrorClass(error, "deadline-exceeded")) throw error;
      return this.#lastOf(entry, error);
    }
  }

  /** What was last known of a task whose shim has not told in time. */
  #lastOf(entry: TaskEntry, error: unknown): ProcessState {
    this.#log.error(`get state for ${entry.id}`, { error: messageOf(error) });
    this.#avoidShimOf(entry);
    return entry.last;
  }

  /** Asks a shim that has not told a state in time once more and without a limit, so that it is known when it answers again. */
  #askOn(entry: TaskEntry): void {
    if (entry.unanswered !== undefined || entry.shim.kind !== "connected") return;
    const { connection } = entry.shim;
    const asking = async (): Promise<void> => {
      try {
        const answer = await connection.endless(
          (task, options) => task.state({ id: entry.id, execId: "" }, options),
          {},
        );
        entry.last = processState(entry.id, answer);
      } catch (error) {
        this.#log.debug("asking on for a state", { id: entry.id, error: messageOf(error) });
      } finally {
        entry.unanswered = undefined;
      }
    };
    entry.unanswered = asking();
  }

  /** A shim that has not answered within a limit gets no more containers until it does. */
  #avoidShimOf(entry: TaskEntry): void {
    this.#askOn(entry);
    if (entry.unanswered !== undefined && entry.address !== undefined)
      this.#shared.avoid(entry.address, entry.unanswered);
  }

  /**
   * A call of a task's shim. One that was cut off by the death of the shim is made again when another has taken over; what the
   * dead one may have done already is looked for first by `done`.
   */
  async #call<R extends Promise<unknown>, D = never>(
    context: RequestContext,
    entry: TaskEntry,
    make: TaskCall<R>,
    how: {
      readonly timeoutMs?: number;
      readonly done?: TaskCall<Promise<D | undefined>>;
      /** A shim that does not answer is killed. */
      readonly insist?: boolean;
    } = {},
  ): Promise<Awaited<R> | D> {
    const { timeoutMs, done, insist = false } = how;
    const limits = { signal: context.signal, ...(timeoutMs === undefined ? {} : { timeoutMs }), ...spanOf(context) };
    for (let again = false; ; again = true) {
      const connection = await this.#connection(entry, context.signal, timeoutMs);
      try {
        if (again && done !== undefined) {
          const before = await connection.call(done, limits);
          if (before !== undefined) return before;
        }
        const work = connection.call(make, limits);
        return await (insist ? this.#orKillStuck(work, entry, connection) : work);
      } catch (error) {
        if (isConnectionGone(error, connection)) {
          if (entry.deleted) throw taskNotFound(entry.id, error);
          await this.#recovered(entry, connection, context.signal);
          if (entry.shim.kind !== "connected") throw taskNotFound(entry.id, error);
          continue;
        }
        throw error instanceof ClassifiedError
          ? error
          : classified(errorClassOf(error), messageOf(error), { cause: error });
      }
    }
  }

  async #orKillStuck<T>(work: Promise<T>, entry: TaskEntry, connection: ShimConnection): Promise<T> {
    work.catch(() => undefined); // it may fail before anybody waits for it here
    if (!(await this.#isOurs(entry.binary.path))) return work;
    const { orKillStuck } = await import("./stuck-shim.ts");
    return orKillStuck(work, { id: entry.id, connection, log: this.#log });
  }

  async #connection(entry: TaskEntry, signal: AbortSignal, timeoutMs: number = ADOPT_MS): Promise<ShimConnection> {
    if (entry.shim.kind === "loading") await this.#settle(entry, signal);
    if (entry.shim.kind === "adopting") {
      const limit = AbortSignal.timeout(timeoutMs);
      await untilAborted(entry.shim.settled, AbortSignal.any([signal, limit])).catch((error: unknown) => {
        if (!limit.aborted) throw error;
        throw classified("deadline-exceeded", `task ${entry.id}: its shim has died, and is being replaced`);
      });
    }
    if (entry.shim.kind === "connected") return entry.shim.connection;
    if (entry.shim.kind === "gone") throw taskNotFound(entry.id);
    throw classified(
      "unavailable",
      `task ${entry.id}: its shim has not answered since the daemon started: unavailable`,
    );
  }

  /** Waits until a bundle found at the start is settled, at most for the load time-out. */
  async #settle(entry: TaskEntry, signal: AbortSignal): Promise<void> {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(this.#timeouts.load)]);
    await untilAborted(settled(entry), limit).catch((error: unknown) => {
      if (signal.aborted) throw error;
    });
  }

  /** @throws not-found in the peer's words */
  async #task(context: RequestContext, id: string): Promise<TaskEntry> {
    // The peer looks the container up first, and says so when there is none.
    const container = await this.#options.containers.get(context, id);
    const entry = await this.#find(context, container.id);
    if (entry === undefined) throw taskNotFound(container.id);
    return entry;
  }

  async #find(context: RequestContext, id: string): Promise<TaskEntry | undefined> {
    const namespace = requireNamespace(context);
    await untilAborted(this.#scanned, context.signal);
    const entry = this.#table.get(namespace, id);
    if (entry?.shim.kind !== "loading") return entry;
    await this.#settle(entry, context.signal);
    return this.#table.get(namespace, id);
  }

  async #runtimePath(runtime: string): Promise<string> {
    const known = this.#runtimePaths.get(runtime);
    if (known !== undefined) return known;
    let path: string;
    try {
      path = await resolveRuntime(runtime, this.#options);
    } catch (error) {
      throw withContext("failed to resolve runtime path", error);
    }
    // Any number of names leads to one shim.
    if (this.#runtimePaths.size >= MAX_RUNTIME_NAMES) this.#runtimePaths.clear();
    this.#runtimePaths.set(runtime, path);
    return path;
  }

  #shimLog(): ShimLogSink {
    return (
      this.#options.shimLog ??
      ((bytes) => {
        process.stderr.write(bytes);
      })
    );
  }

  /** Enters every bundle on disk as loading, then settles them, several at a time. */
  async #scan(): Promise<void> {
    const { state } = this.#options;
    const found: FoundBundle<TaskEntry>[] = [];
    await this.#removeHidden();
    for (const namespace of await folders(state)) {
      const ids = await folders(join(state, namespace));
      found.push(...(await Promise.all(ids.map((id) => this.#lookAt(bundleOf(this.#options, namespace, id))))));
    }
    for (const { entry } of found) this.#table.add(entry);
    void this.#settleAll(found);
  }

  /** A bundle as a task that is still loading. */
  async #lookAt(bundle: Bundle): Promise<FoundBundle<TaskEntry>> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const io = { stdin: "", stdout: "", stderr: "", terminal: false };
    const [mark, path] = await Promise.all([readText(join(bundle.path, BUNDLE_FILE.sandbox)), this.#binaryOf(bundle)]);
    const binary = new ShimBinary(path, bundle, this.#options);
    const shim = { kind: "loading", settled: promise } as const;
    return { entry: new TaskEntry(bundle, { binary, shim, io, sandboxed: mark !== undefined }), release: resolve };
  }

  async #settleAll(found: readonly FoundBundle<TaskEntry>[]): Promise<void> {
    const shims = new FoundShims();
    await settleBundles(
      found,
      async (entry) => this.#loadOne(entry, shims),
      ({ id }, error) => this.#log.error(`unable to load shim ${JSON.stringify(id)}`, { error: messageOf(error) }),
    );
    await this.#removeStaleWork().catch((error: unknown) =>
      this.#log.error("cleanup working directory", { error: messageOf(error) }),
    );
  }

  async #loadOne(entry: TaskEntry, shims: FoundShims): Promise<void> {
    const { bundle } = entry;
    const { namespace } = bundle;
    if ((await readdir(bundle.path)).length === 0 || entry.binary.path === "") {
      this.#table.remove(entry);
      await deleteBundle(bundle);
      return;
    }
    if (entry.sandboxed) {
      // Before its shim is looked for: the sandbox may be given another one, at the same address.
      await this.#hostOf(bundle, AbortSignal.timeout(ADOPT_MS)).catch((error: unknown) =>
        this.#log.debug("looking for the sandbox of a task", { id: entry.id, error: messageOf(error) }),
      );
    }
    let connection: ShimConnection;
    try {
      const record = await readBootstrap(bundle);
      entry.address = record.address;
      connection = await shims.connect(record, namespace, AbortSignal.timeout(this.#timeouts.load));
    } catch (error) {
      this.#log.error(`unable to load shim ${JSON.stringify(entry.id)}`, { namespace, error: messageOf(error) });
      // A shim that is there and takes no connection now (it is stopped, or busy) must not lose its container.
      if (entry.address !== undefined && answers(entry.address)) return;
      if (await this.#adopt(entry)) {
        readShimLog(bundle, { sink: this.#shimLog(), signal: entry.over.signal, log: this.#log });
        return;
      }
      // Nobody was told of this task by us, so nobody is told of its end: clients find it missing.
      await this.#cleanUpAfter(entry, { announce: false });
      return;
    }
    entry.shim = { kind: "connected", connection };
    readShimLog(bundle, { sink: this.#shimLog(), signal: entry.over.signal, log: this.#log });
    void this.#watch(entry, connection);
    const limit = { timeoutMs: this.#timeouts.load };
    try {
      if (await this.#isOurs(entry.binary.path)) {
        const state = await shims.state(connection.record, entry.bundle, this.#timeouts.load);
        if (state !== undefined) {
          told(entry, state);
          return;
        }
      }
      const { taskPid } = await connection.call((task, options) => task.connect({ id: entry.id }, options), limit);
      entry.last = { ...entry.last, pid: taskPid };
      if (taskPid === 0 && !(await hasProcesses(connection, entry.id, limit))) {
        if (entry.sandboxed && (await this.adopts(entry.binary.path))) {
          const { adopted, pid } = await connection.adopt({ id: entry.id, bundle: bundle.path }, limit);
          entry.last = { ...entry.last, pid };
          if (adopted) return;
        }
        this.#log.info("cleaning leaked shim process", { id: entry.id, namespace });
        await this.#removeUnknown(entry, connection);
      }
    } catch (error) {
      // It listens but does not answer (it may be stopped): it stays, and calls fail by their own deadlines.
      this.#log.error(`shim ${JSON.stringify(entry.id)} does not answer`, { namespace, error: messageOf(error) });
    }
  }

  /** The shim binary a bundle was started with, or the one its container's runtime names; "" when neither is known. */
  async #binaryOf(bundle: Bundle): Promise<string> {
    const kept = await readText(join(bundle.path, BUNDLE_FILE.shimBinary));
    try {
      if (kept !== undefined && kept !== "")
        return await this.#runtimePath(kept.includes("/") ? kept : runtimeOf(kept));
      const context = backgroundContext({ namespace: bundle.namespace });
      const container = await this.#options.containers.get(context, bundle.id);
      return await this.#runtimePath(container.runtime.name);
    } catch (error) {
      this.#log.error(`loading container ${bundle.id}`, { error: messageOf(error) });
      return "";
    }
  }

  /** Bundles and working folders that a daemon was removing when it ended. Before anything is deleted here, so that nobody else is at them. */
  async #removeHidden(): Promise<void> {
    for (const parent of [this.#options.state, this.#options.root]) {
      for (const namespace of await folders(parent)) {
        for (const name of await folders(join(parent, namespace), { hidden: true })) {
          const path = join(parent, namespace, name);
          await removeTree(path).catch((error: unknown) => {
            this.#log.warn(`failed to remove ${path}, which was being removed`, { error: messageOf(error) });
          });
        }
      }
    }
  }

  /** Working folders without a bundle: what a reboot leaves, since the state is gone then. */
  async #removeStaleWork(): Promise<void> {
    const { root } = this.#options;
    for (const namespace of await folders(root)) {
      for (const id of await folders(join(root, namespace))) {
        if (this.#table.get(namespace, id) !== undefined || this.#creating.has(`${namespace}/${id}`)) continue;
        await removeTree(join(root, namespace, id));
      }
    }
  }
}

/** Where shims listen unless configured: `s` in the daemon's state folder, as the peer's default is. */
function socketDirOf({ socketDir, state }: ShimManagerOptions): string {
  if (socketDir !== "") return socketDir;
  const beside = join(dirname(state), "s");
  return beside.length <= MAX_SOCKET_DIR ? beside : FALLBACK_SOCKET_DIR;
}

/**
 * Waits for the end of a create whose caller has gone. Debian's shim waits in it for the other ends of FIFOs, which nobody
 * opens any more: we do, until it has ended.
 *
 * @returns false when it takes too long.
 */
async function untilEnded(creating: Promise<unknown>, { stdin, stdout, stderr }: TaskIO): Promise<boolean> {
  using ends = new DisposableStack();
  for (const path of new Set([stdin, stdout, stderr])) {
    const found = path.startsWith("/") ? await lstat(path).catch(() => undefined) : undefined;
    if (found?.isFIFO() !== true) continue;
    try {
      ends.use(openFifoBoth(path));
    } catch {
      // Its owner has removed it.
    }
  }
  const ended = Promise.allSettled([creating]).then(() => true);
  return await untilAborted(ended, AbortSignal.timeout(ABANDONED_CREATE_MS)).catch(() => false);
}

/** What a call to a shim is to carry on of the caller's trace. */
function spanOf({ span }: RequestContext): { readonly span?: Span } {
  return span === undefined ? {} : { span };
}

function settled(entry: TaskEntry): Promise<void> {
  return entry.shim.kind === "loading" ? entry.shim.settled : Promise.resolve();
}

function isLoading({ shim }: TaskEntry): boolean {
  return shim.kind === "loading";
}

/** Takes what a shim has told of a task's first process. */
function told(entry: TaskEntry, answer: StateResponseV2 | StateResponseV3): ProcessState {
  const state = processState(entry.id, answer);
  // An answer that was under way when the end was told does not bring it back.
  if (state.status === "stopped" || entry.exits.get(entry.id) === undefined) entry.last = state;
  return entry.last;
}

function connected(entry: TaskEntry): { readonly connection: ShimConnection } {
  if (entry.shim.kind === "connected") return entry.shim;
  throw classified("internal", `task ${entry.id}: shim is ${entry.shim.kind}, want connected`);
}

function taskNotFound(id: string, cause?: unknown): Error {
  return classified("not-found", `task ${id} not found`, cause === undefined ? {} : { cause });
}

/** Earlier daemons kept the binary's bare name. */
function runtimeOf(binaryName: string): string {
  return `io.containerd.${binaryName.replace(/^containerd-shim-/, "").replaceAll("-", ".")}`;
}

async function hasProcesses(connection: ShimConnection, id: string, limit: CallOptions): Promise<boolean> {
  try {
    const { processes } = await connection.call((task, options) => task.pids({ id }, options), limit);
    return processes.length > 0;
  } catch (error) {
    return !isErrorClass(error, "not-found");
  }
}

/** The task's own options when they say anything, else the container's. */
function chooseOptions(own: AnyValue | undefined, containers: AnyValue | undefined): AnyValue | undefined {
  return own !== undefined && own.value.byteLength > 0 ? own : containers;
}

/** The checkpoint folder that runc options may name. */
function checkpointIn(options: AnyValue | undefined): string {
  if (options === undefined || !options.typeUrl.endsWith(OptionsSchema.typeName)) return "";
  return fromBinary(OptionsSchema, options.value).criuImagePath;
}

/**
 * What containers of one shim must have in common: the very binary and the namespace. Address, environment, log level, cgroup and OOM
 * score are the same for all that this daemon starts, and it shares none that another has started; the runtime's root is told with
 * each container.
 */
async function kindOf(binary: ShimBinary, { namespace }: Bundle): Promise<SharedKind> {
  return { path: binary.path, fileKey: await binary.fileKey(), namespace };
}

/** The answer, or undefined when there is no such thing. */
async function orNotFound<P extends Promise<unknown>>(answer: P): Promise<Awaited<P> | undefined> {
  try {
    const found = await answer;
    return found;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return undefined;
    throw error;
  }
}

function startedPid(state: StateResponseV2 | StateResponseV3): { readonly pid: number } | undefined {
  return taskStatusFromProto(state.status) === "created" ? undefined : { pid: state.pid };
}

function ifStatus(status: ProcessState["status"], state: StateResponseV2 | StateResponseV3): object | undefined {
  return taskStatusFromProto(state.status) === status ? {} : undefined;
}

interface ExitAnswer {
  readonly exitStatus: number;
  readonly exitedAt?: Parameters<typeof optionalDateFromProto>[0];
  readonly pid?: number;
}

function exitRecord(id: string, { pid = 0, exitStatus, exitedAt }: ExitAnswer): ExitRecord {
  return { id, pid, exitStatus, exitedAt: optionalDateFromProto(exitedAt) ?? new Date(0) };
}

function processState(containerId: string, answer: StateResponseV2 | StateResponseV3): ProcessState {
  const { id, pid, status, stdin, stdout, stderr, terminal, exitStatus } = answer;
  const exitedAt = optionalDateFromProto(answer.exitedAt);
  return {
    containerId,
    id,
    pid,
    status: taskStatusFromProto(status),
    io: { stdin, stdout, stderr, terminal },
    exitStatus,
    ...(exitedAt === undefined ? {} : { exitedAt }),
  };
}
