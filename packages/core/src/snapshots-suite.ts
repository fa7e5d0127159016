import { describe, expect, test } from "bun:test";
import { backgroundContext, errorClassOf } from "@stevedore/base";
import type { Mount } from "./mount.ts";
import type { SnapshotInfo, Snapshotter } from "./snapshots.ts";

/** How a backend differs where the contract lets it. */
export interface SnapshotterTraits {
  /** A snapshot may get its parent at commit (capability `rebase`). */
  readonly rebase: boolean;
  /** Layers one mount can stack: what the deepest chain is tested with. */
  readonly deepest: number;
}

export interface OpenedSnapshotter {
  readonly snapshotter: Snapshotter;
  /** Performs mounts and calls `use` with the folder; undone afterwards. */
  readonly mounted: <T>(mounts: readonly Mount[], use: (dir: string) => Promise<T>) => Promise<T>;
  /** Frees everything, and fails if something is left alive. */
  readonly close: () => Promise<void>;
}

const context = backgroundContext({ namespace: "testing" });

/** Runs a shell script with its arguments as $1, $2 …; what it prints is the result. */
async function shell(script: string, ...args: readonly string[]): Promise<string> {
  const child = Bun.spawn(["sh", "-ec", script, "sh", ...args], { stdout: "pipe", stderr: "pipe" });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${script}: ${await new Response(child.stderr).text()}`);
  return text;
}

/** Names in a folder, sorted. */
async function list(dir: string): Promise<string[]> {
  const names = await shell('ls -A "$1"', dir);
  return names
    .split("\n")
    .filter((name) => name !== "")
    .toSorted();
}

/** Through the shell, since Bun.write makes missing folders and hides a read-only file system's error. */
async function writeText(path: string, text: string): Promise<void> {
  await shell('printf %s "$2" > "$1"', path, text);
}

function readText(path: string): Promise<string> {
  return Bun.file(path).text();
}

async function collect(infos: AsyncIterable<SnapshotInfo>): Promise<SnapshotInfo[]> {
  const all: SnapshotInfo[] = [];
  for await (const info of infos) all.push(info);
  return all;
}

async function classOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    return errorClassOf(error);
  }
}

/** One suite for every snapshotter backend, also behind the metadata store and a socket. Needs root for the mounts. */
export function snapshotterSuite(
  name: string,
  traits: SnapshotterTraits,
  open: () => Promise<OpenedSnapshotter>,
): void {
  const withOne = async (run: (opened: OpenedSnapshotter) => Promise<void>): Promise<void> => {
    const opened = await open();
    try {
      await run(opened);
    } finally {
      await opened.close();
    }
  };
  /** Prepares, changes and commits one layer. */
  const layer = async (
    { snapshotter, mounted }: OpenedSnapshotter,
    committed: string,
    options: { readonly parent?: string; readonly change?: (dir: string) => Promise<void> } = {},
  ): Promise<void> => {
    const key = `active-${committed}`;
    const mounts = await snapshotter.prepare(context, key, { parent: options.parent ?? "" });
    await mounted(mounts, async (dir) => options.change?.(dir));
    await snapshotter.commit(context, committed, { key });
  };

  describe(`Snapshotter contract: ${name}`, () => {
    test("layers show what is below them, changed and deleted", () =>
      withOne(async (opened) => {
        const { snapshotter, mounted } = opened;
        await layer(opened, "one", {
          change: async (dir) => {
            await writeText(`${dir}/kept`, "1");
            await writeText(`${dir}/changed`, "1");
            await writeText(`${dir}/gone`, "1");
            await shell('mkdir "$1/folder"', dir);
            await writeText(`${dir}/folder/inner`, "1");
            await shell('ln -s kept "$1/link"', dir);
          },
        });
        await layer(opened, "two", {
          parent: "one",
          change: async (dir) => {
            await writeText(`${dir}/changed`, "2");
            await shell('rm -r "$1/gone" "$1/folder"', dir);
            await shell('mkdir "$1/folder"', dir);
            await shell('mv "$1/link" "$1/renamed"', dir);
          },
        });
        const check = async (dir: string): Promise<void> => {
          expect(await list(dir)).toEqual(["changed", "folder", "kept", "renamed"]);
          expect(await readText(`${dir}/changed`)).toBe("2");
          expect(await list(`${dir}/folder`)).toEqual([]);
          expect(await readText(`${dir}/renamed`)).toBe("1");
        };
        await mounted(await snapshotter.view(context, "view", { parent: "two" }), check);
        await mounted(await snapshotter.prepare(context, "active", { parent: "two" }), check);
        await mounted(await snapshotter.view(context, "first", { parent: "one" }), async (dir) => {
          expect(await list(dir)).toEqual(["changed", "folder", "gone", "kept", "link"]);
        });
      }));

    test("a view cannot be written, and mounts are what prepare and view returned", () =>
      withOne(async (opened) => {
        const { snapshotter, mounted } = opened;
        await layer(opened, "base", { change: (dir) => writeText(`${dir}/f`, "1") });
        const view = await snapshotter.view(context, "v", { parent: "base" });
        expect(await snapshotter.mounts(context, "v")).toEqual(view);
        await mounted(view, async (dir) => {
          await expect(writeText(`${dir}/g`, "")).rejects.toThrow();
        });
        const active = await snapshotter.prepare(context, "a", { parent: "base" });
        expect(await snapshotter.mounts(context, "a")).toEqual(active);
        const empty = await snapshotter.view(context, "e", { parent: "" });
        await mounted(empty, async (dir) => expect(await list(dir)).toEqual([]));
        expect(await classOf(snapshotter.mounts(context, "base"))).toBe("failed-precondition");
        expect(await classOf(snapshotter.mounts(context, "none"))).toBe("not-found");
      }));

    test("what it tells of a snapshot: kind, parent, labels, times", () =>
      withOne(async (opened) => {
        const { snapshotter } = opened;
        const before = Date.now() - 1000;
        await snapshotter.prepare(context, "a", { parent: "", labels: { x: "1", "containerd.io/gc.root": "now" } });
        const active = await snapshotter.stat(context, "a");
        expect(active).toMatchObject({ kind: "active", name: "a", parent: "", labels: { x: "1" } });
        expect(active.createdAt.getTime()).toBeGreaterThan(before);
        await snapshotter.commit(context, "c", { key: "a", labels: { y: "2" } });
        const committed = await snapshotter.stat(context, "c");
        expect(committed).toMatchObject({ kind: "committed", name: "c", parent: "" });
        expect(committed.labels["y"]).toBe("2");
        expect(committed.labels["x"]).toBeUndefined();
        expect(await classOf(snapshotter.stat(context, "a"))).toBe("not-found");
        await snapshotter.view(context, "v", { parent: "c" });
        expect(await snapshotter.stat(context, "v")).toMatchObject({ kind: "view", parent: "c" });
      }));

    test("labels change by field mask", () =>
      withOne(async ({ snapshotter }) => {
        await snapshotter.prepare(context, "a", { parent: "", labels: { x: "1", y: "1" } });
        await snapshotter.update(context, { name: "a", labels: { x: "2", z: "3" } }, ["labels.x"]);
        expect((await snapshotter.stat(context, "a")).labels).toMatchObject({ x: "2", y: "1" });
        const replaced = await snapshotter.update(context, { name: "a", labels: { z: "3" } }, []);
        expect(replaced.labels["z"]).toBe("3");
        expect(replaced.labels["x"]).toBeUndefined();
        expect(await classOf(snapshotter.update(context, { name: "a", labels: {} }, ["parent"]))).toBe(
          "invalid-argument",
        );
        expect(await classOf(snapshotter.update(context, { name: "none", labels: {} }, []))).toBe("not-found");
      }));

    test("errors have the classes of the contract, and leave nothing", () =>
      withOne(async (opened) => {
        const { snapshotter } = opened;
        await layer(opened, "base");
        await snapshotter.prepare(context, "a", { parent: "base" });
        expect(await classOf(snapshotter.prepare(context, "a", { parent: "base" }))).toBe("already-exists");
        expect(await classOf(snapshotter.view(context, "base", { parent: "" }))).toBe("already-exists");
        expect(await classOf(snapshotter.prepare(context, "b", { parent: "none" }))).toBe("not-found");
        expect(await classOf(snapshotter.prepare(context, "b", { parent: "a" }))).toBe("invalid-argument");
        expect(await classOf(snapshotter.commit(context, "base", { key: "a" }))).toBe("already-exists");
        expect(await classOf(snapshotter.commit(context, "x", { key: "none" }))).toBe("not-found");
        await snapshotter.view(context, "v", { parent: "base" });
        expect(await classOf(snapshotter.commit(context, "x", { key: "v" }))).toBe("failed-precondition");
        expect(await classOf(snapshotter.commit(context, "x", { key: "base" }))).toBe("failed-precondition");
        expect(await classOf(snapshotter.remove(context, "base"))).toBe("failed-precondition");
        expect(await classOf(snapshotter.remove(context, "none"))).toBe("not-found");
        expect(await classOf(snapshotter.usage(context, "none"))).toBe("not-found");
        const left = await collect(snapshotter.walk(context, []));
        expect(left.map((info) => info.name).toSorted()).toEqual(["a", "base", "v"]);
      }));

    test("a removed name can be used again at once, and removal goes from the leaves", () =>
      withOne(async (opened) => {
        const { snapshotter, mounted } = opened;
        await layer(opened, "one", { change: (dir) => writeText(`${dir}/old`, "") });
        await layer(opened, "two", { parent: "one" });
        await snapshotter.remove(context, "two");
        await snapshotter.remove(context, "one");
        expect(await collect(snapshotter.walk(context, []))).toEqual([]);
        await layer(opened, "one", { change: (dir) => writeText(`${dir}/new`, "") });
        await mounted(await snapshotter.view(context, "v", { parent: "one" }), async (dir) => {
          expect(await list(dir)).toEqual(["new"]);
        });
        await snapshotter.cleanup(context);
        await mounted(await snapshotter.mounts(context, "v"), async (dir) => {
          expect(await list(dir)).toEqual(["new"]);
        });
      }));

    test("walk gives what matches any filter", () =>
      withOne(async (opened) => {
        const { snapshotter } = opened;
        await layer(opened, "base");
        await snapshotter.prepare(context, "a", { parent: "base", labels: { k: "v" } });
        await snapshotter.view(context, "v", { parent: "base" });
        const named = async (...filters: string[]): Promise<string[]> =>
          (await collect(snapshotter.walk(context, filters))).map((info) => info.name).toSorted();
        expect(await named()).toEqual(["a", "base", "v"]);
        expect(await named("kind==committed")).toEqual(["base"]);
        expect(await named("parent==base")).toEqual(["a", "v"]);
        expect(await named("name==v", "labels.k==v")).toEqual(["a", "v"]);
      }));

    test("usage counts a snapshot's own files, and is kept at commit", () =>
      withOne(async (opened) => {
        const { snapshotter, mounted } = opened;
        const mounts = await snapshotter.prepare(context, "a", { parent: "" });
        const empty = await snapshotter.usage(context, "a");
        await mounted(mounts, (dir) => writeText(`${dir}/big`, "x".repeat(100_000) + "y".repeat(30_000)));
        const used = await snapshotter.usage(context, "a");
        expect(used.inodes - empty.inodes).toBe(1);
        expect(used.size - empty.size).toBeGreaterThanOrEqual(130_000);
        await snapshotter.commit(context, "c", { key: "a" });
        expect(await snapshotter.usage(context, "c")).toEqual(used);
        await snapshotter.view(context, "v", { parent: "c" });
        expect((await snapshotter.usage(context, "v")).size).toBeLessThan(130_000);
      }));

    test("the root folder keeps its owner over layers", () =>
      withOne(async (opened) => {
        const { snapshotter, mounted } = opened;
        await layer(opened, "one", { change: async (dir) => void (await shell('chown 1234:5678 "$1"', dir)) });
        await layer(opened, "two", { parent: "one", change: (dir) => writeText(`${dir}/f`, "") });
        await mounted(await snapshotter.prepare(context, "a", { parent: "two" }), async (dir) => {
          expect((await shell('stat -c %u:%g "$1"', dir)).trim()).toBe("1234:5678");
        });
      }));

    test(
      `a chain of ${traits.deepest} layers can be mounted and written`,
      () =>
        withOne(async (opened) => {
          const { snapshotter, mounted } = opened;
          let parent = "";
          for (let i = 1; i <= traits.deepest; i++) {
            const key = `k${i}`;
            const mounts = await snapshotter.prepare(context, key, { parent });
            // Written through the mount only now and then: the chain is what counts.
            if (i % 42 === 1) await mounted(mounts, (dir) => writeText(`${dir}/f${i}`, String(i)));
            await snapshotter.commit(context, `c${i}`, { key });
            parent = `c${i}`;
          }
          const wanted = Array.from({ length: traits.deepest }, (_, i) => i + 1)
            .filter((i) => i % 42 === 1)
            .map((i) => `f${i}`);
          await mounted(await snapshotter.prepare(context, "top", { parent }), async (dir) => {
            expect(await list(dir)).toEqual(wanted.toSorted());
            await writeText(`${dir}/new`, "");
          });
        }),
      60_000,
    );

    test(traits.rebase ? "a parent can be given at commit" : "no parent can be given at commit", () =>
      withOne(async (opened) => {
        const { snapshotter, mounted } = opened;
        await layer(opened, "base", { change: (dir) => writeText(`${dir}/low`, "") });
        await layer(opened, "other");
        const mounts = await snapshotter.prepare(context, "a", { parent: "" });
        await mounted(mounts, (dir) => writeText(`${dir}/high`, ""));
        const committed = snapshotter.commit(context, "c", { key: "a", parent: "base" });
        if (!traits.rebase) {
          expect(await classOf(committed)).toBe("invalid-argument");
          return;
        }
        await committed;
        expect((await snapshotter.stat(context, "c")).parent).toBe("base");
        await mounted(await snapshotter.view(context, "v", { parent: "c" }), async (dir) => {
          expect(await list(dir)).toEqual(["high", "low"]);
        });
        await snapshotter.prepare(context, "b", { parent: "base" });
        expect(await classOf(snapshotter.commit(context, "d", { key: "b", parent: "other" }))).toBe("invalid-argument");
        await snapshotter.commit(context, "d", { key: "b", parent: "base" });
        expect(await classOf(snapshotter.remove(context, "base"))).toBe("failed-precondition");
      }),
    );

    test("many at once, with one winner per name", () =>
      withOne(async (opened) => {
        const { snapshotter } = opened;
        await layer(opened, "base");
        const results = await Promise.allSettled(
          Array.from({ length: 40 }, (_, i) => snapshotter.prepare(context, `k${i % 20}`, { parent: "base" })),
        );
        expect(results.filter((result) => result.status === "fulfilled")).toHaveLength(20);
        await Promise.all([
          snapshotter.cleanup(context),
          ...Array.from({ length: 20 }, (_, i) => snapshotter.commit(context, `c${i}`, { key: `k${i}` })),
        ]);
        expect(await collect(snapshotter.walk(context, ["kind==committed"]))).toHaveLength(21);
      }));
  });
}
