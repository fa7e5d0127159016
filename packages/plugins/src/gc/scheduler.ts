import { classified, createLogger, type Logger, messageOf } from "@stevedore/base";
import type { CollectionStats, GarbageCollector } from "@stevedore/core";

/** The keys of `[plugins."io.containerd.gc.v1.scheduler"]`, with containerd's meaning and defaults. */
export interface GcSchedulerConfig {
  /** Greatest share of time collections may take, by the average of those so far. At most 0.5. */
  readonly pauseThreshold: number;
  /** Deletions after which a collection is scheduled; 0: the first deletion is, when none is scheduled. */
  readonly deletionThreshold: number;
  /** Changes after which the next scheduled collection is not skipped; 0: changes alone never cause one. */
  readonly mutationThreshold: number;
  /** Milliseconds from a trigger to its collection. */
  readonly scheduleDelayMs: number;
  /** Milliseconds from the start to the first collection; 0: no first collection. */
  readonly startupDelayMs: number;
}

export const DEFAULT_GC_CONFIG: GcSchedulerConfig = {
  pauseThreshold: 0.02,
  deletionThreshold: 0,
  mutationThreshold: 100,
  scheduleDelayMs: 0,
  startupDelayMs: 100,
};

export interface GcSchedulerOptions {
  readonly collector: GarbageCollector;
  readonly config?: Partial<GcSchedulerConfig>;
  /** Told of each collection, for metrics: its duration, or nothing when it failed. */
  readonly onCollection?: (stats: CollectionStats | undefined) => void;
  readonly log?: Logger;
  readonly now?: () => number;
}

/** Longest share of time collections may be given, as in containerd. */
const MAX_PAUSE_THRESHOLD = 0.5;
/** Averages below this count as this, so that an empty store is not scanned all the time: containerd's figure. */
const MINIMUM_COLLECTION_MS = 5;
/** Time between looks while no collection has set another: containerd's figure. */
const DEFAULT_INTERVAL_MS = 1000;
/** Added to the interval after a failure: containerd's figure. */
const RETRY_DELAY_MS = 1000;

interface Waiter {
  readonly resolve: (stats: CollectionStats) => void;
  readonly reject: (error: Error) => void;
}

/** Decides when to collect. Runs from its making until it is disposed. */
export class GcScheduler implements AsyncDisposable {
  readonly config: GcSchedulerConfig;
  readonly #collector: GarbageCollector;
  readonly #log: Logger;
  readonly #onCollection: ((stats: CollectionStats | undefined) => void) | undefined;
  readonly #now: () => number;
  readonly #stop = new AbortController();
  readonly #subscription: Disposable;
  #waiters: Waiter[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running: Promise<void> | undefined;
  #nextCollection: number | undefined;
  #lastCollection: number | undefined;
  #intervalMs = DEFAULT_INTERVAL_MS;
  #totalMs = 0;
  /** Whether the last collection failed. */
  #failed = false;
  #collections = 0;
  #triggered = false;
  #deletions = 0;
  #mutations = 0;

  constructor(options: GcSchedulerOptions) {
    const config = { ...DEFAULT_GC_CONFIG, ...options.config };
    this.config = {
      pauseThreshold: Math.min(Math.max(config.pauseThreshold, 0), MAX_PAUSE_THRESHOLD),
      deletionThreshold: config.deletionThreshold,
      mutationThreshold: Math.max(config.mutationThreshold, 0),
      scheduleDelayMs: Math.max(config.scheduleDelayMs, 0),
      startupDelayMs: Math.max(config.startupDelayMs, 0),
    };
    this.#collector = options.collector;
    this.#log = options.log ?? createLogger();
    this.#onCollection = options.onCollection;
    this.#now = options.now ?? (() => performance.now());
    this.#subscription = this.#collector.onMutation((dirty) => this.#mutated(dirty));
    if (this.config.startupDelayMs > 0) this.#schedule(this.config.startupDelayMs);
  }

