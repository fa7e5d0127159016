// What the scale lane decides by: a delay must be found, and a noisy machine must not be taken for one.
import { expect, test } from "bun:test";
import { randomFrom } from "../crash/leftovers.ts";
import { type Cycle, compareP99, quantile, Samples, tooSlow } from "../scale/figures.ts";

const ALLOWED = { factor: 1.25, leastMs: 1 };

/** Cycles of calls that take 10 to 20 ms, with bursts in which all take five times as long. */
function cycles(count: number, delayed: (call: number) => boolean, seed = 7): Cycle[] {
  const random = randomFrom(seed);
  const half = (isBeside: boolean): Samples => {
    const samples = new Samples();
    const factor = random() < 0.15 ? 5 : 1;
    for (let call = 0; call < 40; call += 1)
      samples.add("exec", (10 + random() * 10) * factor + (isBeside && delayed(call) ? 2_000 : 0));
    return samples;
  };
  return Array.from({ length: count }, () => ({ usual: half(false), beside: half(true) }));
}

test("one call of forty that waits for a limit is found", () => {
  const found = compareP99(
    cycles(16, (call) => call === 0),
    "exec",
    ALLOWED,
  );
  expect(found.ratio).toBeGreaterThan(10);
  expect(tooSlow([found])).toEqual([found]);
});

test("bursts of a busy machine are not", () => {
  for (let seed = 0; seed < 40; seed += 1) {
    const found = compareP99(
      cycles(16, () => false, seed),
      "exec",
      ALLOWED,
    );
    expect(tooSlow([found])).toEqual([]);
  }
});

test("what is within the allowed factor is not, and the p99 is the quantile's", () => {
  const few = cycles(12, () => false);
  const twice = few.map(({ usual }) => {
    const beside = new Samples();
    for (const ms of usual.of("exec")) beside.add("exec", ms * 2);
    return { usual, beside };
  });
  expect(tooSlow([compareP99(twice, "exec", { factor: 2, leastMs: 1 })])).toEqual([]);
  const { usual, ratio } = compareP99(twice, "exec", ALLOWED);
  expect(ratio).toBe(2);
  expect(usual).toBe(
    quantile(
      few.flatMap((cycle) => [...cycle.usual.of("exec")]),
      0.99,
    ),
  );
});
