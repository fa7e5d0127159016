import { describe, expect, test } from "bun:test";
import type { NewContainer } from "./containers.ts";
import { refusalOf } from "./content-suite.ts";
import type { AnyValue } from "./events.ts";
import { inDefault, inOther, LABEL_REFUSAL, type StoresFixture, TOO_LONG_LABEL } from "./stores-fixture.ts";

const any = (typeUrl: string, ...bytes: number[]): AnyValue => ({ typeUrl, value: Uint8Array.from(bytes) });
const container = (id: string, more: Partial<NewContainer> = {}): NewContainer => ({
  id,
  labels: {},
  image: "img",
  runtime: { name: "io.containerd.runc.v2" },
  spec: any("spec", 0, 255, 128),
  snapshotter: "",
  snapshotKey: "",
  sandbox: "",
  extensions: {},
  ...more,
});
const plain = (value: AnyValue | undefined): unknown =>
  value === undefined ? undefined : { typeUrl: value.typeUrl, value: [...value.value] };

/** What every container store does; messages are containerd's (core/metadata/containers.go). */
export function containersSuite(name: string, make: () => Promise<StoresFixture>): void {
  describe(`container store: ${name}`, () => {
    test("create() to get(), list() and delete(), with every byte kept", async () => {
      await using fixture = await make();
      const { containers } = fixture;
      // Bytes that are a view into something larger, as they come from the wire.
      const wire = Uint8Array.from({ length: 64 }, (_, i) => i);
      const options = { typeUrl: "opts", value: wire.subarray(10, 14) };
      const wanted = container("c1", {
        labels: { a: "1" },
        runtime: { name: "r", options },
        snapshotter: "overlayfs",
        snapshotKey: "key",
        sandbox: "sb",
        extensions: { e: any("ext", 1, 0), f: { typeUrl: "g", value: wire.subarray(0, 2) } },
      });
      const made = await containers.create(inDefault, wanted);
      const got = await containers.get(inDefault, "c1");
      expect(got).toMatchObject({
        id: "c1",
        labels: { a: "1" },
        image: "img",
        snapshotter: "overlayfs",
        snapshotKey: "key",
        sandbox: "sb",
      });
      expect(got.createdAt).toEqual(made.createdAt);
      expect(plain(got.spec)).toEqual({ typeUrl: "spec", value: [0, 255, 128] });
      expect(got.runtime.name).toBe("r");
      expect(plain(got.runtime.options)).toEqual({ typeUrl: "opts", value: [10, 11, 12, 13] });
      expect(plain(got.extensions["e"])).toEqual({ typeUrl: "ext", value: [1, 0] });
      expect(plain(got.extensions["f"])).toEqual({ typeUrl: "g", value: [0, 1] });
      await containers.create(inDefault, container("b"));
      expect((await containers.list(inDefault, [])).map((each) => each.id)).toEqual(["b", "c1"]);
      await containers.delete(inDefault, "c1");
      expect(await refusalOf(containers.get(inDefault, "c1"))).toEqual({
        errorClass: "not-found",
        message: 'container "c1" in namespace "default": not found',
      });
      expect((await refusalOf(containers.delete(inDefault, "c1"))).message).toBe("container c1: not found");
      expect((await refusalOf(containers.delete(inOther, "c1"))).message).toBe(
        'cannot delete container "c1" in namespace "other": not found',
      );
    });

    test("an empty spec is a spec", async () => {
      await using fixture = await make();
      await fixture.containers.create(inDefault, container("c", { spec: any("t") }));
      expect(plain((await fixture.containers.get(inDefault, "c")).spec)).toEqual({ typeUrl: "t", value: [] });
    });

    const { spec: _spec, ...withoutSpec } = container("x");
    test.each([
      [container(""), "container.ID: identifier must not be empty: invalid argument"],
      [
        container("a/b"),
        'container.ID: identifier "a/b" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument',
      ],
      [
        container("x".repeat(77)),
        `container.ID: identifier "${"x".repeat(77)}" greater than maximum length (76 characters): invalid argument`,
      ],
      [container("x", { labels: TOO_LONG_LABEL }), `containers.Labels: ${LABEL_REFUSAL}`],
      [container("x", { runtime: { name: "" } }), "container.Runtime.Name must be set: invalid argument"],
      [withoutSpec, "container.Spec must be set: invalid argument"],
      [
        container("x", { snapshotKey: "k" }),
        "container.Snapshotter must be set if container.SnapshotKey is set: invalid argument",
      ],
      [
        container("x", { extensions: { "": any("t") } }),
        "container.Extension keys must not be zero-length: invalid argument",
      ],
    ])("create() refuses %#", async (wanted, message) => {
      await using fixture = await make();
      expect(await refusalOf(fixture.containers.create(inDefault, wanted))).toEqual({
        errorClass: "invalid-argument",
        message: `create container failed validation: ${message}`,
      });
    });

    test("create() twice answers already-exists, in another namespace it does not", async () => {
      await using fixture = await make();
      await fixture.containers.create(inDefault, container("a"));
      await fixture.containers.create(inOther, container("a"));
      expect(await refusalOf(fixture.containers.create(inDefault, container("a")))).toEqual({
        errorClass: "already-exists",
        message: 'container "a": already exists',
      });
    });

    test("update() follows the mask and keeps what may not change", async () => {
      await using fixture = await make();
      const { containers } = fixture;
      const made = await containers.create(
        inDefault,
        container("a", { labels: { keep: "1", drop: "2" }, snapshotter: "s", extensions: { e: any("e", 1) } }),
      );
      const wanted = container("a", {
        labels: { new: "3" },
        image: "other",
        spec: any("spec2", 9),
        snapshotter: "s",
        snapshotKey: "k2",
        extensions: { f: any("f", 2) },
      });
      const one = await containers.update(inDefault, wanted, ["labels.new", "labels.drop", "extensions.f"]);
      expect(one).toMatchObject({ labels: { keep: "1", new: "3" }, image: "img", snapshotKey: "" });
      expect(Object.keys(one.extensions).sort()).toEqual(["e", "f"]);
      expect(one.updatedAt.getTime()).toBeGreaterThan(made.updatedAt.getTime());
      const all = await containers.update(inDefault, wanted, []);
      expect(all).toMatchObject({ labels: { new: "3" }, image: "other", snapshotKey: "k2" });
      expect(plain(all.spec)).toEqual({ typeUrl: "spec2", value: [9] });
      expect(Object.keys(all.extensions)).toEqual(["f"]);
      const refusals: readonly [NewContainer, readonly string[], string][] = [
        [wanted, ["runtime"], 'cannot update "runtime" field on "a": invalid argument'],
        [{ ...wanted, snapshotter: "t" }, [], "container.Snapshotter field is immutable: invalid argument"],
        [{ ...wanted, runtime: { name: "n" } }, [], "container.Runtime.Name field is immutable: invalid argument"],
        [
          { ...wanted, labels: TOO_LONG_LABEL },
          ["labels"],
          `update failed validation: containers.Labels: ${LABEL_REFUSAL}`,
        ],
        [container(""), [], "must specify a container id: invalid argument"],
        [container("nope"), [], 'container "nope": not found'],
      ];
      for (const [attempt, fields, message] of refusals) {
        expect((await refusalOf(containers.update(inDefault, attempt, fields))).message).toBe(message);
      }
    });

    test("list() filters by id, image, runtime and labels", async () => {
      await using fixture = await make();
      const { containers } = fixture;
      await containers.create(inDefault, container("a", { labels: { x: "1" } }));
      await containers.create(inDefault, container("b", { image: "other", runtime: { name: "r2" } }));
      const ids = async (...filters: string[]): Promise<string[]> =>
        (await containers.list(inDefault, filters)).map((each) => each.id);
      expect(await ids("id==a")).toEqual(["a"]);
      expect(await ids("image==other")).toEqual(["b"]);
      expect(await ids("runtime.name==r2", "labels.x")).toEqual(["a", "b"]);
      expect(await ids("labels.x!=1")).toEqual(["b"]);
    });
  });
}
