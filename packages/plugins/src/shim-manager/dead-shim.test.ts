import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger, errorClassOf } from "@stevedore/base";
import { cleanUpDead, cleanUpLater } from "./dead-shim.ts";
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

const signal = new AbortController().signal;

test("cleanUpDead() ends what takes too long, and says so", async () => {
  const slow = binary(60_000);
  const failed = inBundle(async (bundle) => cleanUpDead(slow, bundle, { limitMs: 20, log }));
  expect(await failed.catch(errorClassOf)).toBe("deadline-exceeded");
  expect(slow.calls).toBe(1);
});

test("cleanUpLater() gives a slow machine more time, try by try", async () => {
  const slow = binary(150);
  await inBundle(async (bundle) => cleanUpLater(slow, bundle, { limitMs: 30, log, signal }));
  expect(slow.calls).toBeGreaterThan(1);
});

test("cleanUpLater() gives up at last, and at once on what is no matter of time", async () => {
  const stuck = binary(60_000);
  const given = inBundle(async (bundle) => cleanUpLater(stuck, bundle, { limitMs: 5, log, signal }));
  expect(await given.catch(errorClassOf)).toBe("deadline-exceeded");
  expect(stuck.calls).toBe(3);
  let calls = 0;
  const wrong = {
    delete: async (): Promise<DeadExit> => {
      calls += 1;
      throw new Error("no such runtime");
    },
  };
  const failed = inBundle(async (bundle) => cleanUpLater(wrong, bundle, { limitMs: 1000, log, signal }));
  expect(await failed.catch(String)).toContain("no such runtime");
  expect(calls).toBe(1);
});
