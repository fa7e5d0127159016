import { describe, expect, test } from "bun:test";
import type { CollectedObject, Labels } from "@stevedore/core";
import { MemoryContentStore } from "@stevedore/core/content-memory";
import { collect, refusalOf, writeBlob } from "@stevedore/core/content-suite";
import { MemorySnapshotter } from "@stevedore/core/snapshotter-memory";
import { inDefault, inOther } from "@stevedore/core/stores-fixture";
import { digestOf } from "@stevedore/oci/digest";
import * as fc from "fast-check";
import { type StoreFixture, temporaryFolder, temporaryStore } from "./fixture.ts";
import { createMetadataStore, MetadataDatabase } from "./impl.ts";
import { labelEdges } from "./nodes.ts";

const signal = new AbortController().signal;
const manifest = (digest: string) => ({ mediaType: "m", digest, size: 1 });

async function blob(store: StoreFixture, text: string, labels: Labels = {}, context = inDefault): Promise<string> {
  const digest = await writeBlob({ store: store.content, context }, `ref-${text}`, Buffer.from(text));
  if (Object.keys(labels).length > 0) await store.content.update(context, { digest, labels }, []);
  return digest;
}

async function blobs(store: StoreFixture, context = inDefault): Promise<string[]> {
  return (await collect(store.content.list(context, []))).map((info) => info.digest);
}

async function layer(
  store: StoreFixture,
  name: string,
  options: { parent?: string; labels?: Labels } = {},
): Promise<void> {
  await store.snapshotter.prepare(inDefault, `${name}-key`, { parent: options.parent ?? "" });
  await store.snapshotter.commit(inDefault, name, { key: `${name}-key`, labels: options.labels ?? {} });
}

async function snapshots(store: StoreFixture): Promise<string[]> {
  return (await collect(store.snapshotter.walk(inDefault, []))).map((info) => info.name);
}

const soon = (ms: number): string => new Date(Date.now() + ms).toISOString();

