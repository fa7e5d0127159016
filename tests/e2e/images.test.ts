import { expect } from "bun:test";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { mountsBelow } from "../harness/daemon.ts";
import { digestOf, dockerArchive, IMAGE, ociArchive } from "../harness/images.ts";
import { exec } from "../harness/process.ts";
import { row } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

const columns = (text: string): string[] => (text.split("\n")[0] ?? "").trim().split(/\s+/);

row(
  "G05",
  "images ls: REF, TYPE, DIGEST, SIZE, PLATFORMS, LABELS",
  { covers: ["cmd:ctr images list", "flag:ctr images list --quiet", "rpc:containerd.services.images.v1.Images/List"] },
  async (t) => {
    const image = await t.image();
    const listed = await t.must("images", "ls");
    expect(columns(listed)).toEqual(["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]);
    expect(listed).toMatch(
      /^docker.io\/library\/busybox:test\s+application\/vnd.oci.image.manifest.v1\+json\s+sha256:[0-9a-f]{64}\s+\d+\.\d (MiB|KiB)\s+linux\/\w+\s+-/m,
    );
    expect(await t.must("images", "ls", "-q")).toBe(`${image}\n`);
    expect(await t.must("images", "ls", "-q", "name==nothing")).toBe("");
  },
);

row(
  "G10",
  "import tells what it unpacked, of an OCI layout and of a docker-archive",
  { covers: ["cmd:ctr images import"] },
  async (t) => {
    for (const [name, make] of [
      ["oci", ociArchive],
      ["docker", dockerArchive],
    ] as const) {
      const file = t.path(`${t.id(name)}.tar`);
      await writeFile(file, await make({ name: `docker.io/library/${name}:1` }));
      const ran = await t.ctr("images", "import", file);
      expect(ran.code).toBe(0);
      expect(ran.stdout + ran.stderr).toContain(`docker.io/library/${name}:1`);
      expect(await t.must("run", "--rm", `docker.io/library/${name}:1`, t.id(name), "echo", "works")).toBe("works\n");
    }
  },
);

row(
  "C10",
  "an image of three layers, gzip and zstd: the upper layer wins, a whiteout removes",
  { timeoutMs: 90_000 },
  async (t) => {
    const layers = [
      tar([
        { path: "data/", type: "dir" },
        { path: "data/one", data: "lower" },
        { path: "data/two", data: "lower" },
        { path: "gone/", type: "dir" },
        { path: "gone/x", data: "x" },
      ]),
      tar([
        { path: "data/one", data: "upper" },
        { path: "data/.wh.two", data: "" },
        { path: "gone/", type: "dir" },
        { path: "gone/.wh..wh..opq", data: "" },
        { path: "gone/y", data: "y" },
      ]),
    ];
    for (const compress of t.cast.daemon === "ours"
      ? (["none", "gzip", "zstd"] as const)
      : (["none", "gzip"] as const)) {
      const image = await t.image({ name: `docker.io/library/layers:${compress}`, layers, compress });
      const ran = await t.ctr("run", "--rm", image, t.id(compress), "sh", "-c", "cat data/one; ls data gone");
      expect(ran).toEqual({ code: 0, stdout: "upperdata:\none\n\ngone:\ny\n", stderr: "" });
    }
  },
);

row(
  "C08",
  "environment, command, user, folder and entrypoint of the image configuration reach the process",
  {},
  async (t) => {
    const image = await t.image({
      name: "docker.io/library/configured:1",
      config: {
        Env: ["PATH=/bin", "COLOR=green"],
        Entrypoint: ["sh", "-c"],
        Cmd: ["id -u; id -g; pwd; echo $COLOR"],
        User: "user",
        WorkingDir: "/tmp",
      },
    });
    expect(await t.must("run", "--rm", image, t.id("c"))).toBe("1000\n1000\n/tmp\ngreen\n");
  },
);

row("C18", "a layer's chain ID names its committed snapshot", { covers: ["cmd:ctr snapshots list"] }, async (t) => {
  const layer = tar([{ path: "x", data: "x" }]);
  const image = await t.image({ name: "docker.io/library/chain:1", layers: [layer], bare: true });
  const base = digestOf(layer);
  expect(await t.must("snapshots", "ls")).toMatch(new RegExp(`^${base}\\s+Committed`, "m"));
  expect(await t.must("images", "ls", "-q")).toBe(`${image}\n`);
});

row("C19", "the record, the blobs and the snapshots agree", { covers: ["cmd:ctr images check"] }, async (t) => {
  await t.image();
  const checked = await t.must("images", "check");
  expect(checked).toMatch(/complete \(2\/2\)\s+[\d.]+ \w+\/[\d.]+ \w+\s+true/);
});

row("C01", "every blob in the store has the digest its name says", {}, async (t) => {
  await t.image();
  const folder = `${t.daemon.root}/io.containerd.content.v1.content/blobs/sha256`;
  const listed = (await t.must("content", "ls", "-q")).trim().split("\n");
  expect(listed.length).toBeGreaterThan(2);
  for (const digest of listed)
    expect(digestOf(await readFile(`${folder}/${digest.slice("sha256:".length)}`))).toBe(digest);
});

row("G09", "export, and import of what was exported", { covers: ["cmd:ctr images export"] }, async (t) => {
  const image = await t.image();
  const file = t.path(`${t.id("out")}.tar`);
  await t.must("images", "export", file, image);
  const names = (await exec(["tar", "-tf", file])).stdout.split("\n");
  for (const name of ["oci-layout", "index.json", "manifest.json", "blobs/sha256/"]) expect(names).toContain(name);
  await t.must("images", "rm", "--sync", image);
  await t.must("images", "import", file);
  expect(await t.must("run", "--rm", image, t.id("c"), "echo", "back")).toBe("back\n");
});

row(
  "G11",
  "rm prints the name and the image is gone",
  {
    covers: [
      "cmd:ctr images delete",
      "flag:ctr images delete --sync",
      "rpc:containerd.services.images.v1.Images/Delete",
    ],
  },
  async (t) => {
    const image = await t.image();
    expect(await t.must("images", "rm", "--sync", image)).toBe(`${image}\n`);
    expect(await t.must("images", "ls", "-q")).toBe("");
    // With nothing left that refers to them, blobs and snapshots are collected before the answer.
    expect(await t.must("content", "ls", "-q")).toBe("");
  },
);

row(
  "G12",
  "tag gives a second name to one digest",
  { covers: ["cmd:ctr images tag", "flag:ctr images tag --force", "rpc:containerd.services.images.v1.Images/Create"] },
  async (t) => {
    const image = await t.image();
    await t.must("images", "tag", image, "docker.io/library/other:1");
    const digests = [...(await t.must("images", "ls")).matchAll(/sha256:[0-9a-f]{64}/g)].map((match) => match[0]);
    expect(digests).toHaveLength(2);
    expect(digests[0]).toBe(digests[1] ?? "");
    const again = await t.ctr("images", "tag", image, "docker.io/library/other:1");
    expect(again.stderr).toContain("already exists");
    await t.must("images", "tag", "--force", image, "docker.io/library/other:1");
  },
);

row(
  "G36",
  "image labels are set, replaced and cleared",
  {
    covers: [
      "cmd:ctr images label",
      "flag:ctr images label --replace-all",
      "rpc:containerd.services.images.v1.Images/Update",
    ],
  },
  async (t) => {
    const image = await t.image();
    await t.must("images", "label", image, "a=1", "b=2");
    expect(await t.must("images", "ls")).toContain("a=1,b=2");
    await t.must("images", "label", image, "a=");
    expect(await t.must("images", "ls")).not.toContain("a=1");
    await t.must("images", "label", "--replace-all", image, "c=3");
    const listed = await t.must("images", "ls");
    expect(listed).toContain("c=3");
    expect(listed).not.toContain("b=2");
  },
);

row(
  "G08",
  "an image is mounted, looked into and unmounted, leaving nothing",
  { covers: ["cmd:ctr images mount", "cmd:ctr images unmount", "flag:ctr images unmount --rm"] },
  async (t) => {
    const image = await t.image();
    const point = t.path(t.id("mnt"));
    await mkdir(point);
    const printed = await t.must("images", "mount", image, point);
    expect(printed).toContain(point);
    expect(await readdir(point)).toContain("bin");
    await t.must("images", "unmount", "--rm", point);
    expect(await mountsBelow(point)).toEqual([]);
    expect((await t.must("snapshots", "ls")).split("\n").filter((line) => line.includes(point))).toEqual([]);
  },
);

row(
  "G08",
  "unmount takes labels, and changes those of no image, snapshot or lease",
  { covers: ["flag:ctr images unmount --label"] },
  async (t) => {
    const image = await t.image();
    const point = t.path(t.id("mnt"));
    await mkdir(point);
    await t.must("images", "mount", image, point);
    const before = await t.must("images", "ls");
    const unmounted = await t.ctr("images", "unmount", "--label", "a=b", "--label", "c", point);
    expect(unmounted).toMatchObject({ code: 0, stdout: `${point}\n` });
    expect(await mountsBelow(point)).toEqual([]);
    expect(await t.must("images", "ls")).toBe(before);
    const info: unknown = JSON.parse(await t.must("snapshots", "info", point));
    expect(info).not.toHaveProperty("Labels.a");
    expect(await t.must("leases", "ls")).not.toContain("a=b");
    await t.must("snapshots", "rm", point);
    await t.must("leases", "rm", point);
  },
);

row("G10", "an archive with a wrong digest is refused and leaves no image", {}, async (t) => {
  const archive = Buffer.from(await ociArchive({ compress: "none" }));
  // One byte of the layer, far from any header.
  const at = archive.indexOf("Copyright") + 3;
  archive[at] = (archive[at] ?? 0) ^ 1;
  const file = t.path(`${t.id("bad")}.tar`);
  await writeFile(file, archive);
  const ran = await t.ctr("images", "import", file);
  expect(ran.code).toBe(1);
  expect(await t.must("images", "ls", "-q")).toBe("");
});

row(
  "C16",
  "a plain root file system and a config run without any image",
  { covers: ["flag:ctr run --rootfs"] },
  async (t) => {
    const rootfs = t.path(t.id("rootfs"));
    await mkdir(`${rootfs}/bin`, { recursive: true });
    await exec(["cp", "/bin/busybox", `${rootfs}/bin/sh`]);
    const ran = await t.ctr("run", "--rm", "--rootfs", rootfs, t.id("c"), "/bin/sh", "-c", "echo from rootfs");
    expect(ran).toEqual({ code: 0, stdout: "from rootfs\n", stderr: "" });
    expect(IMAGE).toContain("busybox");
  },
);

row(
  "C20",
  "content prune references takes the layers' labels away, and a collection takes the layers",
  {
    covers: [
      "cmd:ctr content prune references",
      "flag:ctr content prune references --dry",
      "flag:ctr content prune references --async",
    ],
  },
  async (t) => {
    await t.image();
    const blobs = async (): Promise<string[]> => (await t.must("content", "ls", "-q")).trim().split("\n");
    const dry = await t.ctr("content", "prune", "references", "--dry");
    expect(dry.code).toBe(0);
    expect(dry.stderr).toContain('msg="dry run, no changes will be applied"');
    expect(dry.stderr).toMatch(
      /level=debug msg="Removing label" digest="?sha256:[0-9a-f]{64}"? label=containerd\.io\/gc\.ref\.content\.l\.0/,
    );
    expect(await t.must("content", "ls")).toContain("gc.ref.content.l.0");
    // Without labels to take away it is a collection all the same: the archive's own index is gone now.
    const before = await blobs();
    expect((await t.ctr("content", "prune", "references")).code).toBe(0);
    const after = await blobs();
    expect(before.length - after.length).toBe(1);
    expect(await t.must("content", "ls")).not.toContain("gc.ref.content.l.");
    expect((await t.ctr("content", "prune", "references", "--async")).code).toBe(0);
    expect(await blobs()).toEqual(after);
  },
);

row(
  "C20",
  "images prune --all removes what no container was made from",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr images prune; 1.6 has no such command",
    covers: ["cmd:ctr images prune", "flag:ctr images prune --all"],
  },
  async (t) => {
    const used = await t.image();
    const unused = await t.image({ name: "docker.io/library/unused:1" });
    await t.must("containers", "create", used, t.id("c"), "true");
    const none = await t.ctr("images", "prune");
    expect([none.code, none.stdout]).toEqual([0, ""]);
    expect(none.stderr).toContain("level=warning");
    expect((await t.must("images", "ls", "-q")).trim().split("\n").toSorted()).toEqual([used, unused].toSorted());
    const ran = await t.ctr("images", "prune", "--all");
    expect(ran.code).toBe(0);
    expect(ran.stderr).toContain(`deleted image: ${unused}`);
    expect(await t.must("images", "ls", "-q")).toBe(`${used}\n`);
  },
);
