import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  backgroundContext,
  ClassifiedError,
  classified,
  errorClassOf,
  isErrorClass,
  type Logger,
  messageOf,
  type RequestContext,
  requireNamespace,
  withContext,
} from "@stevedore/base";
import { anyFromProto, anyToProto } from "@stevedore/convert/any";
import { mountToProto } from "@stevedore/convert/mounts";
import { sandboxExitFromProto, sandboxMetricFromProto, sandboxPlatformFromProto } from "@stevedore/convert/sandboxes";
import { optionalDateFromProto, timestampToProto } from "@stevedore/convert/timestamps";
import {
  type CreateSandbox,
  type EventExchange,
  goQuote,
  type SandboxController,
  type SandboxExit,
  type SandboxInstance,
  type SandboxMetric,
  type SandboxPlatform,
  type SandboxStatus,
  type SandboxStore,
} from "@stevedore/core";
import { KeyedLock } from "@stevedore/core/keyed-lock";
import { removeTree } from "@stevedore/os/blocking";
import { isListening } from "@stevedore/os/socket";
import { SandboxExitSchema } from "@stevedore/wire/gen/containerd/events/sandbox_pb";
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
import { folders } from "./folders.ts";
import type { ShimTimeouts } from "./manager.ts";
import { RunningWork } from "./running-work.ts";
import { type RuntimeSearch, resolveRuntime } from "./runtime-path.ts";
import { SandboxEntry, sandboxKey, sandboxNotFound } from "./sandbox-entry.ts";
import { type FoundBundle, settleBundles } from "./settle-bundles.ts";
import { ShimBinary, type ShimCallSettings } from "./shim-binary.ts";
import { isConnectionGone, type SandboxClient, ShimConnection } from "./shim-client.ts";
import { readShimLog, type ShimLogSink } from "./shim-log.ts";
import { removeSocketLeft, socketFile } from "./shim-socket.ts";
import { untilAborted } from "./until-aborted.ts";

/** What tasks need to know of sandboxes. */
export interface SandboxHosts {
  /** How to reach a sandbox's shim, and the program that it is; waits while one that died is replaced. */
  find(
    context: RequestContext,
    id: string,
  ): Promise<{ readonly record: BootstrapRecord; readonly binaryPath: string } | undefined>;
  /** Whether there is a sandbox of that id, or one is being made. */
  has(context: RequestContext, id: string): Promise<boolean>;
}

export interface SandboxShimsOptions extends ShimCallSettings, RuntimeSearch {
  /** `<state>/io.containerd.sandbox.controller.v1.shim` and the same under the root. */
  readonly folders: BundleFolders;
  /** Tells what a runtime is started with again. */
  readonly store: Pick<SandboxStore, "get">;
  readonly events: Pick<EventExchange, "publish">;
  readonly timeouts: ShimTimeouts;
  /** Where shims' own logs go; default the daemon's stderr, as in the peer. */
  readonly shimLog?: ShimLogSink;
  readonly tasks: {
    /** Whether there is a task of that id, whose shim would have the sandbox's socket. */
    has(context: RequestContext, id: string): Promise<boolean>;
    /** How shims of tasks are called: those of sandboxes as well. */
    readonly calls: Pick<ShimCallSettings, "env" | "socketDir" | "runStart">;
    /** Whether another shim of this program takes over from one that died. */
    adopts(path: string): Promise<boolean>;
    /** Ends and deletes the tasks that live in the shim at an address. */
    endTasksAt(namespace: string, address: string): Promise<void>;
  };
}

/** The status of an end that nobody saw. */
const UNKNOWN_STATUS = 255;

/** Ends that are remembered, so that a client that asks late is told; the oldest go first. */
const MAX_ENDS = 1_024;

const NOT_READY = "SANDBOX_NOTREADY";

/** How long a shim may take to take a sandbox over, milliseconds: as for tasks. */
const ADOPT_MS = 30_000;

/** What our shim keeps of its sandbox in the bundle. */
const RECORD_FILE = "sandbox.json";

