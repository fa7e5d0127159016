import { describe, expect, test } from "bun:test";
import { type ErrorClass, errorClassOf } from "@stevedore/base";
import type { SnapshotRecord, SnapshotRecords } from "./snapshot-records.ts";

/** A store for one test; disposed afterwards. */
export interface SnapshotRecordsFixture extends AsyncDisposable {
  readonly records: SnapshotRecords;
}

async function refusal(attempt: Promise<unknown>): Promise<{ errorClass: ErrorClass; message: string }> {
  try {
    await attempt;
  } catch (error) {
    return { errorClass: errorClassOf(error), message: error instanceof Error ? error.message : String(error) };
  }
  throw new Error("the call succeeded");
}

async function all(records: SnapshotRecords, ...filters: string[]): Promise<string[]> {
  const names: string[] = [];
  for await (const record of records.walk(filters)) names.push(record.name);
  return names;
}

const USAGE = { inodes: 3, size: 4096 };

/** What every store of snapshot records does. Messages are containerd's (core/snapshots/storage). */
export function snapshotRecordsSuite(name: string, make: () => Promise<SnapshotRecordsFixture>): void {
  describe(`snapshot records: ${name}`, () => {
    test("create() to commit() to a chain keeps ids and lists ancestors nearest first", async () => {
      await using fixture = await make();
      const { records } = fixture;
      const base = await records.create("a1", { kind: "active", parent: "", labels: { k: "v", empty: "" } });
      expect(base).toMatchObject({ kind: "active", parentIds: [] });
      expect(await records.commit("base", { key: "a1", usage: USAGE, labels: { layer: "0" } })).toEqual({
        id: base.id,
        kind: "committed",
        parentIds: [],
      });
      const top = await records.create("a2", { kind: "active", parent: "base" });
      expect(top.parentIds).toEqual([base.id]);
      await records.commit("top", { key: "a2", usage: { inodes: 1, size: 2 } });
      const view = await records.create("view", { kind: "view", parent: "top" });
      expect(view.parentIds).toEqual([top.id, base.id]);
      const record: SnapshotRecord = await records.get("top");
      expect(record).toMatchObject({
        id: top.id,
        kind: "committed",
        name: "top",
        parent: "base",
        labels: {},
        parentIds: [base.id],
        usage: { inodes: 1, size: 2 },
      });
      expect((await records.get("base")).labels).toEqual({ layer: "0" });
      expect((await records.get("view")).usage).toBeUndefined();
      expect([...(await records.idsInUse()).entries()]).toEqual([
        [base.id, "base"],
        [top.id, "top"],
        [view.id, "view"],
      ]);
    });

    test("commit() may set the parent of a snapshot without one, and no other's", async () => {
      await using fixture = await make();
      const { records } = fixture;
      await records.create("p", { kind: "active", parent: "" });
      await records.commit("parent", { key: "p", usage: USAGE });
      await records.create("free", { kind: "active", parent: "" });
      await records.commit("child", { key: "free", usage: USAGE, parent: "parent" });
      expect((await records.get("child")).parent).toBe("parent");
      await records.create("bound", { kind: "active", parent: "parent" });
      expect(await refusal(records.commit("x", { key: "bound", usage: USAGE, parent: "child" }))).toEqual({
        errorClass: "invalid-argument",
        message: 'cannot change parent of active snapshot "bound" on commit: invalid argument',
      });
      expect((await records.get("bound")).kind).toBe("active");
    });

    test("refusals name the class and keep everything as it was", async () => {
      await using fixture = await make();
      const { records } = fixture;
      await records.create("p", { kind: "active", parent: "" });
      await records.commit("parent", { key: "p", usage: USAGE });
      await records.create("child", { kind: "active", parent: "parent" });
      await records.create("view", { kind: "view", parent: "parent" });
      const refusals: readonly [() => Promise<unknown>, ErrorClass, string][] = [
        [
          () => records.create("child", { kind: "view", parent: "" }),
          "already-exists",
          "snapshot child: already exists",
        ],
        [
          () => records.create("n", { kind: "active", parent: "nope" }),
          "not-found",
          'missing parent "nope" bucket: not found',
        ],
        [
          () => records.create("n", { kind: "active", parent: "child" }),
          "invalid-argument",
          'parent "child" is not committed snapshot: invalid argument',
        ],
        [() => records.get("nope"), "not-found", "snapshot does not exist: not found"],
        [
          () => records.commit("parent", { key: "child", usage: USAGE }),
          "already-exists",
          "committed snapshot parent: already exists",
        ],
        [
          () => records.commit("n", { key: "nope", usage: USAGE }),
          "not-found",
          'failed to get active snapshot "nope": not found',
        ],
        [
          () => records.commit("n", { key: "view", usage: USAGE }),
          "failed-precondition",
          'snapshot "view" is not active: failed precondition',
        ],
        [
          () => records.remove("parent"),
          "failed-precondition",
          "cannot remove snapshot with child: failed precondition",
        ],
        [() => records.remove("nope"), "not-found", "snapshot nope: not found"],
        [() => records.update({ name: "nope", labels: {} }, []), "not-found", "snapshot does not exist: not found"],
        [
          () => records.update({ name: "child", labels: {} }, ["parent"]),
          "invalid-argument",
          'cannot update "parent" field on snapshot "child": invalid argument',
        ],
      ];
      for (const [attempt, errorClass, message] of refusals) {
        expect(await refusal(attempt())).toEqual({ errorClass, message });
      }
      expect(await all(records)).toEqual(["child", "parent", "view"]);
    });

    test("ids are never given twice, also after remove()", async () => {
      await using fixture = await make();
      const { records } = fixture;
      const reserved = await records.reserveId();
      const first = await records.create("one", { kind: "active", parent: "", id: reserved });
      expect(first.id).toBe(reserved);
      const second = await records.create("two", { kind: "active", parent: "" });
      expect(await records.remove("two")).toEqual({ id: second.id, kind: "active" });
      const third = await records.create("three", { kind: "view", parent: "" });
      expect(new Set([first.id, second.id, third.id, await records.reserveId()]).size).toBe(4);
    });

    test("update() changes labels by mask, and the time", async () => {
      await using fixture = await make();
      const { records } = fixture;
      await records.create("s", { kind: "active", parent: "", labels: { a: "1", b: "2" } });
      expect(
        (await records.update({ name: "s", labels: { a: "3", c: "4" } }, ["labels.a", "labels.b"])).labels,
      ).toEqual({
        a: "3",
      });
      const replaced = await records.update({ name: "s", labels: { z: "1" } }, []);
      expect(replaced.labels).toEqual({ z: "1" });
      expect(replaced.updatedAt.getTime()).toBeGreaterThanOrEqual(replaced.createdAt.getTime());
    });

    test("walk() lists in name order what any filter matches", async () => {
      await using fixture = await make();
      const { records } = fixture;
      await records.create("b", { kind: "active", parent: "" });
      await records.commit("a", { key: "b", usage: USAGE, labels: { "x.y": "1" } });
      await records.create("c", { kind: "view", parent: "a" });
      expect(await all(records)).toEqual(["a", "c"]);
      expect(await all(records, "kind==committed")).toEqual(["a"]);
      expect(await all(records, "parent==a")).toEqual(["c"]);
      expect(await all(records, 'labels."x.y"==1', "name==c")).toEqual(["a", "c"]);
      expect((await refusal(all(records, "kind=="))).errorClass).toBe("invalid-argument");
    });
  });
}
