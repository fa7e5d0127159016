import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "@stevedore/base";
import { cleanUpDead } from "./dead-shim.ts";
import type { DeadExit } from "./shim-binary.ts";

const EXIT: DeadExit = { pid: 7, exitStatus: 137, exitedAt: new Date(0) };

/** A binary that needs `neededMs` for its work, and ends with its signal before. */
function binary(neededMs: number): { readonly calls: number; delete(signal: AbortSignal): Promise<DeadExit> } {
  return {
    calls: 0,
    async delete(this: { calls: number }, signal) {
      this.calls += 1;
      const { promise, resolve, reject } = Promise.withResolvers<DeadExit>();
      const timer = setTimeout(() => resolve(EXIT), neededMs);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new Error("cut off"));
      });
      return promise;
    },
  };
}

async function inBundle<T>(use: (bundle: { id: string; path: string }) => Promise<T>): Promise<T> {
  const path = await mkdtemp(join(tmpdir(), "stevedore-dead-shim-"));
  try {
    return await use({ id: "a", path });
  } finally {
    await rm(path, { recursive: true });
  }
}

const log = createLogger();

test("cleanUpDead() gives a slow machine more time, try by try", async () => {
  const slow = binary(150);
  expect(await inBundle(async (bundle) => cleanUpDead(slow, bundle, { limitMs: 60, log }))).toEqual(EXIT);
  expect(slow.calls).toBeGreaterThan(1);
});

test("cleanUpDead() gives up at last, and at once on what is no matter of time", async () => {
  const stuck = binary(60_000);
  await expect(inBundle(async (bundle) => cleanUpDead(stuck, bundle, { limitMs: 5, log }))).rejects.toThrow("cut off");
  let calls = 0;
  const wrong = {
    delete: async (): Promise<DeadExit> => {
      calls += 1;
      throw new Error("no such runtime");
    },
  };
  await expect(inBundle(async (bundle) => cleanUpDead(wrong, bundle, { limitMs: 1000, log }))).rejects.toThrow(
    "no such runtime",
  );
  expect(calls).toBe(1);
});
