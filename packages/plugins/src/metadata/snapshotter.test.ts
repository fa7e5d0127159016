import { describe, expect, test } from "bun:test";
import { classified, type RequestContext } from "@stevedore/base";
import type { SnapshotInfo, Snapshotter } from "@stevedore/core";
import { MemoryContentStore } from "@stevedore/core/content-memory";
import { collect, refusalOf } from "@stevedore/core/content-suite";
import { MemorySnapshotter } from "@stevedore/core/snapshotter-memory";
import { inDefault, inOther } from "@stevedore/core/stores-fixture";
import { temporaryFolder, temporaryStore } from "./fixture.ts";
import { createMetadataStore, createSnapshotRecords, MetadataDatabase } from "./impl.ts";

async function layer(snapshotter: Snapshotter, context: RequestContext, name: string, parent = ""): Promise<void> {
  await snapshotter.prepare(context, `${name}-key`, { parent });
  await snapshotter.commit(context, name, { key: `${name}-key` });
}

async function names(infos: AsyncIterable<SnapshotInfo>): Promise<string[]> {
  return (await collect(infos)).map((info) => info.name);
}

describe("MetadataSnapshotter", () => {
  test("namespaces share a backend and not their names", async () => {
    await using store = await temporaryStore();
    const { snapshotter, backend } = store;
    await layer(snapshotter, inDefault, "base");
    await layer(snapshotter, inOther, "base");
    await layer(snapshotter, inDefault, "top", "base");
    expect(await names(snapshotter.walk(inDefault, []))).toEqual(["base", "top"]);
    expect(await names(snapshotter.walk(inOther, []))).toEqual(["base"]);
    expect((await names(backend.walk(inDefault, []))).map((key) => key.replace(/\d+/, "N"))).toEqual([
      "default/N/base",
      "default/N/top",
      "other/N/base",
    ]);
    expect(await snapshotter.stat(inDefault, "top")).toMatchObject({ kind: "committed", name: "top", parent: "base" });
    expect(await names(snapshotter.walk(inDefault, ["parent==base"]))).toEqual(["top"]);
  });

  test("mounts, usage and stat answer with the backend's, and a missing name with containerd's words", async () => {
    await using store = await temporaryStore();
    const { snapshotter } = store;
    const mounts = await snapshotter.prepare(inDefault, "k", { parent: "" });
    expect(await snapshotter.mounts(inDefault, "k")).toEqual(mounts);
    expect(await snapshotter.usage(inDefault, "k")).toEqual({ inodes: 1, size: 1 });
    for (const attempt of [
      (): Promise<unknown> => snapshotter.stat(inDefault, "nope"),
      (): Promise<unknown> => snapshotter.mounts(inDefault, "nope"),
      (): Promise<unknown> => snapshotter.usage(inDefault, "nope"),
      (): Promise<unknown> => snapshotter.remove(inDefault, "nope"),
      (): Promise<unknown> => snapshotter.update(inDefault, { name: "nope", labels: {} }, []),
      (): Promise<unknown> => snapshotter.commit(inDefault, "x", { key: "nope" }),
      (): Promise<unknown> => snapshotter.stat(inOther, "k"),
    ]) {
      const refusal = await refusalOf(attempt());
      expect(refusal.errorClass).toBe("not-found");
      expect(refusal.message).toMatch(/^snapshot (nope|k) does not exist: not found$/);
    }
    expect((await refusalOf(snapshotter.prepare(inDefault, "n", { parent: "nope" }))).message).toBe(
      "parent snapshot nope does not exist: not found",
    );
  });

  test("what exists answers already-exists and is added to the lease", async () => {
    await using store = await temporaryStore();
    const { snapshotter, leases } = store;
    await layer(snapshotter, inDefault, "base");
    await snapshotter.prepare(inDefault, "k", { parent: "base" });
    await leases.create(inDefault, { id: "l", labels: {} });
    const leased = { ...inDefault, lease: "l" };
    expect((await refusalOf(snapshotter.prepare(leased, "k", { parent: "" }))).message).toBe(
      'snapshot "k": already exists',
    );
    const labels = { "containerd.io/snapshot.ref": "base" };
    expect(await refusalOf(snapshotter.prepare(leased, "other", { parent: "", labels }))).toEqual({
      errorClass: "already-exists",
      message: 'target snapshot "base": already exists',
    });
    await snapshotter.prepare(leased, "mine", { parent: "base" });
    await snapshotter.commit(leased, "mine-committed", { key: "mine" });
    expect(await leases.listResources(inDefault, "l")).toEqual(
      ["base", "k", "mine-committed"].map((id) => ({ type: "snapshots/overlayfs", id })),
    );
    expect((await refusalOf(snapshotter.commit(inDefault, "base", { key: "k" }))).message).toBe(
      'snapshot "base": already exists',
    );
    expect((await snapshotter.stat(inDefault, "k")).kind).toBe("active");
  });

  test("only labels for backends are handed down", async () => {
    await using store = await temporaryStore();
    const { snapshotter, backend } = store;
    const labels = { "containerd.io/snapshot/x": "1", "containerd.io/gc.root": "now", mine: "2" };
    await snapshotter.prepare(inDefault, "k", { parent: "", labels });
    const [info] = await collect(backend.walk(inDefault, []));
    expect(info?.labels).toEqual({ "containerd.io/snapshot/x": "1" });
    expect((await snapshotter.stat(inDefault, "k")).labels).toEqual(labels);
    const updated = await snapshotter.update(inDefault, { name: "k", labels: { mine: "3" } }, ["labels.mine"]);
    expect(updated.labels).toEqual({ ...labels, mine: "3" });
    expect(await refusalOf(snapshotter.update(inDefault, { name: "k", labels: {} }, ["kind"]))).toEqual({
      errorClass: "invalid-argument",
      message: 'cannot update "kind" field on snapshot "k": invalid argument',
    });
  });

  test("remove() refuses a parent; what is removed leaves the backend with the next collection, children first", async () => {
    await using store = await temporaryStore();
    const { snapshotter, backend, collector } = store;
    for (const [name, parent] of [["a"], ["b", "a"], ["c", "b"]] as const)
      await layer(snapshotter, inDefault, name, parent);
    expect(await refusalOf(snapshotter.remove(inDefault, "a"))).toEqual({
      errorClass: "failed-precondition",
      message: "cannot remove snapshot with child: failed precondition",
    });
    for (const name of ["c", "b", "a"]) await snapshotter.remove(inDefault, name);
    expect(backend.folders.size).toBe(3);
    await collector.collect(inDefault.signal);
    expect(backend.folders.size).toBe(0);
  });

  test("a parent may be given at commit", async () => {
    await using store = await temporaryStore();
    const { snapshotter } = store;
    await layer(snapshotter, inDefault, "base");
    await snapshotter.prepare(inDefault, "free", { parent: "" });
    await snapshotter.commit(inDefault, "child", { key: "free", parent: "base" });
    expect((await snapshotter.stat(inDefault, "child")).parent).toBe("base");
    const mounts = await snapshotter.prepare(inDefault, "top", { parent: "child" });
    expect(mounts[0]?.options[0]).toMatch(/^parents=\d+:\d+$/);
  });

  test("a backend that fails leaves nothing behind", async () => {
    const backend = new MemorySnapshotter();
    await using store = await temporaryStore({ snapshotters: { overlayfs: backend } });
    const { snapshotter } = store;
    const prepare = backend.prepare.bind(backend);
    backend.prepare = () => Promise.reject(classified("resource-exhausted", "no space"));
    expect((await refusalOf(snapshotter.prepare(inDefault, "k", { parent: "" }))).message).toBe("no space");
    backend.prepare = () => Promise.reject(classified("already-exists", "odd"));
    expect((await refusalOf(snapshotter.prepare(inDefault, "k", { parent: "" }))).errorClass).toBe("unknown");
    backend.prepare = prepare;
    await snapshotter.prepare(inDefault, "k", { parent: "" });
    const commit = backend.commit.bind(backend);
    backend.commit = () => Promise.reject(classified("unavailable", "gone"));
    expect((await refusalOf(snapshotter.commit(inDefault, "n", { key: "k" }))).message).toBe("gone");
    // The call failed after it was carried out: the backend's records decide.
    backend.commit = async (...args) => {
      await commit(...args);
      throw classified("unavailable", "answer lost");
    };
    expect((await refusalOf(snapshotter.commit(inDefault, "n", { key: "k" }))).message).toBe("answer lost");
    expect((await snapshotter.stat(inDefault, "n")).kind).toBe("committed");
  });

  test("a snapshotter that has the target by itself answers already-exists, and the target is recorded", async () => {
    const backend = new MemorySnapshotter();
    await using store = await temporaryStore({ snapshotters: { overlayfs: backend } });
    const { snapshotter } = store;
    const labels = { "containerd.io/snapshot.ref": "sha256:target" };
    backend.prepare = async (context, key, options) => {
      await backend.view(context, key, options);
      await backend.remove(context, key);
      await backend.records.create("own-key", { kind: "active", parent: options.parent });
      await backend.records.commit("own", { key: "own-key", usage: { inodes: 0, size: 0 }, labels });
      throw classified("already-exists", "have it");
    };
    expect(await refusalOf(snapshotter.prepare(inDefault, "extract", { parent: "", labels }))).toEqual({
      errorClass: "already-exists",
      message: 'target snapshot "sha256:target" from snapshotter: already exists',
    });
    expect(await snapshotter.stat(inDefault, "sha256:target")).toMatchObject({ kind: "committed", labels });
    expect(await names(snapshotter.walk(inDefault, []))).toEqual(["sha256:target"]);
  });

  test("names race: one wins, the others are told so, and nothing is left over", async () => {
    await using store = await temporaryStore();
    const { snapshotter, backend, collector } = store;
    await Promise.all(Array.from({ length: 8 }, (_, i) => snapshotter.prepare(inDefault, `k${i}`, { parent: "" })));
    const attempts = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) => snapshotter.commit(inDefault, "same", { key: `k${i}` })),
    );
    expect(attempts.filter((each) => each.status === "fulfilled")).toHaveLength(1);
    const keys = await Promise.allSettled(
      Array.from({ length: 8 }, () => snapshotter.prepare(inDefault, "one", { parent: "same" })),
    );
    expect(keys.filter((each) => each.status === "fulfilled")).toHaveLength(1);
    for (const name of await names(snapshotter.walk(inDefault, ["kind==active"]))) {
      await snapshotter.remove(inDefault, name);
    }
    await snapshotter.remove(inDefault, "same");
    await collector.collect(inDefault.signal);
    expect(backend.folders.size).toBe(0);
  });

  test.each([true, false])(
    "a commit cut off by a crash is settled at the next start (carried out: %p)",
    async (done) => {
      await using folder = await temporaryFolder();
      {
        await using database = await MetadataDatabase.open({ directory: folder.path });
        const backend = new MemorySnapshotter(createSnapshotRecords(database, "o"));
        const store = await createMetadataStore({
          database,
          content: new MemoryContentStore(),
          snapshotters: { o: backend },
        });
        const snapshotter = store.snapshotters.get("o");
        await snapshotter?.prepare(inDefault, "k", { parent: "" });
        const scope = { namespace: "default", lease: undefined };
        const begun = await database.call("beginCommit", {
          scope,
          snapshotter: "o",
          key: "k",
          name: "n",
          parent: "",
          labels: { a: "1" },
        });
        if (begun.exists !== undefined) throw new Error(begun.exists);
        if (done) await backend.commit(inDefault, begun.backendName, { key: begun.backendKey });
      }
      await using database = await MetadataDatabase.open({ directory: folder.path });
      const store = await createMetadataStore({
        database,
        content: new MemoryContentStore(),
        snapshotters: { o: new MemorySnapshotter(createSnapshotRecords(database, "o")) },
      });
      const snapshotter = store.snapshotters.get("o");
      if (snapshotter === undefined) throw new Error("no snapshotter");
      const infos = await collect(snapshotter.walk(inDefault, []));
      expect(infos.map((info) => [info.name, info.kind, info.labels])).toEqual(
        done ? [["n", "committed", { a: "1" }]] : [["k", "active", {}]],
      );
    },
  );
});
