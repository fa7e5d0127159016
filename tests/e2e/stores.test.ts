// What the stores keep: a snapshot for each layer, an image's configuration as it came, and the metadata file itself.
import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { digestOf, dockerArchive, type ImageOptions, ociArchive } from "../harness/images.ts";
import { exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

/** The names of committed snapshots of layers, lowest first: each is the digest of the one below and its own layer's. */
function chainIds(diffs: readonly string[]): string[] {
  const chain: string[] = [];
  for (const diff of diffs) {
    const below = chain.at(-1);
    chain.push(below === undefined ? diff : `sha256:${createHash("sha256").update(`${below} ${diff}`).digest("hex")}`);
  }
  return chain;
}

row(
  "D02",
  "an image of N layers is N committed snapshots, each the parent of the next",
  { covers: ["cmd:ctr snapshots list", "cmd:ctr snapshots tree", "cmd:ctr snapshots info"] },
  async (t) => {
    const layers = [1, 2, 3, 4].map((n) => tar([{ path: `layer${n}`, data: `${n}\n` }]));
    const image = await t.image({ name: "docker.io/library/deep:4", bare: true, layers });
    const chain = chainIds(layers.map(digestOf));
    const rows = async (): Promise<string[][]> =>
      (await t.must("snapshots", "ls"))
        .trim()
        .split("\n")
        .map((line) => line.trim().split(/\s+/));
    const expected = chain.map((name, at) =>
      at === 0 ? [name, "Committed"] : [name, chain[at - 1] ?? "", "Committed"],
    );
    expect((await rows())[0]).toEqual(["KEY", "PARENT", "KIND"]);
    const lines = (table: readonly (readonly string[])[]): string[] => table.map((cells) => cells.join(" ")).toSorted();
    expect(lines((await rows()).slice(1))).toEqual(lines(expected));
    // A container's own snapshot is active, on top of the chain.
    await t.must("containers", "create", image, t.id("c"), "true");
    expect(await rows()).toContainEqual([t.id("c"), chain[3] ?? "", "Active"]);
    const tree = (await t.must("snapshots", "tree")).trimEnd().split("\n");
    expect(tree.map((line) => line.trim().replace("\\_ ", ""))).toEqual([...chain, t.id("c")]);
    const info: unknown = JSON.parse(await t.must("snapshots", "info", chain[1] ?? ""));
    expect(info).toMatchObject({ Kind: "Committed", Name: chain[1], Parent: chain[0] });
    // What a layer brings is in its own snapshot and in no other.
    const mounts = await t.must("snapshots", "mounts", "/target", t.id("c"));
    const lower = /lowerdir=([^,\s]+)/.exec(mounts)?.[1]?.split(":") ?? [];
    expect(lower).toHaveLength(4);
    for (const [at, folder] of lower.toReversed().entries()) expect(await readdir(folder)).toEqual([`layer${at + 1}`]);
  },
);

const EXTRA = {
  created: "2001-02-03T04:05:06.000000007Z",
  author: "somebody",
  docker_version: "24.0.5",
  container: "0123456789abcdef",
  container_config: { Hostname: "abc", Cmd: ["/bin/sh", "-c", "#(nop) CMD"], Tty: false },
  history: [
    { created: "2001-02-03T04:05:06Z", created_by: "/bin/sh -c #(nop) ADD file:x in / ", comment: "first" },
    { created: "2001-02-03T04:05:07Z", created_by: 'CMD ["sh"]', empty_layer: true },
  ],
} as const;

async function configOf(t: Stage, image: string): Promise<{ readonly digest: string; readonly text: string }> {
  const target = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls", `name==${image}`))?.[0] ?? "";
  const manifest = await t.must("content", "get", target);
  const digest = /"config":\s*\{[^}]*"digest":\s*"(sha256:[0-9a-f]{64})"/.exec(manifest)?.[1] ?? "";
  return { digest, text: await t.must("content", "get", digest) };
}

for (const [kind, archive] of [
  ["an OCI layout", ociArchive],
  ["a docker-archive", dockerArchive],
] as const) {
  row("C09", `docker_version, history and other fields of ${kind} survive import, export and import`, {}, async (t) => {
    const name = "docker.io/library/history:1";
    const options: ImageOptions = { name, extra: EXTRA };
    const file = t.path(`${t.id("in")}.tar`);
    await writeFile(file, await archive(options));
    await t.must("images", "import", file);
    const first = await configOf(t, name);
    expect(JSON.parse(first.text)).toMatchObject(EXTRA);
    const exported = t.path(`${t.id("out")}.tar`);
    await t.must("images", "export", exported, name);
    const inside = await exec(["tar", "-xOf", exported, `blobs/${first.digest.replace(":", "/")}`]);
    expect(inside.stdout).toBe(first.text);
    await t.must("images", "rm", "--sync", name);
    expect((await t.ctr("content", "get", first.digest)).code).toBe(1);
    await t.must("images", "import", exported);
    expect(await configOf(t, name)).toEqual(first);
    expect(await t.must("run", "--rm", name, t.id("c"), "echo", "runs")).toBe("runs\n");
  });
}

row(
  "E12",
  "the metadata plugin needs content and snapshots, and what serves containers, images and content needs it",
  { covers: ["flag:ctr plugins list --detailed"] },
  async (t) => {
    const requires = async (type: string, id: string): Promise<string[]> => {
      const text = await t.must("plugins", "ls", "-d", `type==${type},id==${id}`);
      const list = /Requires:\s*\n((?:\s+io\.containerd\.\S+\n)+)/.exec(text)?.[1] ?? "";
      return list
        .trim()
        .split("\n")
        .map((line) => line.trim());
    };
    const metadata = await requires("io.containerd.metadata.v1", "bolt");
    for (const type of ["io.containerd.content.v1", "io.containerd.snapshotter.v1"]) expect(metadata).toContain(type);
    for (const id of ["containers-service", "content-service", "images-service", "namespaces-service"])
      expect(await requires("io.containerd.service.v1", id)).toContain("io.containerd.metadata.v1");
    expect(await t.must("plugins", "ls")).toMatch(/^io\.containerd\.metadata\.v1\s+bolt\s+\S+\s+ok/m);
  },
);

// Ours is SQLite where the peer's is bolt: each is read by its own means.
const OBJECTS = ["images", "containers", "content", "snapshots", "leases"] as const;

row("E12", "the metadata file has each namespace's objects by kind", { casts: ["peer", "ours"] }, async (t) => {
  await t.must("containers", "create", await t.image(), t.id("c"), "true");
  await t.must("leases", "create", "--id", t.id("lease"));
  const folder = `${t.daemon.root}/io.containerd.metadata.v1.bolt`;
  if (t.cast.daemon === "debian") {
    const bytes = await readFile(`${folder}/meta.db`);
    // The first page's magic, after its header of 16 bytes.
    expect(bytes.readUInt32LE(16)).toBe(0xed0cdaed);
    for (const word of ["v1", t.namespace, ...OBJECTS]) expect(bytes.includes(word)).toBe(true);
  } else {
    using database = new Database(`${folder}/meta.sqlite`, { readonly: true });
    for (const kind of OBJECTS) {
      const found = database.query(`SELECT count(*) AS n FROM ${kind} WHERE namespace = ?`).get(t.namespace);
      expect(found).not.toEqual({ n: 0 });
    }
    expect(database.query("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
  }
  await t.must("leases", "delete", t.id("lease"));
});
