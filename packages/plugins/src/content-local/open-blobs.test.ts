import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, readdir, readlink, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OpenBlobs } from "./open-blobs.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "stevedore-open-blobs-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

async function descriptorsOf(path: string): Promise<number> {
  let count = 0;
  for (const fd of await readdir("/proc/self/fd")) {
    const target = await readlink(`/proc/self/fd/${fd}`).catch(() => "");
    if (target.startsWith(path)) count++;
  }
  return count;
}

test("readers of one blob share a file, which closes after a while", async () => {
  const path = join(folder, "a");
  await writeFile(path, "bytes");
  const blobs = new OpenBlobs();
  const uses = await Promise.all([blobs.use(path), blobs.use(path), blobs.use(path)]);
  expect(uses.map((use) => use.size)).toEqual([5, 5, 5]);
  expect(await descriptorsOf(path)).toBe(1);
  for (const use of uses) await use.release();
  for (const use of uses) await use.release();
  expect(await descriptorsOf(path)).toBe(1);
  await Bun.sleep(300);
  expect(await descriptorsOf(path)).toBe(0);
});

test("forget() closes at once what nobody uses, and later what somebody does", async () => {
  const path = join(folder, "b");
  await writeFile(path, "bytes");
  const blobs = new OpenBlobs();
  await (await blobs.use(path)).release();
  await blobs.forget(path);
  expect(await descriptorsOf(path)).toBe(0);
  const use = await blobs.use(path);
  await blobs.forget(path);
  expect(await descriptorsOf(path)).toBe(1);
  await use.release();
  expect(await descriptorsOf(path)).toBe(0);
});

test("a file that is not there is asked for again", async () => {
  const path = join(folder, "c");
  const blobs = new OpenBlobs();
  expect(blobs.use(path)).rejects.toThrow("ENOENT");
  await Bun.sleep(5);
  await writeFile(path, "now");
  const use = await blobs.use(path);
  expect(use.size).toBe(3);
  await use.release();
  await blobs.forget(path);
});

test("no more than a few files stay open without a reader", async () => {
  const blobs = new OpenBlobs();
  for (let count = 0; count < 60; count++) {
    const path = join(folder, `many-${count}`);
    await writeFile(path, "x");
    await (await blobs.use(path)).release();
  }
  expect(await descriptorsOf(join(folder, "many-"))).toBeLessThanOrEqual(32);
});
