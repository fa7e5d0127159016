import type { Database } from "bun:sqlite";
import { join } from "node:path";
import { classified, createLogger, type Logger, type RequestContext } from "@stevedore/base";
import type { Removed } from "./collection.ts";
import { type Call, type DamageReport, errorOf, type FromWriter, isFromWriter, type ToWriter } from "./messages.ts";
import { packMoments, unpackMoments } from "./moments.ts";
import type { ChangeEvent, EventLimits, EventRow } from "./procedures/events.ts";
import type { ProcedureArgs, ProcedureName, ProcedureResult } from "./procedures.ts";
import { ownBytes } from "./scope.ts";
import { closeConnection, statement } from "./statement.ts";
import { openReader } from "./writer.ts";

export interface MetadataOptions {
  /** The plugin's folder, `<root>/io.containerd.metadata.v1.bolt`; made if missing. */
  readonly directory: string;
  readonly log?: Logger;
  /** Milliseconds a slice of garbage collection may hold the writer thread. Default 5. */
  readonly sliceMs?: number;
  /** Leaves it to the kernel when changes reach the disk: none survives a crash of the machine for sure. Default false. */
  readonly noSync?: boolean;
}

/** The file in the plugin's folder. A bolt root has `meta.db` there, which is left alone. */
export const DATABASE_FILE = "meta.sqlite";

/** Calls that may wait for the writer. Each waiting one is an API call, so this is the number of clients in flight. */
const MAX_WAITING = 65_536;
/** Calls in one transaction: bounds how long one commit holds up the next call. */
const MAX_BATCH = 512;
/** Batches at the writer: while one commits the next one is already there. */
const MAX_IN_FLIGHT = 2;

interface Waiting {
  readonly call: Call;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** What a collection removed from the metadata, and how long it took. */
export interface CollectedRows {
  readonly removed: readonly Removed[];
  readonly markMs: number;
  readonly sweepMs: number;
}

/**
 * The metadata file: one writer thread for changes, which are durable when their promise resolves, and one connection
 * on the caller's thread for reads, which see every such change and take microseconds.
 */
export class MetadataDatabase implements AsyncDisposable {
  /** Only for reading. Statements on it must be short: they run on the caller's thread. */
  readonly reader: Database;
  readonly path: string;
  /** Whether the file was made by this open. */
  readonly created: boolean;
  /** Set when the file was damaged and replaced. */
  readonly damage: DamageReport | undefined;
  readonly #worker: Worker;
  readonly #waiting: Waiting[] = [];
  readonly #inFlight = new Map<number, readonly Waiting[]>();
  readonly #mutationListeners = new Set<(dirty: boolean) => void>();
  readonly #eventListeners = new Set<(events: readonly EventRow[]) => void>();
  #logsEvents = false;
  #flushQueued = false;
  #nextBatch = 1;
  #collecting:
    | { removed: Removed[]; resolve: (rows: CollectedRows) => void; reject: (error: Error) => void }
    | undefined;
  #closing: (() => void) | undefined;
  /** Why no more calls are taken. */
  #ended: Error | undefined;

