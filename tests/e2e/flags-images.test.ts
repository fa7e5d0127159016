// Flags of ctr's image, content and snapshot commands, each by what it changes. Cases with `source` are of flags that Debian's
// ctr 1.6 does not have.
import { expect } from "bun:test";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { mountsBelow } from "../harness/daemon.ts";
import { digestOf, dockerArchive, IMAGE, ociArchive } from "../harness/images.ts";
import { eventually, exec, start } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { type TarEntry, tar } from "../harness/tar.ts";

const newer = (command: string) => ({
  casts: ["ours", "our-ctr"] as const,
  source: `containerd 2.3.4, ${command} --help`,
});
const [HERE, OTHER] = process.arch === "arm64" ? (["arm64", "amd64"] as const) : (["amd64", "arm64"] as const);

const lines = (text: string): string[] => text.split("\n").filter((line) => line !== "");

/** An OCI layout of one image for two platforms, each with a layer of its own; the other's may be foreign. */
function twoPlatforms(
  name: string,
  options: { readonly foreign?: boolean; readonly digestOnly?: boolean } = {},
): Uint8Array<ArrayBuffer> {
  const blobs: TarEntry[] = [];
  const add = (mediaType: string, data: Uint8Array): { mediaType: string; digest: string; size: number } => {
    const digest = digestOf(data);
    blobs.push({ path: `blobs/${digest.replace(":", "/")}`, data });
    return { mediaType, digest, size: data.byteLength };
  };
  const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
  const manifests = [HERE, OTHER].map((architecture) => {
    const layer = tar([{ path: "arch", data: `${architecture} of ${name}` }]);
    const kind = options.foreign === true ? "layer.nondistributable" : "layer";
    const config = { architecture, os: "linux", config: {}, rootfs: { type: "layers", diff_ids: [digestOf(layer)] } };
    const manifest = add(
      "application/vnd.oci.image.manifest.v1+json",
      json({
        schemaVersion: 2,
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: add("application/vnd.oci.image.config.v1+json", json(config)),
        layers: [add(`application/vnd.oci.image.${kind}.v1.tar`, layer)],
      }),
    );
    return { ...manifest, platform: { architecture, os: "linux" } };
  });
  const index = add(
    "application/vnd.oci.image.index.v1+json",
    json({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests }),
  );
  const annotations = options.digestOnly === true ? {} : { annotations: { "org.opencontainers.image.ref.name": name } };
  return tar([
    { path: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' },
    { path: "index.json", data: json({ schemaVersion: 2, manifests: [{ ...index, ...annotations }] }) },
    { path: "blobs/", type: "dir" },
    { path: "blobs/sha256/", type: "dir" },
    ...blobs,
  ]);
}

/** Digests of the other platform's layer in {@link twoPlatforms}, and of this one's. */
const layerOf = (name: string, architecture: string): string =>
  digestOf(tar([{ path: "arch", data: `${architecture} of ${name}` }]));

async function imported(t: Stage, archive: Uint8Array, ...flags: string[]): Promise<string> {
  const file = t.path(t.id("in.tar"));
  await writeFile(file, archive);
  return t.must("images", "import", ...flags, file);
}

async function names(t: Stage): Promise<string[]> {
  return lines(await t.must("images", "ls", "-q")).toSorted();
}

const MULTI = "docker.io/library/multi:1";

row(
  "G09",
  "import: names by a base name, by digest, and of the index",
  {
    covers: [
      "flag:ctr images import --base-name",
      "flag:ctr images import --digests",
      "flag:ctr images import --skip-digest-for-named",
      "flag:ctr images import --index-name",
    ],
  },
  async (t) => {
    await imported(t, twoPlatforms("tagged"), "--base-name", "docker.io/other/base", "--digests");
    const found = await names(t);
    expect(found).toHaveLength(2);
    expect(found[0]).toBe("docker.io/other/base:tagged");
    expect(found[1]).toMatch(/^docker\.io\/other\/base@sha256:/);
    await t.must("images", "rm", "--sync", ...found);
    await imported(
      t,
      twoPlatforms("tagged"),
      "--base-name",
      "docker.io/other/base",
      "--digests",
      "--skip-digest-for-named",
    );
    expect(await names(t)).toEqual(["docker.io/other/base:tagged"]);
    await imported(t, twoPlatforms("x", { digestOnly: true }), "--index-name", "docker.io/library/index:1");
    expect(await names(t)).toContain("docker.io/library/index:1");
  },
);

row(
  "G09",
  "import: one platform, all of them, unpacked or not, for another snapshotter",
  {
    covers: [
      "flag:ctr images import --platform",
      "flag:ctr images import --all-platforms",
      "flag:ctr images import --no-unpack",
      "flag:ctr images import --snapshotter",
      "flag:ctr images check --quiet",
      "flag:ctr images check --snapshotter",
    ],
  },
  async (t) => {
    const held = async (architecture: string): Promise<boolean> =>
      (await t.must("content", "ls")).includes(layerOf(MULTI, architecture));
    const clear = async (): Promise<void> => void (await t.must("images", "rm", "--sync", ...(await names(t))));
    const snapshots = async (snapshotter: string): Promise<number> =>
      lines(await t.must("snapshots", "--snapshotter", snapshotter, "ls")).length - 1;
    const base = ["--base-name", "docker.io/library/multi"];

    await imported(t, twoPlatforms(MULTI), ...base, "--no-unpack", "--all-platforms");
    expect(await snapshots("overlayfs")).toBe(0);
    // 1.6 shows what is complete, unpacked or not.
    if (t.cast.client === "ours") expect(await t.must("images", "check", "-q")).toBe("");
    const labelled = async (architecture: string): Promise<string> =>
      lines(await t.must("content", "ls")).find((line) => line.startsWith(layerOf(MULTI, architecture))) ?? "";
    expect(await labelled(OTHER)).not.toBe("");
    await clear();

    // With a platform, only what it needs is held by the image.
    await imported(t, twoPlatforms(MULTI), ...base, "--no-unpack", "--platform", `linux/${HERE}`);
    await t.must("content", "prune", "references").catch(() => undefined);
    await clear();

    await imported(t, twoPlatforms(MULTI), ...base, "--snapshotter", "native");
    expect([await snapshots("overlayfs"), await snapshots("native")]).toEqual([0, 1]);
    expect(await held(HERE)).toBe(true);
    // "Ready" is complete and unpacked, for the snapshotter that is asked about.
    if (t.cast.client === "ours") expect(await t.must("images", "check", "-q")).toBe("");
    expect(lines(await t.must("images", "check", "-q", "--snapshotter", "native"))).toEqual(await names(t));
  },
);

row(
  "G09",
  "import: docker's layers are compressed when that is asked for",
  { covers: ["flag:ctr images import --compress-blobs"] },
  async (t) => {
    await imported(
      t,
      await dockerArchive({ layers: [tar([{ path: "x", data: "x" }])], bare: true }),
      "--compress-blobs",
    );
    const manifest = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "";
    expect(await t.must("content", "get", manifest)).toMatch(/layer\.v1\.tar\+gzip|rootfs\.diff\.tar\.gzip/);
    await t.must("images", "rm", "--sync", IMAGE);
    await imported(t, await dockerArchive({ layers: [tar([{ path: "x", data: "x" }])], bare: true }));
    const plain = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "";
    expect(await t.must("content", "get", plain)).not.toContain("gzip");
  },
);

row(
  "G09",
  "import: labels, and layers that are let go of once they are unpacked",
  {
    ...newer("ctr images import"),
    covers: ["flag:ctr images import --label", "flag:ctr images import --discard-unpacked-layers"],
  },
  async (t) => {
    const layer = tar([{ path: "x", data: "let go" }]);
    const archive = await ociArchive({ layers: [layer], bare: true, compress: "none" });
    await imported(t, archive, "--label", "who=me");
    expect(await t.must("images", "ls")).toContain("who=me");
    const held = async (): Promise<boolean> => (await t.must("content", "ls", "-q")).includes(digestOf(layer));
    // A collection takes nothing that is held.
    const collect = async (): Promise<void> => {
      await t.must("images", "tag", IMAGE, "docker.io/library/gone:1");
      await t.must("images", "rm", "--sync", "docker.io/library/gone:1");
    };
    await collect();
    expect(await held()).toBe(true);
    await t.must("images", "rm", "--sync", IMAGE);
    await imported(t, archive, "--discard-unpacked-layers");
    await collect();
    expect(await held()).toBe(false);
    expect(await t.must("images", "ls", "-q")).toBe(`${IMAGE}\n`);
  },
);

/** The calls of syncfs of a daemon and its children while `work` goes on. */
async function synced(t: Stage, work: () => Promise<unknown>): Promise<number> {
  const out = t.path("trace");
  const tracer = start(["strace", "-f", "-qq", "-e", "trace=syncfs", "-o", out, "-p", String(t.daemon.pid)]);
  await eventually("strace to hold the daemon", async () =>
    /^TracerPid:\s+[1-9]/m.test(await readFile(`/proc/${t.daemon.pid}/status`, "utf8")) ? true : undefined,
  );
  try {
    await work();
  } finally {
    await tracer.stop();
  }
  return (await readFile(out, "utf8")).split("syncfs(").length - 1;
}

row(
  "G09",
  "layers are synced after unpacking when the client asks for it",
  {
    ...newer("ctr images import"),
    casts: ["ours"],
    ownDaemon: true,
    covers: [
      "flag:ctr images import --sync-fs",
      "flag:ctr images mount --sync-fs",
      "flag:ctr snapshots unpack --sync-fs",
      "flag:ctr run --sync-fs",
    ],
  },
  async (t) => {
    const image = await t.image();
    const manifest = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "";
    const file = t.path("image.tar");
    await t.must("images", "export", file, image);
    // Each for the snapshotter that has nothing of it yet, since what is unpacked already is not unpacked again.
    const fresh = async (work: () => Promise<unknown>): Promise<number> => {
      await t.must("images", "rm", "--sync", image);
      await t.must("images", "import", "--no-unpack", file);
      return synced(t, work);
    };
    const point = t.path("mnt");
    await mkdir(point);
    // A snapshot's commit has a sync of its own; what counts is that of the layer.
    const steps: readonly ((...sync: string[]) => Promise<unknown>)[] = [
      async (...sync) => t.must("images", "import", ...sync, file),
      async (...sync) => t.must("snapshots", "unpack", ...sync, manifest),
      async (...sync) => t.must("run", "--rm", ...sync, image, t.id("c"), "true"),
      async (...sync) => t.must("images", "mount", ...sync, image, point),
    ];
    for (const step of steps) {
      const usual = await fresh(async () => step());
      await exec(["umount", point]);
      await t.ctr("snapshots", "rm", point);
      await t.ctr("leases", "rm", "--sync", point);
      expect(await fresh(async () => step("--sync-fs"))).toBe(usual + 1);
    }
    await t.must("images", "unmount", "--rm", point);
  },
);

row(
  "G09",
  "export: with docker's manifest or without, one platform or all, without foreign layers",
  {
    covers: [
      "flag:ctr images export --skip-manifest-json",
      "flag:ctr images export --platform",
      "flag:ctr images export --all-platforms",
      "flag:ctr images export --skip-non-distributable",
    ],
  },
  async (t) => {
    const base = ["--base-name", "docker.io/library/multi", "--all-platforms", "--no-unpack"];
    await imported(t, twoPlatforms("1"), ...base);
    const [name = ""] = await names(t);
    const inArchive = async (...flags: string[]): Promise<string> => {
      const file = t.path(t.id("out.tar"));
      await t.must("images", "export", ...flags, file, name);
      return (await exec(["tar", "-tf", file])).stdout;
    };
    const path = (architecture: string): string => `blobs/${layerOf("1", architecture).replace(":", "/")}`;
    const usual = await inArchive();
    expect(usual).toContain("manifest.json");
    expect([usual.includes(path(HERE)), usual.includes(path(OTHER))]).toEqual([true, false]);
    expect(await inArchive("--skip-manifest-json")).not.toContain("manifest.json");
    const other = await inArchive("--platform", `linux/${OTHER}`);
    expect([other.includes(path(HERE)), other.includes(path(OTHER))]).toEqual([false, true]);
    const all = await inArchive("--all-platforms");
    expect([all.includes(path(HERE)), all.includes(path(OTHER))]).toEqual([true, true]);

    await t.must("images", "rm", "--sync", name);
    await imported(t, twoPlatforms("1", { foreign: true }), ...base);
    expect(await inArchive()).toContain(path(HERE));
    expect(await inArchive("--skip-non-distributable")).not.toContain(path(HERE));
  },
);

row(
  "G36",
  "inspect shows the tree of an image, usage the size of its snapshots",
  {
    ...newer("ctr images"),
    covers: [
      "cmd:ctr images inspect",
      "flag:ctr images inspect --content",
      "cmd:ctr images usage",
      "flag:ctr images usage --snapshotter",
      "flag:ctr images tag --skip-reference-check",
    ],
  },
  async (t) => {
    const layers = [tar([{ path: "big", data: "x".repeat(100_000) }])];
    const image = await t.image({ name: "docker.io/library/tree:1", layers, bare: true });
    const tree = await t.must("images", "inspect", image);
    expect(lines(tree)[0]).toBe(image);
    for (const kind of ["manifest", "config", "layer"])
      expect(tree).toMatch(
        RegExp(`application/vnd\\.oci\\.image\\.${kind}\\.v1\\S* @sha256:[0-9a-f]{64} \\(\\d+ bytes\\)`),
      );
    expect(tree).not.toContain('"schemaVersion"');
    expect(await t.must("images", "inspect", image, "--content")).toContain('"schemaVersion": 2');
    const chain = digestOf(layers[0] ?? new Uint8Array());
    expect(await t.must("images", "usage", image)).toMatch(RegExp(`^${chain}\\s+\\d+(\\.\\d+)? KiB\\s+2`, "m"));
    const elsewhere = await t.ctr("images", "usage", "--snapshotter", "native", image);
    expect(elsewhere.code).toBe(1);
    expect(elsewhere.stderr).toContain("not found");
    const odd = "No reference AT ALL";
    expect((await t.ctr("images", "tag", image, odd)).code).toBe(1);
    await t.must("images", "tag", "--skip-reference-check", image, odd);
    expect(await names(t)).toContain(odd);
  },
);

row(
  "G08",
  "mount: for writing, for another platform, by another snapshotter, with an expiry",
  {
    covers: [
      "flag:ctr images mount --rw",
      "flag:ctr images mount --platform",
      "flag:ctr images mount --snapshotter",
      "flag:ctr images unmount --snapshotter",
    ],
  },
  async (t) => {
    const base = ["--base-name", "docker.io/library/multi", "--all-platforms", "--no-unpack"];
    await imported(t, twoPlatforms("1"), ...base);
    const [name = ""] = await names(t);
    const point = t.path(t.id("mnt"));
    await mkdir(point);
    const platform = ["--platform", `linux/${HERE}`];
    await t.must("images", "mount", ...platform, name, point);
    expect(await readFile(`${point}/arch`, "utf8")).toBe(`${HERE} of 1`);
    const refused = await writeFile(`${point}/new`, "").then(
      () => "written",
      (error: unknown) => String(error),
    );
    expect(refused).toContain("EROFS");
    await t.must("images", "unmount", "--rm", point);

    // 1.6 mounts by its default snapshotter, whatever it is told.
    const by = t.cast.client === "ours" ? "native" : "overlayfs";
    await t.must("images", "mount", ...platform, "--rw", "--snapshotter", by, name, point);
    await writeFile(`${point}/new`, "written");
    expect(await t.must("snapshots", "--snapshotter", by, "ls")).toMatch(RegExp(`^${point}\\s.*Active`, "m"));
    await t.must("images", "unmount", "--rm", "--snapshotter", by, point);
    expect(await t.must("snapshots", "--snapshotter", by, "ls")).not.toContain(point);
    expect(await mountsBelow(point)).toEqual([]);

    await t.must("images", "mount", "--platform", `linux/${OTHER}`, name, point);
    expect(await readFile(`${point}/arch`, "utf8")).toBe(`${OTHER} of 1`);
    await t.must("images", "unmount", "--rm", point);
  },
);

row(
  "G08",
  "mount: the lease's expiry, and labels of the snapshot",
  { ...newer("ctr images mount"), covers: ["flag:ctr images mount --expiration", "flag:ctr images mount --label"] },
  async (t) => {
    const image = await t.image();
    const point = t.path(t.id("mnt"));
    await mkdir(point);
    const expiry = async (...flags: string[]): Promise<number | undefined> => {
      await t.must("images", "mount", ...flags, image, point);
      const lease = lines(await t.must("leases", "ls")).find((line) => line.startsWith(point)) ?? "";
      await t.must("images", "unmount", "--rm", point);
      const time = /gc\.expire=(\S+)/.exec(lease)?.[1];
      return time === undefined ? undefined : (Date.parse(time) - Date.now()) / 3_600_000;
    };
    expect(await expiry("--expiration", "5h")).toBeCloseTo(5, 1);
    expect(await expiry("--expiration", "0")).toBeUndefined();
    await t.must("images", "mount", "--label", "containerd.io/snapshot/who=me", image, point);
    const info: unknown = JSON.parse(await t.must("snapshots", "info", point));
    expect(info).toHaveProperty(["Labels", "containerd.io/snapshot/who"], "me");
    await t.must("images", "unmount", "--rm", point);
  },
);

row(
  "C09",
  "content active shows what is being written, content edit puts an editor's result beside a blob",
  {
    covers: [
      "cmd:ctr content active",
      "flag:ctr content active --timeout",
      "cmd:ctr content edit",
      "flag:ctr content edit --editor",
      "flag:ctr content edit --validate",
    ],
  },
  async (t) => {
    const ingest = t.start("content", "ingest", t.id("slow"));
    ingest.write("one\n");
    const shown = await eventually("the ingest", async () => {
      const text = await t.must("content", "active");
      return text.includes(t.id("slow")) ? text : undefined;
    });
    expect(shown).toMatch(/^REF\s+SIZE\s+AGE/);
    expect(await t.must("content", "active", "nothing")).not.toContain(t.id("slow"));
    // 1.6 takes the flag and lets it be.
    if (t.cast.client === "ours") {
      const late = await t.ctr("content", "active", "--timeout", "1us");
      expect(late.code).toBe(1);
      expect(late.stderr).toMatch(/deadline exceeded/i);
    }
    ingest.closeInput();
    expect(await ingest.exited).toBe(0);

    const digest = digestOf(Buffer.from("one\n"));
    // In place: the peer reads the file that it made, not another one of its name.
    const editor = "echo two | cp /dev/stdin";
    const edited = await t.must("content", "edit", "--editor", editor, digest);
    expect(edited.trim()).toBe(digestOf(Buffer.from("two\n")));
    expect(await t.must("content", "get", edited.trim())).toBe("two\n");
    const refused = await t.ctr("content", "edit", "--validate", "json", "--editor", "true", digest);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("validating the edit result not supported");
    await t.must("content", "rm", digest, edited.trim());
  },
);

row(
  "G36",
  "snapshots: diff with its type, reference, labels and keeping",
  {
    covers: [
      "cmd:ctr snapshots diff",
      "flag:ctr snapshots diff --media-type",
      "flag:ctr snapshots diff --ref",
      "flag:ctr snapshots diff --keep",
      "flag:ctr snapshots diff --label",
    ],
  },
  async (t) => {
    const image = await t.image();
    const id = t.id("c");
    await t.must("run", "--rm", image, t.id("unused"), "true");
    await t.must("containers", "create", image, id, "touch", "/made");
    await t.must("tasks", "start", id);
    const file = t.path(t.id("diff"));
    const diff = async (...flags: string[]): Promise<string> => {
      const command = t.ctrWith({}, "snapshots", "diff", ...flags, id);
      return (await command).stdout;
    };
    const plain = await diff("--media-type", "application/vnd.oci.image.layer.v1.tar");
    await writeFile(file, plain);
    expect((await exec(["tar", "-tf", file])).stdout).toContain("made");
    expect((await diff()).charCodeAt(0)).toBe(0x1f);
    // Nothing holds what is not kept.
    const kept = async (): Promise<string[]> =>
      lines(await t.must("content", "ls")).filter((line) => line.includes("who=me"));
    const tar = ["--media-type", "application/vnd.oci.image.layer.v1.tar", "--label", "who=me"];
    await diff(...tar);
    await t.must("images", "tag", image, "docker.io/library/gone:1");
    await t.must("images", "rm", "--sync", "docker.io/library/gone:1");
    expect(await kept()).toEqual([]);
    await diff(...tar, "--keep", "--ref", t.id("ref"));
    await t.must("images", "tag", image, "docker.io/library/gone:1");
    await t.must("images", "rm", "--sync", "docker.io/library/gone:1");
    const [line = ""] = await kept();
    expect(line).toContain("containerd.io/gc.root=");
    // One writer has a reference at a time, so that a second one is told so.
    const holder = t.start("content", "ingest", t.id("held"));
    holder.write("x");
    await eventually("the reference to be held", async () =>
      (await t.must("content", "active")).includes(t.id("held")) ? true : undefined,
    );
    const refused = await t.ctrWith({ timeoutMs: 15_000 }, "snapshots", "diff", "--ref", t.id("held"), id);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/unavailable|locked/);
    holder.closeInput();
    await holder.exited;
    const digest = line.split(/\s/)[0] ?? "";
    await t.must("content", "rm", digest);
  },
);

