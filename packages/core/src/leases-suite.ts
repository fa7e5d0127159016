import { describe, expect, test } from "bun:test";
import { backgroundContext } from "@stevedore/base";
import { digestOf } from "@stevedore/oci/digest";
import { refusalOf, writeBlob } from "./content-suite.ts";
import { inDefault, inOther, type StoresFixture } from "./stores-fixture.ts";

/** What every lease manager does; messages are containerd's (core/metadata/leases.go). */
export function leasesSuite(
  name: string,
  make: () => Promise<StoresFixture>,
  /** The service in front of a store makes an id for a lease that has none. */
  differences: { readonly makesIds: boolean } = { makesIds: false },
): void {
  describe(`lease manager: ${name}`, () => {
    test("create(), list() and delete()", async () => {
      await using fixture = await make();
      const { leases } = fixture;
      const made = await leases.create(inDefault, { id: "b", labels: { x: "1" } });
      await leases.create(inDefault, { id: "a", labels: {} });
      expect(await leases.list(inDefault, [])).toEqual([expect.objectContaining({ id: "a" }), made]);
      expect((await leases.list(inDefault, ["labels.x==1"])).map((lease) => lease.id)).toEqual(["b"]);
      expect((await leases.list(inDefault, ["id==a"])).map((lease) => lease.id)).toEqual(["a"]);
      expect(await leases.list(inOther, [])).toEqual([]);
      expect(await refusalOf(leases.create(inDefault, { id: "a", labels: {} }))).toEqual({
        errorClass: "already-exists",
        message: 'lease "a": already exists',
      });
      const nameless = leases.create(inDefault, { id: "", labels: {} });
      if (differences.makesIds) expect((await nameless).id).toMatch(/^\d+-[\w-]{4}$/);
      else expect((await refusalOf(nameless)).errorClass).toBe("invalid-argument");
      await leases.delete(inDefault, "a");
      expect(await refusalOf(leases.delete(inDefault, "a"))).toEqual({
        errorClass: "not-found",
        message: 'lease "a": not found',
      });
    });

    test("resources: added twice, listed by type, deleted", async () => {
      await using fixture = await make();
      const { leases } = fixture;
      await leases.create(inDefault, { id: "l", labels: {} });
      const digest = digestOf("x");
      const resources = [
        { type: "content", id: digest },
        { type: "images", id: "img" },
        { type: "ingests", id: "ref" },
        { type: "snapshots/overlayfs", id: "key" },
      ];
      for (const resource of [...resources].reverse()) await leases.addResource(inDefault, "l", resource);
      await leases.addResource(inDefault, "l", { type: "content", id: digest });
      expect(await leases.listResources(inDefault, "l")).toEqual(resources);
      await leases.deleteResource(inDefault, "l", { type: "images", id: "img" });
      await leases.deleteResource(inDefault, "l", { type: "images", id: "never" });
      expect((await leases.listResources(inDefault, "l")).map((each) => each.type)).toEqual([
        "content",
        "ingests",
        "snapshots/overlayfs",
      ]);
      await leases.delete(inDefault, "l");
      await leases.create(inDefault, { id: "l", labels: {} });
      expect(await leases.listResources(inDefault, "l")).toEqual([]);
    });

    test.each([
      ["content/x", "id", "invalid-argument", "invalid resource type content/x: invalid argument"],
      [
        "content",
        "sha256:1",
        "invalid-argument",
        "invalid content resource id sha256:1: invalid checksum digest length: invalid argument",
      ],
      ["snapshots", "k", "invalid-argument", "invalid snapshot resource type snapshots: invalid argument"],
      ["snapshots/a/b", "k", "invalid-argument", "invalid snapshot resource type snapshots/a/b: invalid argument"],
      ["tasks", "t", "not-implemented", "resource type tasks not supported yet: not implemented"],
    ])("a resource of type %s is refused", async (type, id, errorClass, message) => {
      await using fixture = await make();
      await fixture.leases.create(inDefault, { id: "l", labels: {} });
      const refusal: unknown = await refusalOf(fixture.leases.addResource(inDefault, "l", { type, id }));
      expect(refusal).toEqual({ errorClass, message });
    });

    test("a missing lease is not-found for every call", async () => {
      await using fixture = await make();
      const { leases } = fixture;
      const resource = { type: "images", id: "i" };
      for (const attempt of [
        (): Promise<unknown> => leases.addResource(inDefault, "no", resource),
        (): Promise<unknown> => leases.deleteResource(inDefault, "no", resource),
        (): Promise<unknown> => leases.listResources(inDefault, "no"),
      ]) {
        expect(await refusalOf(attempt())).toEqual({ errorClass: "not-found", message: 'lease "no": not found' });
      }
    });

    test("what a call with a lease makes or finds is added to it", async () => {
      await using fixture = await make();
      const { leases, content } = fixture;
      await leases.create(inDefault, { id: "l", labels: {} });
      const leased = { ...inDefault, lease: "l" };
      const digest = await writeBlob({ store: content, context: leased }, "ref", Buffer.from("leased"));
      expect(await leases.listResources(inDefault, "l")).toEqual([{ type: "content", id: digest }]);
      const other = await writeBlob({ store: content, context: inDefault }, "ref", Buffer.from("free"));
      expect((await refusalOf(content.writer(leased, { ref: "r", expected: other }))).errorClass).toBe(
        "already-exists",
      );
      expect(await leases.listResources(inDefault, "l")).toHaveLength(2);
      {
        await using _writer = await content.writer(leased, { ref: "open" });
        expect(await leases.listResources(inDefault, "l")).toContainEqual({ type: "ingests", id: "open" });
      }
      await content.abort(leased, "open");
      expect(await leases.listResources(inDefault, "l")).toHaveLength(2);
      const gone = { ...backgroundContext({ namespace: "default" }), lease: "never" };
      expect(await refusalOf(content.writer(gone, { ref: "r" }))).toEqual({
        errorClass: "not-found",
        message: "lease does not exist: not found",
      });
    });
  });
}