  private constructor(worker: Worker, path: string, opened: { created: boolean; damage?: DamageReport }) {
    this.#worker = worker;
    this.path = path;
    this.created = opened.created;
    this.damage = opened.damage;
    this.reader = openReader(path);
    worker.addEventListener("message", (event: MessageEvent<unknown>) => {
      if (isFromWriter(event.data)) this.#receive(event.data);
    });
    worker.addEventListener("error", (event) => this.#fail(`metadata writer failed: ${event.message}`));
    worker.addEventListener("close", () => this.#fail("metadata writer ended"));
  }

  /**
   * Opens or makes the file. A damaged file is put aside and reported, never a reason to fail.
   * @throws failed-precondition for a file of a later version; another class when the folder cannot be used
   */
  static async open(options: MetadataOptions): Promise<MetadataDatabase> {
    const log = options.log ?? createLogger();
    const path = join(options.directory, DATABASE_FILE);
    const worker = new Worker(workerUrl(), { smol: true });
    try {
      const opened = await openWriter(worker, {
        kind: "open",
        path,
        sliceMs: options.sliceMs ?? 5,
        noSync: options.noSync ?? false,
      });
      if (opened.damage !== undefined) {
        log.error("metadata file was damaged and has been replaced", { ...opened.damage });
      }
      return new MetadataDatabase(worker, path, opened);
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  /**
   * Runs a procedure in the writer thread. Resolves when its change is durable. The announcement of the context, if it has
   * one, is recorded with the change.
   */
  async call<K extends ProcedureName>(
    name: K,
    args: ProcedureArgs<K>,
    context?: RequestContext,
  ): Promise<ProcedureResult<K>> {
    if (this.#ended !== undefined) throw this.#ended;
    if (this.#waiting.length >= MAX_WAITING) {
      throw classified("resource-exhausted", "metadata: too many changes are waiting: resource exhausted");
    }
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const event = context === undefined ? undefined : this.#announced(context);
    const call = { name, args, ...(event === undefined ? {} : { event }) };
    if (!isCall(call)) throw classified("internal", `no metadata procedure "${name}"`);
    this.#waiting.push({ call, resolve, reject });
    this.#queueFlush();
    const value = await promise;
    if (!isResultOf(name, value)) throw classified("internal", `metadata procedure "${name}" gave no result`);
    return value;
  }

  /** Logs events from now on, within limits. Until then announcements are left to the callers. */
  logEvents(limits: EventLimits): void {
    this.#logsEvents = limits.maxEvents > 0;
    this.#post({ kind: "log-limits", limits });
  }

  /** Called with the events that were recorded, in order and before the calls that told them resolve. */
  onEvents(listener: (events: readonly EventRow[]) => void): Disposable {
    this.#eventListeners.add(listener);
    return { [Symbol.dispose]: () => void this.#eventListeners.delete(listener) };
  }

  #announced({ announcement, namespace }: RequestContext): ChangeEvent | undefined {
    if (announcement === undefined || namespace === undefined || !this.#logsEvents) return undefined;
    announcement.take();
    const { topic, typeUrl, value, fields } = announcement;
    return { namespace, topic, event: ownBytes({ typeUrl, value }), fields };
  }

  /** Called after each change; `dirty` when it may have left garbage. Dispose the result to stop. */
  onMutation(listener: (dirty: boolean) => void): Disposable {
    this.#mutationListeners.add(listener);
    return { [Symbol.dispose]: () => void this.#mutationListeners.delete(listener) };
  }

  /** Marks and sweeps in the writer thread, between other calls. One at a time. */
  collect(): Promise<CollectedRows> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    if (this.#collecting !== undefined) {
      return Promise.reject(classified("failed-precondition", "a garbage collection is running: failed precondition"));
    }
    const { promise, resolve, reject } = Promise.withResolvers<CollectedRows>();
    this.#collecting = { removed: [], resolve, reject };
    this.#post({ kind: "collect" });
    return promise;
  }

  /** A lasting fact about the store, such as whether orphans on disk may be removed. */
  fact(name: string): string | undefined {
    return selectFact(this.reader).get(name)?.value;
  }

  /** Waits for the calls under way, then ends the thread. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended === undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#ended = classified("unavailable", "metadata: store is closed: unavailable");
      this.#closing = resolve;
      this.#flush();
      await promise;
    }
    this.#worker.terminate();
    closeConnection(this.reader);
  }

  #queueFlush(): void {
    if (this.#flushQueued || this.#inFlight.size >= MAX_IN_FLIGHT) return;
    this.#flushQueued = true;
    // Calls made in the same turn travel together.
    queueMicrotask(() => {
      this.#flushQueued = false;
      this.#flush();
    });
  }

  #flush(): void {
    while (this.#waiting.length > 0 && this.#inFlight.size < MAX_IN_FLIGHT) {
      const batch = this.#waiting.splice(0, MAX_BATCH);
      const id = this.#nextBatch++;
      this.#inFlight.set(id, batch);
      this.#post({ kind: "batch", id, calls: batch.map((each) => packMoments(each.call)) });
    }
    if (this.#closing !== undefined && this.#inFlight.size === 0) this.#post({ kind: "close" });
  }

  #post(message: ToWriter): void {
    this.#worker.postMessage(message);
  }

  #receive(message: FromWriter): void {
    switch (message.kind) {
      case "batch": {
        const batch = this.#inFlight.get(message.id) ?? [];
        this.#inFlight.delete(message.id);
        if (message.appended.length > 0) {
          for (const listener of this.#eventListeners) listener(message.appended);
        }
        batch.forEach((each, index) => {
          const outcome = message.outcomes[index];
          if (outcome === undefined) each.reject(classified("internal", "metadata writer gave no answer"));
          else if ("failure" in outcome) each.reject(errorOf(outcome.failure));
          else each.resolve(unpackMoments(outcome.value));
        });
        this.#flush();
        for (let i = 0; i < message.mutations; i++) {
          for (const listener of this.#mutationListeners) listener(i < message.dirty);
        }
        return;
      }
      case "swept":
        this.#collecting?.removed.push(...message.removed);
        return;
      case "collected": {
        const { markMs, sweepMs } = message;
        this.#collecting?.resolve({ removed: this.#collecting.removed, markMs, sweepMs });
        this.#collecting = undefined;
        return;
      }
      case "collect-failed":
        this.#collecting?.reject(errorOf(message.failure));
        this.#collecting = undefined;
        return;
      case "closed":
        this.#fail("metadata: store is closed: unavailable");
        return;
      case "opened":
      case "failed":
        return;
      default:
        message satisfies never;
    }
  }

  #fail(reason: string): void {
    const error = this.#ended ?? classified("unavailable", reason);
    this.#ended = error;
    for (const batch of this.#inFlight.values()) for (const each of batch) each.reject(error);
    this.#inFlight.clear();
    for (const each of this.#waiting.splice(0)) each.reject(error);
    this.#collecting?.reject(error);
    this.#collecting = undefined;
    this.#closing?.();
    this.#closing = undefined;
  }
}

const selectFact = statement<{ value: string }, [string]>("SELECT value FROM facts WHERE name = ?");

function isCall(call: { readonly name: ProcedureName; readonly args: unknown }): call is Call {
  return typeof call.args === "object" && call.args !== null;
}

/** The writer is this same program: what it answers to a procedure is that procedure's result. */
function isResultOf<K extends ProcedureName>(_name: K, value: unknown): value is ProcedureResult<K> {
  return value === undefined || typeof value === "object";
}

/** In the compiled binary modules live below `/$bunfs/root`, by their path in the repository. */
function workerUrl(): string {
  return import.meta.url.startsWith("file:///$bunfs/")
    ? "/$bunfs/root/packages/plugins/src/metadata/writer-worker.js"
    : new URL("./writer-worker.ts", import.meta.url).href;
}

async function openWriter(
  worker: Worker,
  message: ToWriter,
): Promise<{ readonly created: boolean; readonly damage?: DamageReport }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ created: boolean; damage?: DamageReport }>();
  const onMessage = (event: MessageEvent<unknown>): void => {
    if (!isFromWriter(event.data)) return;
    if (event.data.kind === "opened") resolve(event.data);
    else if (event.data.kind === "failed") reject(errorOf(event.data.failure));
  };
  const onError = (event: ErrorEvent): void =>
    reject(classified("internal", `start metadata writer: ${event.message}`));
  worker.addEventListener("message", onMessage);
  worker.addEventListener("error", onError);
  try {
    worker.postMessage(message);
    return await promise;
  } finally {
    worker.removeEventListener("message", onMessage);
    worker.removeEventListener("error", onError);
  }
}
