import { expect, test } from "bun:test";
import { withoutStragglers } from "./stragglers.ts";

const PATIENCE_MS = 50;

function never(): Promise<string> {
  return new Promise(() => undefined);
}

test("what does not answer is given up after the others, and asked once what to take instead", async () => {
  let times = 0;
  const instead = (): string => {
    times += 1;
    return "known";
  };
  const asked = [
    { answer: never(), instead },
    { answer: Promise.resolve("told"), instead },
  ];
  const began = performance.now();
  expect(await withoutStragglers(asked, PATIENCE_MS)).toEqual(["known", "told"]);
  expect(performance.now() - began).toBeGreaterThanOrEqual(PATIENCE_MS - 1);
  expect(times).toBe(1);
});

test("slow answers that come one after the other are all waited for", async () => {
  const slow = (index: number): Promise<string> => Bun.sleep(index * (PATIENCE_MS / 2)).then(() => `told ${index}`);
  const asked = Array.from({ length: 6 }, (_, index) => ({ answer: slow(index), instead: () => "known" }));
  expect(await withoutStragglers(asked, PATIENCE_MS * 4)).toEqual(asked.map((_, index) => `told ${index}`));
});

test("what nothing is known of instead is waited for", async () => {
  const asked = [
    { answer: Bun.sleep(PATIENCE_MS * 3).then(() => "told") },
    { answer: never(), instead: () => "known" },
  ];
  expect(await withoutStragglers(asked, PATIENCE_MS)).toEqual(["told", "known"]);
});

test("none asked, and a failure among the answers", async () => {
  expect(await withoutStragglers([], PATIENCE_MS)).toEqual([]);
  const asked = [{ answer: Promise.reject(new Error("no")), instead: () => "known" }, { answer: never() }];
  await expect(withoutStragglers(asked.slice(0, 1), PATIENCE_MS)).rejects.toThrow("no");
});

test("a loop that was held up does not make stragglers of those whose answers lie there", async () => {
  const held = new Promise<string>((resolve) => {
    setTimeout(() => resolve("told"), 1);
  });
  const listing = withoutStragglers([{ answer: held, instead: () => "known" }], PATIENCE_MS);
  const until = performance.now() + PATIENCE_MS * 3;
  while (performance.now() < until); // as a long collection does
  expect(await listing).toEqual(["told"]);
});
