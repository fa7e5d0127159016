import { describe, expect, test } from "bun:test";
import { backgroundContext } from "@stevedore/base";
import { digestOf } from "@stevedore/oci/digest";
import { refusalOf } from "./content-suite.ts";
import type { NewImage } from "./images.ts";
import { inDefault, inOther, LABEL_REFUSAL, type StoresFixture, TOO_LONG_LABEL } from "./stores-fixture.ts";

const target = { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: digestOf("a"), size: 10 };
const image = (name: string, more: Partial<NewImage> = {}): NewImage => ({ name, labels: {}, target, ...more });

/** What every image store does; messages are containerd's (core/metadata/images.go). */
export function imagesSuite(
  name: string,
  make: () => Promise<StoresFixture>,
  /** What an image without a name is told; the service in front of a store has its own words. */
  nameless: { readonly create: string; readonly update: string } = {
    create: "image name must not be empty: invalid argument",
    update: "image name is required for update: invalid argument",
  },
): void {
  describe(`image store: ${name}`, () => {
    test("create() to get(), list() and delete()", async () => {
      await using fixture = await make();
      const { images } = fixture;
      const made = await images.create(inDefault, image("b", { labels: { a: "1", empty: "" } }));
      expect(made).toMatchObject({ name: "b", labels: { a: "1" }, target });
      expect(made.createdAt).toEqual(made.updatedAt);
      expect(await images.get(inDefault, "b")).toEqual(made);
      await images.create(inDefault, image("a"));
      expect((await images.list(inDefault, [])).map((each) => each.name)).toEqual(["a", "b"]);
      await images.delete(inDefault, "b");
      expect((await images.list(inDefault, [])).map((each) => each.name)).toEqual(["a"]);
      expect(await refusalOf(images.get(inDefault, "b"))).toEqual({
        errorClass: "not-found",
        message: 'image "b": not found',
      });
      expect((await refusalOf(images.delete(inDefault, "b"))).message).toBe('image "b": not found');
    });

    test("namespaces see only their own, and every call needs one", async () => {
      await using fixture = await make();
      const { images } = fixture;
      await images.create(inDefault, image("a"));
      expect(await images.list(inOther, [])).toEqual([]);
      await images.create(inOther, image("a"));
      expect(await refusalOf(images.list(backgroundContext(), []))).toEqual({
        errorClass: "failed-precondition",
        message: "namespace is required: failed precondition",
      });
      const bad = await refusalOf(images.get(backgroundContext({ namespace: "a/b" }), "a"));
      expect(bad.message).toBe(
        'namespace validation: identifier "a/b" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument',
      );
    });

    test.each([
      [image(""), nameless.create],
      [image("x", { labels: TOO_LONG_LABEL }), `image.Labels: ${LABEL_REFUSAL}`],
      [
        image("x", { target: { ...target, digest: "sha256:1" } }),
        'Target.Digest "sha256:1" invalid: invalid checksum digest length: invalid argument',
      ],
      [image("x", { target: { ...target, size: 0 } }), "Target.Size must be greater than zero: invalid argument"],
      [image("x", { target: { ...target, mediaType: "" } }), "Target.MediaType must be set: invalid argument"],
    ])("create() refuses %#", async (wanted, message) => {
      await using fixture = await make();
      expect(await refusalOf(fixture.images.create(inDefault, wanted))).toEqual({
        errorClass: "invalid-argument",
        message,
      });
      expect(await fixture.images.list(inDefault, [])).toEqual([]);
    });

    test("create() twice answers already-exists", async () => {
      await using fixture = await make();
      await fixture.images.create(inDefault, image("a"));
      expect(await refusalOf(fixture.images.create(inDefault, image("a")))).toEqual({
        errorClass: "already-exists",
        message: 'image "a": already exists',
      });
    });

    test("update() follows the mask", async () => {
      await using fixture = await make();
      const { images } = fixture;
      const made = await images.create(inDefault, image("a", { labels: { keep: "1", drop: "2" } }));
      const other = { ...target, digest: digestOf("b"), size: 11, annotations: { x: "y" } };
      const update = image("a", { labels: { new: "3" }, target: other });
      const labelled = await images.update(inDefault, update, ["labels.new", "labels.drop"]);
      expect(labelled).toMatchObject({ labels: { keep: "1", new: "3" }, target });
      expect(labelled.updatedAt.getTime()).toBeGreaterThan(made.updatedAt.getTime());
      expect(labelled.createdAt).toEqual(made.createdAt);
      const retargeted = await images.update(inDefault, update, ["target"]);
      expect(retargeted).toMatchObject({ labels: { keep: "1", new: "3" }, target: other });
      expect((await images.update(inDefault, image("a"), ["annotations.x"])).target.annotations).toBeUndefined();
      const replaced = await images.update(inDefault, image("a", { labels: { only: "1" } }), []);
      expect(replaced).toMatchObject({ labels: { only: "1" }, target });
      expect(await images.get(inDefault, "a")).toEqual(replaced);
      expect(await refusalOf(images.update(inDefault, update, ["name"]))).toEqual({
        errorClass: "invalid-argument",
        message: 'cannot update "name" field on image "a": invalid argument',
      });
      expect((await refusalOf(images.update(inDefault, image("nope"), []))).message).toBe('image "nope": not found');
      expect((await refusalOf(images.update(inDefault, image(""), []))).message).toBe(nameless.update);
      expect((await refusalOf(images.update(inDefault, image("a", { labels: TOO_LONG_LABEL }), []))).message).toBe(
        `image.Labels: ${LABEL_REFUSAL}`,
      );
    });

    test("delete() with a target only removes what still points there", async () => {
      await using fixture = await make();
      const { images } = fixture;
      await images.create(inDefault, image("a"));
      const other = digestOf("other");
      expect(await refusalOf(images.delete(inDefault, "a", { target: other }))).toEqual({
        errorClass: "not-found",
        message: `image "a" has target ${target.digest}, not ${other}: not found`,
      });
      await images.delete(inDefault, "a", { target: target.digest });
      expect(await images.list(inDefault, [])).toEqual([]);
    });

    test("list() filters by name, target, labels and annotations", async () => {
      await using fixture = await make();
      const { images } = fixture;
      await images.create(inDefault, image("a", { labels: { "x.y": "1" } }));
      await images.create(
        inDefault,
        image("b", { target: { ...target, digest: digestOf("b"), annotations: { k: "v" } } }),
      );
      const names = async (...filters: string[]): Promise<string[]> =>
        (await images.list(inDefault, filters)).map((each) => each.name);
      expect(await names("name==a")).toEqual(["a"]);
      expect(await names(`target.digest==${digestOf("b")}`)).toEqual(["b"]);
      expect(await names('labels."x.y"==1', "name==b")).toEqual(["a", "b"]);
      expect(await names("annotations.k==v")).toEqual(["b"]);
      expect(await names("target.mediatype~=manifest")).toEqual(["a", "b"]);
      expect(await refusalOf(names("name=="))).toEqual({
        errorClass: "invalid-argument",
        message: "filters: parse error: [name==]: expected value or quoted: invalid argument: invalid argument",
      });
    });

    test("names and labels of any text come back as they were", async () => {
      await using fixture = await make();
      const { images } = fixture;
      const labels = { __proto__x: "1", constructor: "2", ключ: "значение \u0000 '\"\\", 1: "number" };
      for (const odd of ["a' OR 1=1 --", 'q"uote', "nul\u0000byte", "../../x", "😀"]) {
        await images.create(inDefault, image(odd, { labels }));
        expect(await images.get(inDefault, odd)).toMatchObject({ name: odd, labels });
      }
      expect(await images.list(inDefault, [])).toHaveLength(5);
    });
  });
}