/**
 * Sandboxes by shims: the shim that a sandbox's runtime starts is the sandbox, and the tasks of its containers live in it.
 *
 * Call {@link SandboxShims.load} once before any other call.
 */
export class SandboxShims implements SandboxController, SandboxHosts {
  readonly announcesExits = true;
  readonly #options: SandboxShimsOptions;
  readonly #log: Logger;
  readonly #table = new Map<string, SandboxEntry>();
  readonly #creating = new Set<string>();
  readonly #ends = new Map<string, SandboxExit>();
  readonly #locks = new KeyedLock();
  readonly #stop = new AbortController();
  readonly #working = new RunningWork();
  readonly #shimLog: ShimLogSink;
  #scanned: Promise<void> = Promise.resolve();

  constructor(options: SandboxShimsOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#shimLog = options.shimLog ?? toStderr;
  }

  /** Finds the sandboxes of an earlier daemon. Returns at once; calls that name one wait for it. */
  load(): void {
    this.#scanned = this.#scan().catch((error: unknown) =>
      this.#log.error("loading sandboxes", { error: messageOf(error) }),
    );
  }

  /** Resolves when every sandbox found at the start is settled. */
  async loaded(): Promise<void> {
    await this.#scanned;
    await Promise.all([...this.#table.values()].map(settled));
  }

  /** Leaves all sandboxes running and closes the connections to them. */
  async close(): Promise<void> {
    await this.#working.done(this.#options.timeouts.cleanup);
    this.#stop.abort();
    for (const entry of this.#table.values()) {
      entry.quiet = true;
      if (entry.shim.kind === "connected") entry.shim.connection.close();
      entry.over.abort();
    }
  }

  async has(context: RequestContext, id: string): Promise<boolean> {
    const entry = await this.#find(context, id);
    return entry !== undefined || this.#creating.has(sandboxKey(requireNamespace(context), id));
  }

  async find(
    context: RequestContext,
    id: string,
  ): Promise<{ readonly record: BootstrapRecord; readonly binaryPath: string } | undefined> {
    const entry = await this.#find(context, id, ADOPT_MS);
    return entry === undefined ? undefined : { record: entry.connection.record, binaryPath: entry.binary.path };
  }

  async create(context: RequestContext, request: CreateSandbox): Promise<void> {
    const namespace = requireNamespace(context);
    const { id } = request.sandbox;
    const key = sandboxKey(namespace, id);
    const exists = (): Error => classified("already-exists", `sandbox ${id} already running: already exists`);
    if ((await this.#find(context, id)) !== undefined || this.#creating.has(key)) throw exists();
    this.#creating.add(key);
    const make = async (): Promise<void> => {
      // Only now: of a sandbox and a task that are asked for together, at least one sees the other.
      if (await this.#options.tasks.has(context, id)) throw exists();
      await this.#create(context, request, namespace);
    };
    // It goes on when the caller has given up, and is undone then: half of a create is a shim that nobody knows.
    const work = make().finally(() => this.#creating.delete(key));
    await untilAborted(this.#working.track(work), context.signal);
  }

  async #create(context: RequestContext, request: CreateSandbox, namespace: string): Promise<void> {
    const { sandbox, rootfs, options, netnsPath, annotations } = request;
    const { id, runtime } = sandbox;
    const bundle = await createBundle(this.#options.folders, { namespace, id }, sandbox.spec);
    await using undo = new AsyncDisposableStack();
    undo.defer(() => this.#deleteBundle(bundle));
    let entry: SandboxEntry;
    try {
      entry = await this.#startShim(bundle, runtime);
    } catch (error) {
      throw withContext(`failed to start new shim for sandbox ${id}`, error);
    }
    undo.defer(async () => {
      await this.#end(entry);
      this.#forget(entry);
    });
    const { connection } = entry;
    entry.quiet = true;
    try {
      await this.#call(entry, context.signal, (client, callOptions) =>
        client.createSandbox(
          {
            sandboxId: id,
            bundlePath: bundle.path,
            rootfs: rootfs.map(mountToProto),
            ...(options === undefined ? {} : { options: anyToProto(options) }),
            netnsPath,
            annotations: { ...annotations },
          },
          callOptions,
        ),
      );
      context.signal.throwIfAborted();
    } catch (error) {
      if (isErrorClass(error, "not-implemented")) {
        throw classified(
          "not-implemented",
          `failed to create sandbox ${id}: shim ${entry.binary.path} has no sandbox service: not implemented`,
          { cause: error },
        );
      }
      throw withContext(`failed to create sandbox ${id}`, error);
    }
    undo.move();
    entry.quiet = false;
    this.#ends.delete(entry.key);
    this.#table.set(entry.key, entry);
    void this.#watch(entry, connection);
  }

  async #startShim(bundle: Bundle, runtime: CreateSandbox["sandbox"]["runtime"]): Promise<SandboxEntry> {
    const path = await resolveRuntime(runtime.name, this.#options).catch((error: unknown) => {
      throw withContext("failed to resolve runtime path", error);
    });
    const binary = this.#binary(path, bundle);
    const over = new AbortController();
    readShimLog(bundle, { sink: this.#shimLog, signal: over.signal, log: this.#log });
    try {
      const record = await binary.start(runtime.options, this.#stop.signal).catch((error: unknown) => {
        throw withContext("start failed", error);
      });
      await writeFile(join(bundle.path, BUNDLE_FILE.shimBinary), path, { mode: 0o600 });
      await writeBootstrap(bundle, record);
      const connection = await ShimConnection.open(record, bundle.namespace, this.#limit());
      const entry = new SandboxEntry(bundle, binary, { kind: "connected", connection });
      entry.over.signal.addEventListener("abort", () => over.abort(), { once: true });
      return entry;
    } catch (error) {
      over.abort();
      throw error;
    }
  }

  #binary(path: string, bundle: Bundle): ShimBinary {
    return new ShimBinary(path, bundle, { ...this.#options, ...this.#options.tasks.calls });
  }

  async start(context: RequestContext, id: string): Promise<SandboxInstance> {
    const entry = await this.#find(context, id);
    if (entry === undefined) throw classified("unknown", `unable to find sandbox ${goQuote(id)}`);
    let answer: Awaited<ReturnType<SandboxClient["startSandbox"]>>;
    try {
      answer = await this.#call(entry, context.signal, (client, options) =>
        client.startSandbox({ sandboxId: id }, options),
      );
    } catch (error) {
      if (!entry.started && !context.signal.aborted) await this.#working.track(this.#remove(entry));
      throw withContext(`failed to start sandbox ${id}`, error);
    }
    entry.started = true;
    const createdAt = optionalDateFromProto(answer.createdAt);
    return {
      id,
      pid: answer.pid,
      ...(createdAt === undefined ? {} : { createdAt }),
      labels: {},
      ...endpoint(entry.connection.record),
      ...(answer.spec === undefined ? {} : { spec: anyFromProto(answer.spec) }),
    };
  }

  async platform(context: RequestContext, id: string): Promise<SandboxPlatform> {
    const entry = await this.#sandbox(context, id);
    try {
      const { platform } = await this.#call(entry, context.signal, (client, options) =>
        client.platform({ sandboxId: id }, options),
      );
      return sandboxPlatformFromProto(platform);
    } catch (error) {
      throw withContext("failed to get sandbox platform", error);
    }
  }

  async stop(context: RequestContext, id: string, { timeoutSecs }: { readonly timeoutSecs: number }): Promise<void> {
    const entry = await this.#find(context, id);
    if (entry === undefined) return;
    try {
      await this.#call(entry, context.signal, (client, options) =>
        client.stopSandbox({ sandboxId: id, timeoutSecs }, options),
      );
    } catch (error) {
      if (isErrorClass(error, "not-found")) return; // it has ended meanwhile
      throw withContext("failed to stop sandbox", error);
    }
    const exit = await this.#exitOf(entry);
    if (exit !== undefined) await this.#tell(entry, exit);
  }

  /** How a sandbox that is to have ended did so; undefined when its shim does not say. */
  async #exitOf(entry: SandboxEntry): Promise<SandboxExit | undefined> {
    try {
      const answer = await this.#call(
        entry,
        this.#stop.signal,
        (client, options) => client.waitSandbox({ sandboxId: entry.id }, options),
        this.#options.timeouts.state,
      );
      return sandboxExitFromProto(answer);
    } catch {
      return undefined; // the end of its shim tells
    }
  }

  async wait(context: RequestContext, id: string): Promise<SandboxExit> {
    const entry = await this.#find(context, id);
    if (entry === undefined) {
      const ended = this.#ends.get(sandboxKey(requireNamespace(context), id));
      if (ended === undefined) throw sandboxNotFound(id);
      return ended;
    }
    for (;;) {
      const { connection } = entry;
      try {
        const answer = await connection.endlessSandbox(
          (client, options) => client.waitSandbox({ sandboxId: id }, options),
          { signal: context.signal },
        );
        const exit = sandboxExitFromProto(answer);
        await this.#tell(entry, exit);
        return exit;
      } catch (error) {
        if (!isConnectionGone(error, connection)) {
          throw withContext(`failed to wait sandbox ${id}`, asClassified(error));
        }
        await this.#recovered(entry, connection, context.signal);
        if (entry.shim.kind === "gone") return entry.gone;
      }
    }
  }

  async status(
    context: RequestContext,
    id: string,
    { verbose }: { readonly verbose: boolean },
  ): Promise<SandboxStatus> {
    const entry = await this.#find(context, id);
    if (entry === undefined) return this.#endedStatus(requireNamespace(context), id);
    try {
      const answer = await this.#call(
        entry,
        context.signal,
        (client, options) => client.sandboxStatus({ sandboxId: id, verbose }, options),
        this.#options.timeouts.state,
      );
      const createdAt = optionalDateFromProto(answer.createdAt);
      const exitedAt = optionalDateFromProto(answer.exitedAt);
      return {
        id: answer.sandboxId === "" ? id : answer.sandboxId,
        pid: answer.pid,
        state: answer.state,
        info: answer.info,
        ...(createdAt === undefined ? {} : { createdAt }),
        ...(exitedAt === undefined ? {} : { exitedAt }),
        ...(answer.extra === undefined ? {} : { extra: anyFromProto(answer.extra) }),
        ...endpoint(entry.connection.record),
      };
    } catch (error) {
      if (entry.shim.kind === "gone") return this.#endedStatus(requireNamespace(context), id);
      throw withContext(`failed to query sandbox ${id} status`, error);
    }
  }

  /** As the peer's: a sandbox that is not there has ended; when, only if we were told. */
  #endedStatus(namespace: string, id: string): SandboxStatus {
    const ended = this.#ends.get(sandboxKey(namespace, id));
    const exitedAt = ended?.exitedAt ?? new Date();
    return { id, pid: 0, state: ended === undefined ? "" : NOT_READY, info: {}, exitedAt, address: "", version: 0 };
  }

  async shutdown(context: RequestContext, id: string): Promise<void> {
    const namespace = requireNamespace(context);
    const work = async (): Promise<void> => {
      // It goes on when the caller has given up: half of it is a shim without its bundle.
      using _lock = await this.#locks.acquire(sandboxKey(namespace, id), this.#stop.signal);
      const entry = await this.#sandbox(backgroundContext({ namespace }), id);
      await this.#options.tasks.endTasksAt(namespace, entry.connection.record.address);
      const exiting = entry.started && !entry.told ? this.#untilExit(entry) : Promise.resolve(undefined);
      entry.quiet = true;
      try {
        await this.#call(entry, this.#stop.signal, (client, options) =>
          client.shutdownSandbox({ sandboxId: id }, options),
        );
      } catch (error) {
        if (entry.shim.kind === "gone" || entry.connection.isClosed) {
          this.#log.debug("shim ended during its shutdown", { id, error: messageOf(error) });
        } else {
          entry.quiet = false;
          throw withContext("failed to shutdown sandbox", error);
        }
      }
      await this.#untilClosed(entry);
      const exit = await exiting;
      if (entry.started) await this.#tell(entry, exit ?? { exitStatus: UNKNOWN_STATUS, exitedAt: new Date() });
      // As long as it is in the table nobody makes another one in its folder.
      await this.#deleteBundle(entry.bundle);
      this.#forget(entry);
      this.#ends.delete(entry.key);
    };
    await untilAborted(this.#working.track(work()), context.signal);
  }

  async metrics(context: RequestContext, id: string): Promise<SandboxMetric | undefined> {
    const entry = await this.#sandbox(context, id);
    const { metrics } = await this.#call(
      entry,
      context.signal,
      (client, options) => client.sandboxMetrics({ sandboxId: id }, options),
      this.#options.timeouts.stats,
    );
    return sandboxMetricFromProto(metrics);
  }

  /** As in the peer nothing happens: the record is the store's, and shims have no call that would take a change. */
  async update(): Promise<void> {
    await Promise.resolve();
  }

  /** A call of a sandbox's shim. One that was cut off by the shim's death is made again when another has taken over. */
  async #call<T>(
    entry: SandboxEntry,
    signal: AbortSignal,
    make: (client: SandboxClient, options: CallOptions) => Promise<T>,
    timeoutMs?: number,
  ): Promise<T> {
    for (;;) {
      const { connection } = entry;
      try {
        return await connection.callSandbox(make, { signal, ...(timeoutMs === undefined ? {} : { timeoutMs }) });
      } catch (error) {
        if (!isConnectionGone(error, connection)) throw asClassified(error);
        if (entry.quiet) throw sandboxNotFound(entry.id, error);
        await this.#recovered(entry, connection, signal);
        if (entry.shim.kind === "gone") throw sandboxNotFound(entry.id, error);
      }
    }
  }

  /** Resolves when what follows the end of a connection is done. */
  async #recovered(entry: SandboxEntry, connection: ShimConnection, signal: AbortSignal): Promise<void> {
    if (entry.shim.kind === "connected" && entry.shim.connection === connection) {
      await untilAborted(entry.recovery.promise, AbortSignal.any([signal, this.#stop.signal]));
    }
    await untilAborted(settled(entry), signal);
  }

  /** @throws not-found */
  async #sandbox(context: RequestContext, id: string): Promise<SandboxEntry> {
    const entry = await this.#find(context, id);
    if (entry === undefined) throw sandboxNotFound(id);
    return entry;
  }

  async #find(
    context: RequestContext,
    id: string,
    limitMs: number = this.#options.timeouts.load,
  ): Promise<SandboxEntry | undefined> {
    const key = sandboxKey(requireNamespace(context), id);
    await untilAborted(this.#scanned, context.signal);
    const entry = this.#table.get(key);
    if (entry === undefined) return undefined;
    const limit = AbortSignal.any([context.signal, AbortSignal.timeout(limitMs)]);
    const known = async (): Promise<void> => {
      const { shim } = entry;
      // The end of its connection is noticed, then something comes of it.
      if (shim.kind === "connected" && shim.connection.isClosed && !entry.quiet) {
        await this.#recovered(entry, shim.connection, limit);
      } else if (shim.kind === "loading") await untilAborted(shim.settled, limit);
    };
    await known().catch((error: unknown) => {
      if (context.signal.aborted || !limit.aborted) throw error;
    });
    return this.#table.get(key);
  }

  /** Waits for the end of a shim's connection and sees to its sandbox. */
  async #watch(entry: SandboxEntry, connection: ShimConnection): Promise<void> {
    const { recovery } = entry;
    await connection.closed;
    try {
      if (entry.quiet || this.#stop.signal.aborted) return;
      this.#log.info("shim of sandbox disconnected", { id: entry.id });
      await this.#working.track(this.#recover(entry, { announce: true }));
    } finally {
      recovery.resolve();
    }
  }

  /** After a shim's death: another one takes its sandbox over, else what is left is cleaned up. */
  async #recover(entry: SandboxEntry, how: { readonly announce: boolean }): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    entry.shim = { kind: "loading", settled: promise };
    try {
      const connection = await this.#adopt(entry).catch((error: unknown) => {
        this.#log.error("taking over the sandbox of a dead shim", { id: entry.id, error: messageOf(error) });
        return undefined;
      });
      if (connection === undefined) {
        if (!this.#stop.signal.aborted) await this.#cleanUpAfter(entry, how);
        return;
      }
      entry.recovery = Promise.withResolvers();
      entry.shim = { kind: "connected", connection };
      void this.#watch(entry, connection);
    } finally {
      resolve();
    }
  }

  /** A connection to the shim that has a dead one's sandbox now; undefined when there is nothing to take over. */
  async #adopt(entry: SandboxEntry): Promise<ShimConnection | undefined> {
    const { bundle, binary, id } = entry;
    const { namespace } = bundle;
    const signal = AbortSignal.any([AbortSignal.timeout(ADOPT_MS), this.#stop.signal]);
    if (!(await this.#options.tasks.adopts(binary.path))) return undefined;
    if ((await readText(join(bundle.path, RECORD_FILE))) === undefined) return undefined;
    if (hasListener(entry)) {
      // Only the connection was lost: two shims must never be one sandbox.
      return ShimConnection.open(await readBootstrap(bundle), namespace, signal);
    }
    removeSocketLeft(entry.address, this.#log);
    const context = backgroundContext({ namespace, signal });
    const options = await this.#options.store.get(context, id).then(
      ({ runtime }) => runtime.options,
      () => undefined, // a record may go while its sandbox runs
    );
    const record = await binary.start(options, signal);
    const connection = await ShimConnection.open(record, namespace, signal);
    try {
      await connection.callSandbox(
        (client, callOptions) => client.createSandbox({ sandboxId: id, bundlePath: bundle.path }, callOptions),
        { signal },
      );
      await writeBootstrap(bundle, record);
    } catch (error) {
      connection.close();
      throw error;
    }
    entry.address = record.address;
    this.#log.warn("another shim has taken over a sandbox from one that died", { id, namespace });
    return connection;
  }

  /** Cleans up after a shim that is gone. Its tasks are cleaned up after by their own watch. */
  async #cleanUpAfter(entry: SandboxEntry, { announce }: { readonly announce: boolean }): Promise<void> {
    const { id } = entry;
    entry.quiet = true;
    let exit: SandboxExit | undefined = this.#ends.get(entry.key);
    try {
      const found = await entry.binary.delete(this.#limit());
      exit ??= { exitStatus: found.exitStatus, exitedAt: found.exitedAt };
    } catch (error) {
      this.#log.warn("failed to clean up after the shim of a sandbox", { id, error: messageOf(error) });
    }
    await this.#deleteBundle(entry.bundle);
    removeSocketLeft(entry.address, this.#log);
    exit ??= { exitStatus: UNKNOWN_STATUS, exitedAt: new Date() };
    this.#remember(entry, exit);
    entry.setGone(exit);
    if (this.#table.get(entry.key) === entry) this.#table.delete(entry.key);
    entry.over.abort();
    if (announce) await this.#tell(entry, exit);
  }

  /** Ends a sandbox that failed to be made or to start, and what it has left. */
  async #remove(entry: SandboxEntry): Promise<void> {
    await this.#end(entry);
    await this.#deleteBundle(entry.bundle);
    this.#forget(entry);
  }

  async #end(entry: SandboxEntry): Promise<void> {
    const { id, shim } = entry;
    entry.quiet = true;
    if (shim.kind === "connected") {
      const { connection } = shim;
      const limit = { signal: this.#limit() };
      try {
        await connection.callSandbox((client, options) => client.shutdownSandbox({ sandboxId: id }, options), limit);
      } catch (error) {
        if (!isErrorClass(error, "not-implemented") && !connection.isClosed) {
          this.#log.error("failed to shutdown sandbox", { id, error: messageOf(error) });
        }
      }
    }
    await this.#untilClosed(entry);
  }

  async #untilExit(entry: SandboxEntry): Promise<SandboxExit | undefined> {
    try {
      const answer = await entry.connection.endlessSandbox(
        (client, options) => client.waitSandbox({ sandboxId: entry.id }, options),
        { signal: this.#stop.signal },
      );
      return sandboxExitFromProto(answer);
    } catch {
      return undefined;
    }
  }

  /** Waits for the end of a shim that was asked to end; one that stays is asked as the shim of a task is. */
  async #untilClosed(entry: SandboxEntry): Promise<void> {
    if (entry.shim.kind !== "connected") return;
    const { connection } = entry.shim;
    const { shutdown } = this.#options.timeouts;
    const isClosed = async (): Promise<boolean> =>
      untilAborted(connection.closed, AbortSignal.timeout(shutdown)).then(
        () => true,
        () => false,
      );
    try {
      // A shim without a sandbox service knows only this, and the others may have more to do before they end.
      await connection.call((task, options) => task.shutdown({ id: "", now: true }, options), { timeoutMs: shutdown });
    } catch (error) {
      this.#log.debug("shutdown of a sandbox's shim", { id: entry.id, error: messageOf(error) });
    }
    if (await isClosed()) return;
    this.#log.error("the shim of a sandbox does not end and might be leaked", {
      id: entry.id,
      address: connection.record.address,
    });
  }

  #forget(entry: SandboxEntry): void {
    if (entry.shim.kind === "connected") entry.shim.connection.close();
    entry.setGone(this.#ends.get(entry.key) ?? { exitStatus: UNKNOWN_STATUS, exitedAt: new Date() });
    if (this.#table.get(entry.key) === entry) this.#table.delete(entry.key);
    entry.over.abort();
    removeSocketLeft(entry.address, this.#log);
  }

  /** Publishes the end of a sandbox, once. */
  async #tell(entry: SandboxEntry, exit: SandboxExit): Promise<void> {
    this.#remember(entry, exit);
    if (entry.told) return;
    entry.told = true;
    const { exitStatus, exitedAt } = exit;
    const event = create(SandboxExitSchema, {
      sandboxId: entry.id,
      exitStatus,
      ...(exitedAt === undefined ? {} : { exitedAt: timestampToProto(exitedAt) }),
    });
    const value = toBinary(SandboxExitSchema, event);
    const context = backgroundContext({ namespace: entry.bundle.namespace });
    await this.#options.events
      .publish(context, "/sandboxes/exit", { typeUrl: event.$typeName, value })
      .catch((error: unknown) =>
        this.#log.error("publish event", { topic: "/sandboxes/exit", error: messageOf(error) }),
      );
  }

  #remember(entry: SandboxEntry, exit: SandboxExit): void {
    this.#ends.set(entry.key, exit);
    const [oldest] = this.#ends.keys();
    if (this.#ends.size > MAX_ENDS && oldest !== undefined) this.#ends.delete(oldest);
  }

  async #deleteBundle(bundle: Bundle): Promise<void> {
    await deleteBundle(bundle).catch((error: unknown) =>
      this.#log.error("failed to delete bundle of sandbox", { id: bundle.id, error: messageOf(error) }),
    );
  }

  #limit(): AbortSignal {
    return AbortSignal.timeout(this.#options.timeouts.cleanup);
  }

  /** Enters every bundle on disk as loading, then settles them, several at a time. */
  async #scan(): Promise<void> {
    const { folders: where } = this.#options;
    await this.#removeLeft();
    const found: FoundBundle<SandboxEntry>[] = [];
    for (const namespace of await folders(where.state)) {
      for (const id of await folders(join(where.state, namespace))) {
        const bundle = bundleOf(where, namespace, id);
        const { promise, resolve } = Promise.withResolvers<void>();
        const path = (await readText(join(bundle.path, BUNDLE_FILE.shimBinary)))?.trim() ?? "";
        const entry = new SandboxEntry(bundle, this.#binary(path, bundle), { kind: "loading", settled: promise });
        this.#table.set(entry.key, entry);
        found.push({ entry, release: resolve });
      }
    }
    void this.#working.track(
      settleBundles(
        found,
        async (entry) => this.#loadOne(entry),
        ({ id }, error) => this.#log.error(`unable to load sandbox ${JSON.stringify(id)}`, { error: messageOf(error) }),
      ),
    );
  }

  async #loadOne(entry: SandboxEntry): Promise<void> {
    const { bundle, id } = entry;
    const { namespace } = bundle;
    const limit = AbortSignal.timeout(this.#options.timeouts.load);
    let connection: ShimConnection;
    try {
      const record = await readBootstrap(bundle);
      entry.address = record.address;
      connection = await ShimConnection.open(record, namespace, limit);
    } catch (error) {
      this.#log.error(`unable to load sandbox ${JSON.stringify(id)}`, { namespace, error: messageOf(error) });
      // A shim that is there and takes no connection now (it is stopped, or busy) must not lose its containers.
      if (hasListener(entry)) return;
      readShimLog(bundle, { sink: this.#shimLog, signal: entry.over.signal, log: this.#log });
      entry.started = true;
      // Nobody was told of this sandbox by us, so nobody is told of its end.
      await this.#recover(entry, { announce: false });
      return;
    }
    readShimLog(bundle, { sink: this.#shimLog, signal: entry.over.signal, log: this.#log });
    entry.shim = { kind: "connected", connection };
    void this.#watch(entry, connection);
    try {
      const { state } = await connection.callSandbox(
        (client, options) => client.sandboxStatus({ sandboxId: id }, options),
        { timeoutMs: this.#options.timeouts.load },
      );
      // One that was never started and fails to start is taken down; the others stay.
      entry.started = state !== NOT_READY;
    } catch (error) {
      if (isErrorClass(error, "not-found") || isErrorClass(error, "not-implemented")) {
        // A daemon ended between the start of this shim and the making of its sandbox.
        this.#log.info("cleaning leaked shim of a sandbox", { id, namespace });
        await this.#remove(entry);
        return;
      }
      entry.started = true;
      // It listens but does not answer (it may be stopped): it stays, and calls fail by their own deadlines.
      this.#log.error(`shim of sandbox ${JSON.stringify(id)} does not answer`, { namespace, error: messageOf(error) });
    }
  }

  /** Bundles and working folders that a daemon was removing when it ended, and working folders without a bundle. */
  async #removeLeft(): Promise<void> {
    const { state, root } = this.#options.folders;
    const left: string[] = [];
    for (const parent of [state, root]) {
      for (const namespace of await folders(parent)) {
        const here = join(parent, namespace);
        left.push(...(await folders(here, { hidden: true })).map((name) => join(here, name)));
        if (parent === state) continue;
        const bundles = new Set(await folders(join(state, namespace)));
        left.push(...(await folders(here)).filter((id) => !bundles.has(id)).map((id) => join(here, id)));
      }
    }
    for (const path of left) {
      await removeTree(path).catch((error: unknown) => {
        this.#log.warn(`failed to remove ${path}, which no sandbox has`, { error: messageOf(error) });
      });
    }
  }
}

/** Where tasks of a sandbox are made, as the peer writes it. */
function endpoint({ protocol, address, version }: BootstrapRecord): { address: string; version: number } {
  return { address: `${protocol}+${address}`, version };
}

/** Whether somebody listens at the socket of a sandbox's shim: it is there, though it may be stopped. */
function hasListener({ address }: SandboxEntry): boolean {
  const path = socketFile(address);
  return path !== undefined && isListening(path);
}

function toStderr(bytes: Uint8Array): void {
  process.stderr.write(bytes);
}

function settled(entry: SandboxEntry): Promise<void> {
  return entry.shim.kind === "loading" ? entry.shim.settled : Promise.resolve();
}

function asClassified(error: unknown): ClassifiedError {
  return error instanceof ClassifiedError ? error : classified(errorClassOf(error), messageOf(error), { cause: error });
}
