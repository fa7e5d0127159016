// Conversions of images, and what removes those that nobody uses.
import { expect } from "bun:test";
import { writeFile } from "node:fs/promises";
import { dockerArchive, ociArchive } from "../harness/images.ts";
import { row } from "../harness/row.ts";

const OCI = "application/vnd.oci.image";
/** What the first client made of the same image: all make the same. */
const made = new Map<string, string>();

row(
  "G01",
  "images convert: plain layers, OCI's media types, one platform; the same digests as the peer's",
  {
    covers: [
      "cmd:ctr images convert",
      "flag:ctr images convert --uncompress",
      "flag:ctr images convert --oci",
      "flag:ctr images convert --platform",
      "flag:ctr images convert --all-platforms",
    ],
  },
  async (t) => {
    const image = await t.image();
    const docker = "docker.io/library/docker:test";
    const archive = t.path(t.id("docker.tar"));
    await writeFile(archive, await dockerArchive({ name: docker, extra: { docker: "other" } }));
    // By the peer's client: it compresses layers of such an archive, ours leaves them as they are, as 2.3.4 does.
    expect(await t.daemon.ctr("debian", t.namespace, ["images", "import", archive])).toMatchObject({ code: 0 });
    const convert = async (name: string, ...args: string[]): Promise<string> => {
      const printed = (await t.must("images", "convert", ...args, `docker.io/library/${name}:1`)).trim();
      expect(printed).toMatch(/^sha256:[0-9a-f]{64}$/);
      expect(await t.must("images", "ls", `name==docker.io/library/${name}:1`)).toContain(printed);
      const known = made.get(name) ?? printed;
      made.set(name, known);
      expect({ name, printed }).toEqual({ name, printed: known });
      return printed;
    };
    const same = await convert("same", image);
    expect(await t.must("images", "ls", `name==${image}`)).toContain(same);
    const plain = await convert("plain", "--uncompress", image);
    expect(JSON.parse(await t.must("content", "get", plain))).toMatchObject({
      layers: [{ mediaType: `${OCI}.layer.v1.tar` }],
    });
    expect(await t.must("run", "--rm", "docker.io/library/plain:1", t.id("a"), "echo", "plain")).toBe("plain\n");
    const oci = await convert("oci", "--oci", docker);
    expect(await t.must("content", "get", oci)).not.toContain("vnd.docker");
    await convert("both", "--oci", "--uncompress", "--all-platforms", docker);
    await convert("one", "--platform", "linux", "--oci", docker);
    // A second time the name moves.
    await t.must("images", "convert", image, "docker.io/library/both:1");
    expect(await t.must("images", "ls", "name==docker.io/library/both:1")).toContain(same);
    // What a conversion made is kept, and nothing else.
    for (const name of [image, docker]) await t.must("images", "rm", "--sync", name);
    expect(await t.must("run", "--rm", "docker.io/library/plain:1", t.id("b"), "echo", "still")).toBe("still\n");

    expect((await t.ctr("images", "convert", "docker.io/library/plain:1")).stderr).toContain(
      "src and target image need to be specified",
    );
    expect((await t.ctr("images", "convert", "docker.io/library/none:1", "docker.io/library/x:1")).code).toBe(1);
  },
);

row(
  "G01",
  "images convert to EROFS says what it waits for",
  { casts: ["ours"], source: "containerd 2.3.4, ctr images convert --help" },
  async (t) => {
    const ran = await t.ctr("images", "convert", "--erofs", "tar", await t.image(), "docker.io/library/e:1");
    expect(ran.code).toBe(1);
    expect(ran.stderr).toContain("waits for the EROFS snapshotter");
  },
);

row(
  "G11",
  "images prune --all removes what no container uses, and content prune references what is unpacked already",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr images prune --help",
    covers: [
      "cmd:ctr images prune",
      "flag:ctr images prune --all",
      "cmd:ctr content prune references",
      "flag:ctr content prune references --async",
      "flag:ctr content prune references --dry",
    ],
  },
  async (t) => {
    const used = await t.image();
    const unused = "docker.io/library/unused:test";
    const archive = t.path(t.id("unused.tar"));
    await writeFile(archive, await ociArchive({ name: unused, extra: { author: "nobody" } }));
    await t.must("images", "import", archive);
    await t.must("containers", "create", used, t.id("c"));
    const without = await t.ctr("images", "prune");
    expect(without.stderr).toContain("requires --all");
    expect((await t.must("images", "ls", "-q")).trim().split("\n")).toHaveLength(2);
    const pruned = await t.ctr("images", "prune", "--all");
    expect(pruned.code).toBe(0);
    expect(pruned.stderr).toContain(`deleted image: ${unused}`);
    expect(await t.must("images", "ls", "-q")).toBe(`${used}\n`);

    const layers = async (): Promise<number> =>
      (await t.must("content", "ls")).split("\n").filter((line) => line.includes("containerd.io/uncompressed")).length;
    expect(await layers()).toBe(1);
    await t.must("content", "prune", "references", "--dry");
    expect(await layers()).toBe(1);
    await t.must("content", "prune", "references", "--async");
    await t.must("content", "prune", "references");
    expect(await layers()).toBe(0);
    expect(await t.must("run", "--rm", used, t.id("r"), "echo", "runs")).toBe("runs\n");
  },
);