  /**
   * Collects soon, after the configured delay, and resolves when a collection that started after this call has ended.
   * The signal ends the wait, not the collection.
   * @throws unknown "gc failed"; the signal's reason
   */
  async scheduleAndWait(signal: AbortSignal): Promise<CollectionStats> {
    signal.throwIfAborted();
    if (this.#stop.signal.aborted) throw classified("unavailable", "garbage collection has stopped: unavailable");
    // One under way may have passed what the caller has just let go of.
    await this.#running;
    const { promise, resolve, reject } = Promise.withResolvers<CollectionStats>();
    const waiter = { resolve, reject };
    this.#waiters.push(waiter);
    const onAbort = (): void => {
      this.#waiters = this.#waiters.filter((each) => each !== waiter);
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      this.#triggered = true;
      this.#consider();
      return await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(classified("canceled", "garbage collection has stopped: context canceled"));
    this.#subscription[Symbol.dispose]();
    clearTimeout(this.#timer);
    await this.#running;
    this.#settle((waiter) => waiter.reject(classified("unavailable", "garbage collection has stopped: unavailable")));
  }

  #mutated(dirty: boolean): void {
    if (dirty) this.#deletions++;
    this.#mutations++;
    this.#consider();
  }

  /** Whether what happened calls for a collection before the scheduled one. */
  #consider(): void {
    const { deletionThreshold, mutationThreshold, scheduleDelayMs } = this.config;
    const unscheduled = this.#nextCollection === undefined;
    const due =
      this.#triggered ||
      // After a failure the retry has its time, however much there is to collect.
      (deletionThreshold > 0 && this.#deletions >= deletionThreshold && !this.#failed) ||
      (unscheduled &&
        ((deletionThreshold === 0 && this.#deletions > 0) ||
          (mutationThreshold > 0 && this.#mutations >= mutationThreshold)));
    if (this.#running !== undefined) return;
    if (!due) {
      // Idle, and the next of containerd's looks would collect.
      const wanted = this.#deletions > 0 || (mutationThreshold > 0 && this.#mutations >= mutationThreshold);
      if (unscheduled && wanted && this.#lastCollection !== undefined) this.#schedule(this.#intervalMs);
      return;
    }
    if (this.#nextCollection === undefined || this.#nextCollection > this.#now() + scheduleDelayMs) {
      this.#schedule(scheduleDelayMs);
    }
  }

  #schedule(delayMs: number): void {
    if (this.#stop.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#nextCollection = this.#now() + delayMs;
    this.#timer = setTimeout(() => this.#fire(), delayMs);
    // Waiting for garbage must not keep a process alive that has nothing else to do.
    this.#timer.unref();
  }

  #fire(): void {
    if (this.#running !== undefined) return;
    const { mutationThreshold } = this.config;
    const skip =
      !this.#triggered &&
      this.#lastCollection !== undefined &&
      this.#deletions === 0 &&
      (mutationThreshold === 0 || this.#mutations < mutationThreshold);
    if (skip) {
      // containerd looks again after each interval; nothing can change until a mutation says so, and that comes to us.
      this.#nextCollection = undefined;
      return;
    }
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      // What came in meanwhile.
      this.#consider();
    });
  }

  async #run(): Promise<void> {
    const scheduled = this.#nextCollection ?? this.#now();
    const waiters = this.#waiters;
    this.#waiters = [];
    this.#triggered = false;
    this.#deletions = 0;
    this.#mutations = 0;
    try {
      const stats = await this.#collector.collect(this.#stop.signal);
      this.#failed = false;
      this.#onCollection?.(stats);
      this.#log.trace("garbage collected", { d: `${stats.elapsedMs.toFixed(3)}ms` });
      // What others wait for, as the peer reckons. The deletion of files takes long after much churn; were it counted, the next
      // collection would come later, find more, take longer still, and so on.
      this.#totalMs += stats.metadataMs;
      this.#collections++;
      const { pauseThreshold } = this.config;
      if (pauseThreshold > 0) {
        const average = Math.max(this.#totalMs / this.#collections, MINIMUM_COLLECTION_MS);
        this.#intervalMs = average / pauseThreshold - average;
      }
      this.#lastCollection = this.#now();
      this.#schedule(this.#intervalMs);
      for (const waiter of waiters) waiter.resolve(stats);
    } catch (error) {
      if (!this.#stop.signal.aborted) {
        this.#log.error("garbage collection failed", { error: messageOf(error) });
        this.#onCollection?.(undefined);
      }
      const retry =
        this.#lastCollection === undefined
          ? Math.max(this.config.scheduleDelayMs, RETRY_DELAY_MS)
          : Math.max(scheduled - this.#lastCollection, 0) + RETRY_DELAY_MS;
      this.#lastCollection = this.#now();
      this.#failed = true;
      // What the failed run was to collect is still there.
      this.#deletions++;
      this.#schedule(retry);
      for (const waiter of waiters) waiter.reject(classified("unknown", "gc failed", { cause: error }));
    }
  }

  #settle(each: (waiter: Waiter) => void): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) each(waiter);
  }
}
