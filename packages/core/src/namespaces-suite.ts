import { describe, expect, test } from "bun:test";
import { digestOf } from "@stevedore/oci/digest";
import { refusalOf } from "./content-suite.ts";
import { inDefault, LABEL_REFUSAL, type StoresFixture, TOO_LONG_LABEL } from "./stores-fixture.ts";

/** What every namespace store does; messages are containerd's (core/metadata/namespaces.go). */
export function namespacesSuite(
  name: string,
  make: () => Promise<StoresFixture>,
  /** The service in front of a store answers for a namespace nobody made as if it were there and empty. */
  differences: { readonly unmadeAreEmpty: boolean } = { unmadeAreEmpty: false },
): void {
  describe(`namespace store: ${name}`, () => {
    test("create(), get(), list(), update() and delete()", async () => {
      await using fixture = await make();
      const { namespaces } = fixture;
      const made = await namespaces.create(inDefault, { name: "b", labels: { x: "1", empty: "" } });
      expect(made).toEqual({ name: "b", labels: { x: "1" } });
      await namespaces.create(inDefault, { name: "a", labels: {} });
      expect(await namespaces.list(inDefault)).toEqual([{ name: "a", labels: {} }, made]);
      const updated = await namespaces.update(inDefault, { name: "b", labels: { y: "2" } }, ["labels.y", "labels.x"]);
      expect(updated.labels).toEqual({ y: "2" });
      expect((await namespaces.update(inDefault, { name: "b", labels: { z: "3" } }, [])).labels).toEqual({ z: "3" });
      expect(await namespaces.get(inDefault, "b")).toEqual({ name: "b", labels: { z: "3" } });
      await namespaces.delete(inDefault, "b");
      if (differences.unmadeAreEmpty) {
        expect(await namespaces.get(inDefault, "b")).toEqual({ name: "b", labels: {} });
        const labelled = { name: "b", labels: { x: "1" } };
        expect(await namespaces.update(inDefault, labelled, [])).toEqual(labelled);
        expect(await namespaces.get(inDefault, "b")).toEqual(labelled);
        return;
      }
      for (const attempt of [
        (): Promise<unknown> => namespaces.get(inDefault, "b"),
        (): Promise<unknown> => namespaces.delete(inDefault, "b"),
        (): Promise<unknown> => namespaces.update(inDefault, { name: "b", labels: {} }, []),
      ]) {
        expect(await refusalOf(attempt())).toEqual({ errorClass: "not-found", message: 'namespace "b": not found' });
      }
    });

    test("bad names, labels and masks are refused", async () => {
      await using fixture = await make();
      const { namespaces } = fixture;
      await namespaces.create(inDefault, { name: "a", labels: {} });
      const refusals: readonly [() => Promise<unknown>, string][] = [
        [() => namespaces.create(inDefault, { name: "a", labels: {} }), 'namespace "a": already exists'],
        [
          () => namespaces.create(inDefault, { name: "a b", labels: {} }),
          'identifier "a b" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument',
        ],
        [
          () => namespaces.create(inDefault, { name: "c", labels: TOO_LONG_LABEL }),
          `namespace.Labels: ${LABEL_REFUSAL}`,
        ],
        [
          () => namespaces.update(inDefault, { name: "a", labels: {} }, ["name"]),
          'cannot update "name" field: invalid argument',
        ],
      ];
      for (const [attempt, message] of refusals) expect((await refusalOf(attempt())).message).toBe(message);
    });

    test("a namespace exists from the first object in it, and cannot go while it has one", async () => {
      await using fixture = await make();
      const { namespaces, images, containers, leases } = fixture;
      const target = { mediaType: "m", digest: digestOf("a"), size: 1 };
      await images.create(inDefault, { name: "i", labels: {}, target });
      await containers.create(inDefault, {
        id: "c",
        labels: {},
        image: "",
        runtime: { name: "r" },
        spec: { typeUrl: "t", value: new Uint8Array() },
        snapshotter: "",
        snapshotKey: "",
        sandbox: "",
        extensions: {},
      });
      await leases.create(inDefault, { id: "l", labels: {} });
      expect((await namespaces.list(inDefault)).map((each) => each.name)).toEqual(["default"]);
      expect(await refusalOf(namespaces.delete(inDefault, "default"))).toEqual({
        errorClass: "failed-precondition",
        message: 'namespace "default" must be empty, but it still has images, containers: failed precondition',
      });
      await images.delete(inDefault, "i");
      await containers.delete(inDefault, "c");
      await namespaces.delete(inDefault, "default");
      expect(await leases.list(inDefault, [])).toEqual([]);
    });
  });
}