row(
  "G36",
  "snapshots: prepare and view print mounts for a target and as JSON; unpack; usage in bytes",
  {
    covers: [
      "flag:ctr snapshots prepare --target",
      "flag:ctr snapshots prepare --mounts",
      "flag:ctr snapshots view --target",
      "flag:ctr snapshots view --mounts",
      "cmd:ctr snapshots unpack",
      "flag:ctr snapshots unpack --snapshotter",
      "flag:ctr snapshots usage -b",
    ],
  },
  async (t) => {
    const layer = tar([{ path: "big", data: "x".repeat(100_000) }]);
    await t.image({ name: "docker.io/library/base:1", layers: [layer], bare: true });
    const parent = digestOf(layer);
    const snapshots = async (...args: string[]): Promise<string> => t.must("snapshots", ...args);
    expect(await snapshots("prepare", "--target", "/there", t.id("p"), parent)).toMatch(
      /^mount -t overlay overlay \/there -o /,
    );
    expect(JSON.parse(await snapshots("prepare", "--mounts", t.id("q"), parent))).toMatchObject([{ Type: "overlay" }]);
    expect(await snapshots("view", "--target", "/there", t.id("v"), parent)).toMatch(/^mount -t bind \S+ \/there -o /);
    expect(JSON.parse(await snapshots("view", "--mounts", t.id("w"), parent))).toMatchObject([{ Type: "bind" }]);
    const bytes = Number(/\s(\d+)\s+\d+\s*$/.exec((await snapshots("usage", "-b", parent)).trimEnd())?.[1]);
    expect(bytes).toBeGreaterThan(100_000);
    expect(await snapshots("usage", parent)).toMatch(/KiB/);
    const manifest = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "";
    expect(await snapshots("unpack", "--snapshotter", "native", manifest)).toContain("done\n");
    expect(await snapshots("--snapshotter", "native", "ls")).toContain(parent);
    for (const key of ["p", "q", "v", "w"]) await snapshots("rm", t.id(key));
  },
);

