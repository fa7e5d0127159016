import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { isErrorClass, messageOf } from "@stevedore/base/errors";
import { diskUsage, mountAll, removeTree, syncFileSystem, unmount, unmountAll, unmountRecursive } from "./blocking.ts";
import { isErrno } from "./errno.ts";
import { MNT, unmountRecursive as unmountNow } from "./mount.ts";
import { mountAt } from "./mountinfo.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync("/tmp/os-blocking-");
});
afterEach(() => {
  unmountNow(dir, { flags: MNT.DETACH });
  rmSync(dir, { recursive: true, force: true });
});

const tmpfs = [{ type: "tmpfs", source: "tmpfs", options: ["size=8m"] }];

test("mounts and unmounts run off the loop", async () => {
  expect(await mountAll(tmpfs, dir)).toEqual([dir]);
  expect(mountAt(dir)?.type).toBe("tmpfs");
  await syncFileSystem(dir);
  await unmount(dir);
  expect(mountAt(dir)).toBeUndefined();
  await unmountAll(dir);
  await unmountRecursive(dir);
});

test("errors arrive whole", async () => {
  try {
    await unmount(`${dir}/missing`);
    expect.unreachable();
  } catch (error) {
    expect(isErrno(error, "ENOENT")).toBe(true);
    expect(isErrorClass(error, "not-found")).toBe(true);
    expect(String(error)).toContain(`unmount ${dir}/missing: no such file or directory`);
  }
});

test("a busy mount is tried until it is free", async () => {
  await mountAll(tmpfs, dir);
  const { openSync, closeSync } = await import("node:fs");
  writeFileSync(`${dir}/f`, "x");
  const fd = openSync(`${dir}/f`, "r");
  setTimeout(() => closeSync(fd), 150);
  await unmount(dir);
  expect(mountAt(dir)).toBeUndefined();
});

test("the loop turns while trees are removed; usage counts an inode once", async () => {
  await mountAll([{ type: "tmpfs", source: "tmpfs", options: [] }], dir);
  for (let d = 0; d < 20; d++) {
    mkdirSync(`${dir}/t/${d}`, { recursive: true });
    for (let f = 0; f < 500; f++) writeFileSync(`${dir}/t/${d}/${f}`, "");
  }
  const { linkSync } = await import("node:fs");
  writeFileSync(`${dir}/t/big`, new Uint8Array(40_960));
  linkSync(`${dir}/t/big`, `${dir}/t/again`);
  const usage = await diskUsage(`${dir}/t`);
  expect(usage.inodes).toBe(20 * 500 + 20 + 1 + 1);
  expect(usage.size).toBe(40_960);
  let beats = 0;
  const beat = setInterval(() => beats++, 1);
  await Promise.all([removeTree(`${dir}/t`), removeTree(`${dir}/t`)]).catch(() => undefined);
  await removeTree(`${dir}/t`);
  clearInterval(beat);
  expect(existsSync(`${dir}/t`)).toBe(false);
  // A blocked loop would have had none in between and one after; more than that is up to the load of the machine.
  expect(beats).toBeGreaterThan(1);
});

test("usage is told of a tree that is being removed", async () => {
  for (let round = 0; round < 5; round++) {
    for (let d = 0; d < 20; d++) {
      mkdirSync(`${dir}/gone/${d}/sub`, { recursive: true });
      for (let f = 0; f < 20; f++) writeFileSync(`${dir}/gone/${d}/sub/${f}`, "");
    }
    const removed = removeTree(`${dir}/gone`);
    while (existsSync(`${dir}/gone`)) {
      // Only the tree itself may be missing.
      const failure = await diskUsage(`${dir}/gone`).then(
        () => undefined,
        (error: unknown) => messageOf(error),
      );
      if (failure !== undefined) expect(failure).toMatch(/^open .*gone: no such file or directory$/);
    }
    await removed;
  }
}, 30_000);

test("a call that has not begun ends with its signal", async () => {
  const abort = new AbortController();
  abort.abort(new Error("enough"));
  await expect(removeTree(`${dir}/x`, { signal: abort.signal })).rejects.toThrow("enough");
  await Bun.sleep(1);
});