describe("MetadataCollector", () => {
  test("an image keeps its tree; without it all goes, from the disk too", async () => {
    await using store = await temporaryStore();
    const layers = [await blob(store, "l0"), await blob(store, "l1")];
    await layer(store, "chain0");
    await layer(store, "chain1", { parent: "chain0" });
    const config = await blob(store, "config", { "containerd.io/gc.ref.snapshot.overlayfs": "chain1" });
    const root = await blob(store, "manifest", {
      "containerd.io/gc.ref.content.config": config,
      "containerd.io/gc.ref.content.l.0": layers[0] ?? "",
      "containerd.io/gc.ref.content.l.1": layers[1] ?? "",
    });
    const free = await blob(store, "free");
    await store.images.create(inDefault, { name: "i", labels: {}, target: manifest(root) });
    await store.collector.collect(signal);
    expect(await blobs(store)).toEqual([...layers, config, root].sort());
    expect(store.blobs.blobs.has(free)).toBe(false);
    expect(await snapshots(store)).toEqual(["chain0", "chain1"]);
    await store.images.delete(inDefault, "i", { sync: true });
    expect(await blobs(store)).toEqual([]);
    expect(store.blobs.blobs.size).toBe(0);
    expect(await snapshots(store)).toEqual([]);
    expect(store.backend.folders.size).toBe(0);
    expect(store.collected).toContainEqual<CollectedObject>({
      kind: "snapshot",
      namespace: "default",
      snapshotter: "overlayfs",
      key: "chain1",
    });
  });

  test("leases keep what they name, flat ones only that, expired ones nothing", async () => {
    await using store = await temporaryStore();
    const child = await blob(store, "child");
    const parent = await blob(store, "parent", { "containerd.io/gc.ref.content": child });
    const lease = async (id: string, labels: Labels): Promise<void> => {
      await store.leases.create(inDefault, { id, labels });
      await store.leases.addResource(inDefault, id, { type: "content", id: parent });
    };
    await lease("deep", {});
    await store.collector.collect(signal);
    expect(await blobs(store)).toEqual([child, parent].sort());
    await lease("flat", { "containerd.io/gc.flat": soon(0) });
    await store.leases.delete(inDefault, "deep", { sync: true });
    expect(await blobs(store)).toEqual([parent]);
    await lease("late", { "containerd.io/gc.expire": soon(-1000) });
    await store.leases.delete(inDefault, "flat", { sync: true });
    expect(await blobs(store)).toEqual([]);
    expect(await store.leases.list(inDefault, [])).toEqual([]);
  });

  test("containers keep their snapshot and its parents, back references live as long as what they name", async () => {
    await using store = await temporaryStore();
    await layer(store, "base");
    await store.snapshotter.prepare(inDefault, "rw", { parent: "base" });
    await layer(store, "back", { labels: { "containerd.io/gc.bref.container": "c" } });
    const follower = await blob(store, "follower", { "containerd.io/gc.bref.snapshot.overlayfs": "back" });
    await store.containers.create(inDefault, {
      id: "c",
      labels: {},
      image: "",
      runtime: { name: "r" },
      spec: { typeUrl: "t", value: new Uint8Array() },
      snapshotter: "overlayfs",
      snapshotKey: "rw",
      sandbox: "",
      extensions: {},
    });
    await store.collector.collect(signal);
    expect(await snapshots(store)).toEqual(["back", "base", "rw"]);
    expect(await blobs(store)).toEqual([follower]);
    await store.containers.delete(inDefault, "c");
    await store.collector.collect(signal);
    expect(await snapshots(store)).toEqual([]);
    expect(await blobs(store)).toEqual([]);
  });

  test("roots, expiring images and sandboxes", async () => {
    await using store = await temporaryStore();
    const root = await blob(store, "root", { "containerd.io/gc.root": "x" });
    const target = await blob(store, "target");
    const held = await blob(store, "held");
    await store.images.create(inDefault, {
      name: "soon",
      labels: { "containerd.io/gc.expire": soon(100_000) },
      target: manifest(target),
    });
    await store.sandboxes.create(inDefault, {
      id: "s",
      labels: { "containerd.io/gc.ref.content": held },
      runtime: { name: "r" },
      sandboxer: "",
      extensions: {},
    });
    await store.collector.collect(signal);
    expect(await blobs(store)).toEqual([root, target, held].sort());
    await store.images.update(
      inDefault,
      { name: "soon", labels: { "containerd.io/gc.expire": soon(-1) }, target: manifest(target) },
      ["labels"],
    );
    await store.sandboxes.delete(inDefault, "s");
    await store.collector.collect(signal);
    expect(await blobs(store)).toEqual([root]);
    expect(store.collected).toContainEqual<CollectedObject>({ kind: "image", namespace: "default", name: "soon" });
  });

  test("a blob goes from disk with its last namespace; ingests go when their lease does", async () => {
    await using store = await temporaryStore();
    const digest = await blob(store, "both", {}, inDefault);
    await blob(store, "both", {}, inOther);
    await store.content.delete(inDefault, digest);
    await store.images.create(inOther, { name: "i", labels: {}, target: manifest(digest) });
    await store.collector.collect(signal);
    expect(store.blobs.blobs.has(digest)).toBe(true);
    await store.images.delete(inOther, "i", { sync: true });
    expect(store.blobs.blobs.size).toBe(0);

    await store.leases.create(inDefault, { id: "l", labels: {} });
    for (const [ref, context] of [
      ["leased", { ...inDefault, lease: "l" }],
      ["free", inDefault],
    ] as const) {
      await using writer = await store.content.writer(context, { ref });
      await writer.write(Buffer.from("x"));
    }
    await store.collector.collect(signal);
    expect((await store.content.listStatuses(inDefault, [])).map((status) => status.ref)).toEqual(["free", "leased"]);
    await store.leases.delete(inDefault, "l", { sync: true });
    expect((await store.content.listStatuses(inDefault, [])).map((status) => status.ref)).toEqual(["free"]);
    expect(await store.blobs.listStatuses(inDefault, [])).toHaveLength(1);
  });

  test("shared blobs are given by digest, isolated ones are not", async () => {
    for (const sharingPolicy of ["shared", "isolated"] as const) {
      await using store = await temporaryStore({ sharingPolicy });
      const digest = await blob(store, "shared", {}, inOther);
      await using writer = await store.content.writer(inDefault, { ref: "r", total: 6, expected: digest });
      if (sharingPolicy === "shared") {
        expect(writer.status()).toMatchObject({ offset: 6, total: 6 });
        expect(await writer.commit(inDefault, { size: 6, expected: digest })).toBe(digest);
      } else {
        expect(writer.status().offset).toBe(0);
        await writer.write(Buffer.from("shared"));
        expect(await writer.commit(inDefault, { size: 6, expected: digest })).toBe(digest);
      }
      expect(await blobs(store)).toEqual([digest]);
      expect(store.blobs.blobs.size).toBe(1);
    }
    await using store = await temporaryStore({ sharingPolicy: "isolated" });
    const digest = await blob(store, "shared", {}, inOther);
    await store.namespaces.update(
      inOther,
      { name: "other", labels: { "containerd.io/namespace.shareable": "true" } },
      [],
    );
    await using writer = await store.content.writer(inDefault, { ref: "r", expected: digest });
    expect(writer.status().offset).toBe(6);
    // Written to, it becomes an ingest of its own that begins with the shared bytes.
    await writer.write(Buffer.from("+"));
    expect(await writer.commit(inDefault)).toBe(digestOf("shared+"));
  });

  test("orphans of an earlier run go with the first collection, those of an adopted root stay", async () => {
    for (const adopted of [false, true]) {
      await using folder = await temporaryFolder();
      const content = new MemoryContentStore();
      const backend = new MemorySnapshotter();
      const orphan = async (): Promise<void> => {
        await writeBlob({ store: content, context: inDefault }, "r", Buffer.from("orphan"));
        await backend.prepare(inDefault, "default/1/orphan", { parent: "" });
        await using _writer = await content.writer(inDefault, { ref: "orphan" });
      };
      if (adopted) await orphan();
      {
        await using database = await MetadataDatabase.open({ directory: folder.path });
        await createMetadataStore({ database, content, snapshotters: { o: backend } });
      }
      if (!adopted) await orphan();
      await using database = await MetadataDatabase.open({ directory: folder.path });
      const store = await createMetadataStore({ database, content, snapshotters: { o: backend } });
      await store.collector.collect(signal);
      expect([content.blobs.size, backend.folders.size]).toEqual(adopted ? [1, 1] : [0, 0]);
      expect(await content.listStatuses(inDefault, [])).toHaveLength(adopted ? 1 : 0);
    }
  });

  test("a child that appears in the backend stops the removal of its parent, not the collection", async () => {
    await using store = await temporaryStore();
    // The first one looks for orphans, which the foreign snapshot would be.
    await store.collector.collect(signal);
    await layer(store, "a");
    await store.snapshotter.remove(inDefault, "a");
    const [info] = await collect(store.backend.walk(inDefault, []));
    await store.backend.prepare(inDefault, "foreign", { parent: info?.name ?? "" });
    await store.collector.collect(signal);
    expect(store.backend.folders.size).toBe(2);
    await store.backend.remove(inDefault, "foreign");
    await store.collector.collect(signal);
    expect(store.backend.folders.size).toBe(0);
  });

  test("writes go on while marking, in between its slices", async () => {
    await using store = await temporaryStore();
    await Promise.all(Array.from({ length: 3000 }, (_, i) => blob(store, `b${i}`, { "containerd.io/gc.root": "x" })));
    const waits: number[] = [];
    const state = { collecting: true };
    const began = performance.now();
    const collection = store.collector.collect(signal).finally(() => {
      state.collecting = false;
    });
    for (let i = 0; state.collecting; i++) {
      const start = performance.now();
      await store.leases.create(inDefault, { id: `l${i}`, labels: {} });
      waits.push(performance.now() - start);
    }
    await collection;
    expect(waits.length).toBeGreaterThan(1);
    // A share of the whole, not a time: a busy machine makes both longer.
    expect(Math.max(...waits)).toBeLessThan((performance.now() - began) / 2);
  });

  test("what is named while a collection runs is never lost, and neither is what it refers to", async () => {
    // Trees of blobs (a manifest that refers to a config) that nobody holds. While a collection runs, an image, a lease
    // or another blob's label takes hold of a manifest that still has its record: then manifest and config must both stay.
    const tree = fc.record({
      hold: fc.constantFrom("image", "lease", "label", "none", "reopen"),
      delayMs: fc.integer({ min: 0, max: 12 }),
      size: fc.integer({ min: 1, max: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(tree, { minLength: 1, maxLength: 12 }), async (trees) => {
        await using store = await temporaryStore();
        const anchor = await blob(store, "anchor", { "containerd.io/gc.root": "x" });
        await store.leases.create(inDefault, { id: "keeper", labels: {} });
        const made = await Promise.all(
          trees.map(async ({ size }, i) => {
            let last = await blob(store, `leaf ${i}`);
            const members = [last];
            for (let level = 0; level < size; level++) {
              last = await blob(store, `node ${i} ${level}`, { "containerd.io/gc.ref.content": last });
              members.push(last);
            }
            return { root: last, members };
          }),
        );
        const held = await Promise.all([
          ...trees.map(async ({ hold, delayMs }, i): Promise<readonly string[]> => {
            const one = made[i];
            if (one === undefined || hold === "none") return [];
            await Bun.sleep(delayMs);
            if (hold === "reopen") {
              const context = { ...inDefault, lease: "keeper" };
              const refusal = await store.content
                .writer(context, { ref: `again ${i}`, expected: one.root })
                .then(async (writer) => {
                  await writer[Symbol.asyncDispose]();
                  await store.content.abort(context, `again ${i}`);
                  return "";
                })
                .catch(String);
              return refusal.includes("already exists") ? one.members : [];
            }
            if (hold === "image") {
              await store.images.create(inDefault, { name: `i${i}`, labels: {}, target: manifest(one.root) });
            } else if (hold === "lease") {
              await store.leases.addResource(inDefault, "keeper", { type: "content", id: one.root });
            } else {
              await store.content.update(
                inDefault,
                { digest: anchor, labels: { [`containerd.io/gc.ref.content.${i}`]: one.root } },
                [`labels.containerd.io/gc.ref.content.${i}`],
              );
            }
            // It counts as taken in time if its record was still there when it was named.
            const there = await store.content.info(inDefault, one.root).catch(() => undefined);
            return there === undefined ? [] : one.members;
          }),
          store.collector.collect(signal).then(() => []),
          Bun.sleep(4)
            .then(() => store.collector.collect(signal))
            .then(() => []),
        ]);
        await store.collector.collect(signal);
        const left = new Set(await blobs(store));
        for (const digest of held.flat()) {
          expect(left.has(digest)).toBe(true);
          expect(store.blobs.blobs.has(digest)).toBe(true);
        }
        expect(store.blobs.blobs.size).toBe(left.size);
      }),
      { numRuns: 12 },
    );
  }, 60_000);

  test("snapshots prepared while their parent is being collected are whole or refused", async () => {
    await using store = await temporaryStore();
    for (let round = 0; round < 6; round++) {
      await Promise.all(Array.from({ length: 6 }, (_, i) => layer(store, `r${round}-${i}`)));
      await store.leases.create(inDefault, { id: `lease${round}`, labels: {} });
      const context = { ...inDefault, lease: `lease${round}` };
      const children = await Promise.all([
        ...Array.from({ length: 6 }, async (_, i) => {
          await Bun.sleep(i);
          const parent = `r${round}-${i}`;
          const key = `child-${round}-${i}`;
          const refusal = await store.snapshotter.prepare(context, key, { parent }).then(
            () => undefined,
            (error: unknown) => String(error),
          );
          if (refusal !== undefined) expect(refusal).toContain(`parent snapshot ${parent} does not exist`);
          return refusal === undefined ? [key, parent] : [];
        }),
        store.collector.collect(signal).then((): string[] => []),
      ]);
      await store.collector.collect(signal);
      const left = await snapshots(store);
      for (const name of children.flat()) {
        expect(left).toContain(name);
        expect((await store.snapshotter.stat(inDefault, name)).name).toBe(name);
      }
      await store.leases.delete(inDefault, `lease${round}`);
    }
    await store.collector.collect(signal);
    expect(await snapshots(store)).toEqual([]);
    expect(store.backend.folders.size).toBe(0);
  });

  test("a namespace can go once its blobs are collected", async () => {
    await using store = await temporaryStore();
    await blob(store, "x");
    expect((await refusalOf(store.namespaces.delete(inDefault, "default"))).message).toContain("blobs");
    await store.collector.collect(signal);
    await store.namespaces.delete(inDefault, "default");
    expect(await store.namespaces.list(inDefault)).toEqual([]);
  });
});

describe("labelEdges()", () => {
  test("reads references as containerd does", () => {
    const edges = labelEdges("n", {
      "containerd.io/gc.ref.content": "a",
      "containerd.io/gc.ref.content.l.0": "b",
      "containerd.io/gc.ref.content/x": "c",
      "containerd.io/gc.ref.contentious": "no",
      "containerd.io/gc.ref.snapshot.overlayfs": "s",
      "containerd.io/gc.ref.snapshot.native/x": "t",
      "containerd.io/gc.ref.image": "i",
      "containerd.io/gc.bref.container.x": "k",
      "containerd.io/gc.rooted": "x",
      other: "y",
    });
    expect(edges.references.map((node) => node.split("\0").join(" "))).toEqual([
      "content n a",
      "content n b",
      "content n c",
      "snapshot n overlayfs s",
      "snapshot n native t",
      "image n i",
    ]);
    expect(edges.backReferences.map((node) => node.split("\0").join(" "))).toEqual(["container n k"]);
    expect(edges.root).toBe(true);
  });

  test("conditions on the time of use", () => {
    const { conditional, usedAt } = labelEdges("n", {
      "containerd.io/gc.cond.snapshot.overlayfs": "usedat<1h30m,usedat>2h,nonsense=1|key",
      "containerd.io/gc.cond.value-usedat": "2026-01-01T00:00:00Z",
    });
    const hour = 3_600_000;
    expect(usedAt).toBe(Date.UTC(2026, 0, 1));
    expect(conditional.map(({ holds }) => [holds(0, hour), holds(0, 2.5 * hour)])).toEqual([
      [true, false],
      [false, true],
    ]);
  });
});