row(
  "G36",
  "snapshots mounts --temp mounts until it is interrupted",
  { ...newer("ctr snapshots mounts"), covers: ["flag:ctr snapshots mounts --temp"] },
  async (t) => {
    const layer = tar([{ path: "there", data: "x" }]);
    await t.image({ name: "docker.io/library/base:1", layers: [layer], bare: true });
    await t.must("snapshots", "prepare", t.id("p"), digestOf(layer));
    const point = t.path(t.id("mnt"));
    await mkdir(point);
    const holding = t.start("snapshots", "mounts", "--temp", point, t.id("p"));
    await eventually("the mount", async () => ((await readdir(point)).includes("there") ? true : undefined));
    await holding.stop("SIGINT");
    expect(await mountsBelow(point)).toEqual([]);
    await t.must("snapshots", "rm", t.id("p"));
  },
);

row(
  "A31",
  "install: libraries too, over what is there, and elsewhere",
  { covers: ["flag:ctr install --libs", "flag:ctr install --replace", "flag:ctr install --path"] },
  async (t) => {
    const entry = (path: string): TarEntry => ({ path, data: `new ${path}`, mode: 0o755 });
    const layer = tar([
      { path: "bin/", type: "dir" },
      entry("bin/tool"),
      { path: "lib/", type: "dir" },
      entry("lib/part.so"),
    ]);
    const image = await t.image({ name: "docker.io/library/package:1", layers: [layer], bare: true });
    const folder = t.path(t.id("installed"));
    await mkdir(folder);
    await t.must("install", "--path", folder, image);
    expect(await readdir(folder)).toEqual(["bin"]);
    await writeFile(`${folder}/bin/tool`, "old");
    expect((await t.ctr("install", "--path", folder, image)).code).toBe(1);
    expect(await readFile(`${folder}/bin/tool`, "utf8")).toBe("old");
    await t.must("install", "--path", folder, "--replace", "--libs", image);
    expect(await readFile(`${folder}/bin/tool`, "utf8")).toBe("new bin/tool");
    expect(await readFile(`${folder}/lib/part.so`, "utf8")).toBe("new lib/part.so");
  },
);

row(
  "C09",
  "content active names the flag that changes nothing",
  { ...newer("ctr content active"), casts: ["ours"], covers: ["flag:ctr content active --root"] },
  async (t) => {
    const listed = await t.ctr("content", "active", "--root", "/nowhere");
    expect(listed.code).toBe(0);
    expect(listed.stderr).toContain('level=warning msg="--root has no effect');
    expect((await t.ctr("content", "active")).stderr).toBe("");
  },
);

row("G15", "run: the image for the platform that is asked for", { covers: ["flag:ctr run --platform"] }, async (t) => {
  await imported(t, twoPlatforms("1"), "--base-name", "docker.io/library/multi", "--all-platforms", "--no-unpack");
  const [name = ""] = await names(t);
  for (const architecture of [HERE, OTHER]) {
    const id = t.id(architecture);
    // There is nothing in it to be run; the container and its snapshot stay.
    expect((await t.ctr("run", "--platform", `linux/${architecture}`, name, id, "none")).code).toBe(1);
    expect(JSON.parse(await t.must("snapshots", "info", id))).toHaveProperty("Parent", layerOf("1", architecture));
  }
});
