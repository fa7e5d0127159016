import { expect, test } from "bun:test";
import { Pool } from "./pool.ts";

test("no more jobs at once than there are places, in order, and a wait can be given up", async () => {
  const pool = new Pool(2, "a place");
  const { signal } = new AbortController();
  const order: number[] = [];
  let running = 0;
  let most = 0;
  const job = (id: number) => async () => {
    running++;
    most = Math.max(most, running);
    order.push(id);
    await Bun.sleep(2);
    running--;
  };
  const stop = new AbortController();
  const jobs = Array.from({ length: 9 }, (_, i) => pool.run(job(i), i === 5 ? stop.signal : signal));
  stop.abort(new DOMException("gone", "AbortError"));
  const results = await Promise.allSettled(jobs);
  expect(results.map((result) => result.status === "fulfilled")).toEqual(results.map((_, i) => i !== 5));
  expect([most, order]).toEqual([2, [0, 1, 2, 3, 4, 6, 7, 8]]);
});

test("what is cheap goes before what is dear, and in order of asking otherwise", async () => {
  const pool = new Pool(1, "a place");
  const { signal } = new AbortController();
  const first = Promise.withResolvers<void>();
  const order: string[] = [];
  const running = pool.run(() => first.promise, signal);
  const jobs = [
    ["dear", 9],
    ["cheap", 1],
    ["middle", 5],
    ["cheap too", 1],
  ] as const;
  const all = jobs.map(([name, cost]) =>
    pool.run(
      async () => {
        await Promise.resolve();
        order.push(name);
      },
      signal,
      cost,
    ),
  );
  first.resolve();
  await Promise.all([running, ...all]);
  expect(order).toEqual(["cheap", "cheap too", "middle", "dear"]);
});
