import { expect, test } from "bun:test";
import { coalesce } from "./coalesce.ts";

test("callers share the next run that starts after they asked", async () => {
  let started = 0;
  const gates: PromiseWithResolvers<void>[] = [];
  const run = coalesce(() => {
    started++;
    const gate = Promise.withResolvers<void>();
    gates.push(gate);
    return gate.promise;
  });
  const first = run();
  const late = [run(), run(), run()];
  expect(started).toBe(1);
  gates[0]?.resolve();
  await first;
  await Bun.sleep(0);
  expect(started).toBe(2);
  const later = run();
  gates[1]?.reject(new Error("disk"));
  const results = await Promise.allSettled(late);
  expect(results.map((result) => result.status)).toEqual(["rejected", "rejected", "rejected"]);
  await Bun.sleep(0);
  gates[2]?.resolve();
  await later;
  expect(started).toBe(3);
  const alone = run();
  gates[3]?.resolve();
  await alone;
});
