import { describe, expect, test } from "bun:test";
import type { CollectionStats, GarbageCollector } from "@stevedore/core";
import { GcScheduler } from "./scheduler.ts";

const STATS: CollectionStats = { elapsedMs: 1, metadataMs: 1, contentMs: 0, snapshotsMs: {}, removed: [] };
const never = new AbortController().signal;

class FakeCollector implements GarbageCollector {
  runs = 0;
  fail = false;
  readonly #listeners = new Set<(dirty: boolean) => void>();
  readonly durationMs: number;

  constructor(durationMs = 0) {
    this.durationMs = durationMs;
  }

  async collect(): Promise<CollectionStats> {
    this.runs++;
    await Bun.sleep(this.durationMs);
    if (this.fail) throw new Error("no");
    return STATS;
  }

  onMutation(listener: (dirty: boolean) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  mutate(dirty = false): void {
    for (const listener of this.#listeners) listener(dirty);
  }
}

const quiet = { startupDelayMs: 0, pauseThreshold: 0, mutationThreshold: 0 };

describe("GcScheduler", () => {
  test("collects once after the start-up delay", async () => {
    const collector = new FakeCollector();
    await using _scheduler = new GcScheduler({ collector, config: { startupDelayMs: 10, pauseThreshold: 0 } });
    await Bun.sleep(40);
    expect(collector.runs).toBe(1);
  });

  test("the deletion of files, however long, does not put the next collection off", async () => {
    const collector = new FakeCollector();
    const slow: GarbageCollector = {
      collect: async () => ({ ...(await collector.collect()), elapsedMs: 60_000, contentMs: 59_999 }),
      onMutation: (listener) => collector.onMutation(listener),
    };
    await using scheduler = new GcScheduler({ collector: slow, config: { ...quiet, pauseThreshold: 0.02 } });
    await scheduler.scheduleAndWait(never);
    collector.mutate(true);
    // Reckoned as 5 ms: the next one is due after 245.
    await Bun.sleep(500);
    expect(collector.runs).toBe(2);
  });

  test("without a start-up delay the first deletion starts one", async () => {
    const collector = new FakeCollector();
    await using _scheduler = new GcScheduler({ collector, config: quiet });
    collector.mutate();
    await Bun.sleep(15);
    expect(collector.runs).toBe(0);
    collector.mutate(true);
    await Bun.sleep(15);
    expect(collector.runs).toBe(1);
    // The next look is a second away, and a deletion alone does not bring it forward.
    collector.mutate(true);
    await Bun.sleep(15);
    expect(collector.runs).toBe(1);
  });

  test("a deletion threshold brings a collection forward", async () => {
    const collector = new FakeCollector();
    await using _scheduler = new GcScheduler({ collector, config: { ...quiet, deletionThreshold: 2 } });
    collector.mutate(true);
    await Bun.sleep(15);
    expect(collector.runs).toBe(0);
    collector.mutate(true);
    await Bun.sleep(15);
    expect(collector.runs).toBe(1);
  });

  test("a mutation threshold starts the first one", async () => {
    const collector = new FakeCollector();
    await using _scheduler = new GcScheduler({ collector, config: { ...quiet, mutationThreshold: 3 } });
    collector.mutate();
    collector.mutate();
    await Bun.sleep(15);
    expect(collector.runs).toBe(0);
    collector.mutate();
    await Bun.sleep(15);
    expect(collector.runs).toBe(1);
  });

  test("the pause threshold spaces collections by their length", async () => {
    const collector = new FakeCollector();
    await using _scheduler = new GcScheduler({ collector, config: { ...quiet, pauseThreshold: 0.02 } });
    await _scheduler.scheduleAndWait(never);
    // At least 5 ms are reckoned: 5 / 0.02 - 5 = 245 ms.
    collector.mutate(true);
    await Bun.sleep(20);
    expect(collector.runs).toBe(1);
    await Bun.sleep(400);
    expect(collector.runs).toBe(2);
  });

  test("an idle scheduler has no timer, and a deletion below the threshold is collected an interval later", async () => {
    const collector = new FakeCollector();
    const config = { ...quiet, pauseThreshold: 0.02, deletionThreshold: 5 };
    await using scheduler = new GcScheduler({ collector, config });
    await scheduler.scheduleAndWait(never);
    await Bun.sleep(300);
    expect(collector.runs).toBe(1);
    collector.mutate(true);
    await Bun.sleep(20);
    expect(collector.runs).toBe(1);
    await Bun.sleep(400);
    expect(collector.runs).toBe(2);
  });

  test("scheduleAndWait() waits for a collection that started after it", async () => {
    const collector = new FakeCollector(20);
    await using scheduler = new GcScheduler({ collector, config: quiet });
    const first = scheduler.scheduleAndWait(never);
    await Bun.sleep(5);
    expect(collector.runs).toBe(1);
    const second = scheduler.scheduleAndWait(never);
    expect(await first).toEqual(STATS);
    expect(await second).toEqual(STATS);
    expect(collector.runs).toBe(2);
  });

  test("several waiters share a collection, a failure reaches them all, and the next call works", async () => {
    const collector = new FakeCollector();
    await using scheduler = new GcScheduler({ collector, config: quiet });
    collector.fail = true;
    const attempts = await Promise.allSettled([scheduler.scheduleAndWait(never), scheduler.scheduleAndWait(never)]);
    expect(attempts.map((each) => each.status)).toEqual(["rejected", "rejected"]);
    expect(collector.runs).toBe(1);
    collector.fail = false;
    expect(await scheduler.scheduleAndWait(never)).toEqual(STATS);
  });

  test("a cancelled wait ends, and the end of the scheduler ends all waits", async () => {
    const collector = new FakeCollector(10);
    const scheduler = new GcScheduler({ collector, config: { ...quiet, scheduleDelayMs: 1000 } });
    const controller = new AbortController();
    const cancelled = scheduler.scheduleAndWait(controller.signal).catch(String);
    const stopped = scheduler.scheduleAndWait(never).catch(String);
    await Bun.sleep(1);
    controller.abort(new Error("enough"));
    expect(await cancelled).toContain("enough");
    await scheduler[Symbol.asyncDispose]();
    expect(await stopped).toContain("garbage collection has stopped");
    expect(collector.runs).toBe(0);
  });
});
