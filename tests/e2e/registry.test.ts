// Pulls and pushes against a registry in this process: ctr by the transfer service and by itself, on both daemons.
import { expect } from "bun:test";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { TestRegistry } from "@stevedore/registry/testing/test-registry";
import { dropLeases } from "../harness/leases.ts";
import { eventually, exec } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

const OCI = "application/vnd.oci.image";
const HERE = process.arch === "arm64" ? "arm64" : "amd64";
const OTHER = HERE === "amd64" ? "arm64" : "amd64";
/** Our client on both daemons, and Debian's client on ours. */
const BOTH: readonly CastName[] = ["peer", "ours", "our-daemon", "our-ctr"];
const lines = (text: string): string[] => text.split("\n").filter((line) => line !== "");

function digestOf(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

interface Stored {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/** Puts an image for one architecture into the registry; its layers are given as what a file in each says. */
function putImage(
  registry: TestRegistry,
  repository: string,
  of: { readonly layers: readonly string[]; readonly architecture?: string; readonly tag?: string },
): { readonly manifest: Stored; readonly layers: readonly Stored[] } {
  const plain = of.layers.map((text, at) => tar([{ path: `file${at}`, data: text }]));
  const put = (bytes: Uint8Array, mediaType: string): Stored => ({
    mediaType,
    digest: registry.putBlob(repository, bytes),
    size: bytes.byteLength,
  });
  const layers = plain.map((bytes) => put(gzipSync(bytes), `${OCI}.layer.v1.tar+gzip`));
  const config = Buffer.from(
    JSON.stringify({
      architecture: of.architecture ?? HERE,
      os: "linux",
      config: {},
      rootfs: { type: "layers", diff_ids: plain.map(digestOf) },
    }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: `${OCI}.manifest.v1+json`,
      config: put(config, `${OCI}.config.v1+json`),
      layers,
    }),
  );
  const digest = registry.putManifest(repository, manifest, of.tag === undefined ? {} : { tag: of.tag });
  return { manifest: { mediaType: `${OCI}.manifest.v1+json`, digest, size: manifest.byteLength }, layers };
}

/** An index for this machine and another. */
function putIndex(registry: TestRegistry, repository: string, tag: string) {
  const here = putImage(registry, repository, { layers: [`here ${repository}`, "both"] });
  const other = putImage(registry, repository, { layers: [`other ${repository}`], architecture: OTHER });
  const index = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: `${OCI}.index.v1+json`,
      manifests: [
        { ...other.manifest, platform: { os: "linux", architecture: OTHER } },
        { ...here.manifest, platform: { os: "linux", architecture: HERE } },
      ],
    }),
  );
  return { here, other, digest: registry.putManifest(repository, index, { tag, mediaType: `${OCI}.index.v1+json` }) };
}

async function blobs(t: Stage): Promise<string[]> {
  return lines(await t.must("content", "ls", "-q"));
}

row(
  "C11",
  "push and pull go round: the pushed digest is the pulled one, and the image runs",
  {
    casts: BOTH,
    covers: [
      "cmd:ctr images pull",
      "cmd:ctr images push",
      "flag:ctr images pull --plain-http",
      "flag:ctr images push --plain-http",
    ],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    const image = await t.image();
    const digest = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "";
    const reference = `${registry.host}/team/app:1`;
    await t.must("images", "push", "--plain-http", reference, image);
    await t.must("images", "rm", "--sync", image);
    expect(await blobs(t)).toEqual([]);
    await t.must("images", "pull", "--plain-http", reference);
    expect(await t.must("images", "ls")).toContain(digest);
    expect((await t.ctr("run", "--rm", reference, t.id("c"), "echo", "pulled")).stdout).toBe("pulled\n");
    // Pushed to another repository of the same registry, its layer is not sent again.
    const before = registry.seen.length;
    await t.must("images", "push", "--plain-http", `${registry.host}/team/other:2`, reference);
    const sent = registry.seen
      .slice(before)
      .filter(({ method, path }) => method === "POST" && path.includes("/blobs/uploads"));
    expect(sent.length).toBeGreaterThan(0);
    expect(sent.every(({ path }) => path.includes("mount="))).toBe(true);
  },
);

row(
  "C05",
  "a pull shows index, manifest, config and layers, how long it took and how much it was",
  {
    casts: ["peer", "ours", "our-ctr"],
    covers: ["flag:ctr images pull --local", "flag:ctr images push --local"],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    const { here, digest } = putIndex(registry, "team/shown", "1");
    const reference = `${registry.host}/team/shown:1`;
    const local = t.cast.client === "ours" ? ["--local"] : [];
    const shown = await t.must("images", "pull", "--plain-http", ...local, reference);
    expect(shown).toMatch(new RegExp(`${reference}:\\s+resolved\\s`));
    for (const [kind, of] of [
      ["index", digest],
      ["manifest", here.manifest.digest],
      ["layer", here.layers[0]?.digest ?? ""],
    ]) {
      expect(shown).toMatch(new RegExp(`${kind}-${of}:\\s+(done|exists)\\s`));
    }
    expect(shown).toMatch(/config-sha256:[0-9a-f]{64}:\s+done\s/);
    expect(shown).toMatch(/elapsed: \d+\.\d\s+s\s+total:\s+[\d.]+\s*[KM]?i?B?\s+\([\d.]+ [KMG]?i?B\/s\)/);
    expect(shown).toContain(`unpacking linux/${HERE} ${digest}...`);
    expect(shown).toMatch(/^done: [\d.]+m?s\t$/m);
    // The other platform's layers are not here to be pushed.
    const one = ["--platform", `linux/${HERE}`];
    const again = `${registry.host}/team/again:1`;
    const pushed = await t.must("images", "push", "--plain-http", ...local, ...one, again, reference);
    expect(pushed).toMatch(new RegExp(`manifest-${here.manifest.digest}:\\s+done\\s`));
  },
);

row(
  "C05",
  "by the service, a pull is a line for each end, and a tree on a terminal",
  { casts: ["ours"], source: "recordings/pull-transfer.out" },
  async (t) => {
    await using registry = await TestRegistry.start();
    const { digest } = putIndex(registry, "team/tree", "1");
    const reference = `${registry.host}/team/tree:1`;
    const plain = lines(await t.must("images", "pull", reference));
    expect(plain[0]).toBe(`Resolving from OCI Registry (${reference})`);
    expect(plain).toContain(`index (${digest.slice(7, 19)})\tcomplete`);
    expect(plain.filter((line) => line.endsWith("\textracted"))).toHaveLength(2);
    expect(plain.at(-2)).toBe(`${reference}\tsaved`);
    expect(plain.at(-1)).toStartWith(`Completed pull from OCI Registry (${reference})\telapsed: `);
    await t.must("images", "rm", "--sync", reference);
    const { stdout } = await t.ctrWith({ tty: true }, "images", "pull", reference);
    expect(stdout).toContain(`└──index (${digest.slice(7, 19)})`);
    expect(stdout).toMatch(/ {3}[├└]──manifest \([0-9a-f]{12}\) {11}\s/);
    expect(stdout).toMatch(/[├└]──layer \([0-9a-f]{12}\)\s+\textracted {2}\t\|/);
    expect(stdout).toContain(`|\u001b[32m${"+".repeat(38)}\u001b[0m|`);
  },
);

row("C03", "a short name is not completed: it is no reference", { casts: BOTH }, async (t) => {
  const short = await t.ctr("images", "pull", "nginx:alpine");
  expect(short.stderr).toContain('invalid port ":alpine" after host');
  const bare = await t.ctr("images", "pull", "docker.io/library/nginx");
  expect(bare.stderr).toContain("object required");
  expect([short.code, bare.code]).toEqual([1, 1]);
  expect(await t.must("images", "ls", "-q")).toBe("");
});

row("E07", "what is pulled in a namespace is listed there alone", { casts: BOTH }, async (t) => {
  await using registry = await TestRegistry.start();
  putImage(registry, "team/ns", { layers: ["x"], tag: "1" });
  const reference = `${registry.host}/team/ns:1`;
  await t.must("images", "pull", "--plain-http", reference);
  expect(await t.must("images", "ls", "-q")).toBe(`${reference}\n`);
  expect((await t.daemon.ctr(t.cast.client, `${t.namespace}x`, ["images", "ls", "-q"])).stdout).toBe("");
});

row(
  "G07",
  "one platform's blobs, all platforms', and the metadata of the others",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr images pull --help",
    covers: [
      "flag:ctr images pull --platform",
      "flag:ctr images pull --all-platforms",
      "flag:ctr images pull --skip-metadata",
      "flag:ctr images pull --snapshotter",
      "flag:ctr images pull --label",
      "flag:ctr images push --platform",
    ],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    const { here, other, digest } = putIndex(registry, "team/multi", "1");
    const reference = `${registry.host}/team/multi:1`;
    const pull = async (...flags: string[]): Promise<string[]> => {
      await t.must("images", "pull", "--plain-http", ...flags, reference);
      const there = await blobs(t);
      await t.must("images", "rm", "--sync", reference);
      return there;
    };
    const layersOf = (image: typeof here): string[] => image.layers.map((layer) => layer.digest);
    const one = await pull("--skip-metadata");
    expect(one.toSorted()).toHaveLength(2 + 1 + 2);
    expect(one).toContain(digest);
    expect(one).not.toContain(other.manifest.digest);
    const withMetadata = await pull();
    expect(withMetadata).toContain(other.manifest.digest);
    expect(layersOf(other).some((layer) => withMetadata.includes(layer))).toBe(false);
    const foreign = await pull("--platform", `linux/${OTHER}`, "--skip-metadata");
    expect(layersOf(other).every((layer) => foreign.includes(layer))).toBe(true);
    expect(layersOf(here).some((layer) => foreign.includes(layer))).toBe(false);
    const all = await pull("--all-platforms");
    expect([...layersOf(here), ...layersOf(other)].every((layer) => all.includes(layer))).toBe(true);
    if (t.cast.client === "ours") {
      await t.must("images", "pull", "--plain-http", "--local", "--all-platforms", reference);
      expect(lines(await t.must("snapshots", "ls"))).toHaveLength(1 + here.layers.length + other.layers.length);
      await t.must("images", "rm", "--sync", reference);
    }
    const both = await t.ctr("images", "pull", "--platform", "linux/amd64", "--all-platforms", reference);
    expect(both.stderr).toContain("cannot specify both --platform and --all-platforms");

    await t.must("images", "pull", "--plain-http", "--snapshotter", "native", "--label", "who=me", reference);
    expect(await t.must("images", "ls")).toContain("who=me");
    expect(lines(await t.must("snapshots", "--snapshotter", "native", "ls"))).toHaveLength(3);
    await t.must(
      "images",
      "push",
      "--plain-http",
      "--platform",
      `linux/${HERE}`,
      `${registry.host}/team/one:1`,
      reference,
    );
    const seen = registry.seen.filter(({ method, path }) => method === "PUT" && path.includes("/team/one/manifests/"));
    expect(seen).toHaveLength(1);
  },
);

row(
  "G06",
  "flags that only a client knows: the chain ID, how many blobs at once, syncing, TLS",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr images pull --help, ctr images push --help",
    covers: [
      "flag:ctr images pull --print-chainid",
      "flag:ctr images pull --max-concurrent-downloads",
      "flag:ctr images pull --sync-fs",
      "flag:ctr images pull --skip-verify",
      "flag:ctr images pull --tlscacert",
      "flag:ctr images push --skip-verify",
      "flag:ctr images push --tlscacert",
      "flag:ctr images push --max-concurrent-uploaded-layers",
      "flag:ctr images push --manifest",
      "flag:ctr images push --manifest-type",
      "flag:ctr images push --allow-non-distributable-blobs",
    ],
  },
  async (t) => {
    const { makeCertificates } = await import("@stevedore/registry/testing/certificates");
    const certificates = await makeCertificates();
    await using registry = await TestRegistry.start({ tls: certificates.server });
    const ca = t.path(t.id("ca.pem"));
    await writeFile(ca, certificates.ca);
    const { layers } = putImage(registry, "team/tls", { layers: ["a", "b", "c"], tag: "1" });
    const reference = `${registry.host}/team/tls:1`;
    let most = 0;
    let now = 0;
    registry.faults.push(async ({ method, path }, response) => {
      if (method !== "GET" || !layers.some(({ digest }) => path.endsWith(digest))) return false;
      now++;
      most = Math.max(most, now);
      response.on("close", () => {
        now--;
      });
      await Bun.sleep(20);
      return false;
    });
    const shown = await t.must(
      "images",
      "pull",
      "--tlscacert",
      ca,
      "--max-concurrent-downloads",
      "1",
      "--print-chainid",
      "--sync-fs",
      reference,
    );
    const chain = /image chain ID: (sha256:[0-9a-f]{64})/.exec(shown)?.[1] ?? "none";
    expect(await t.must("snapshots", "ls")).toContain(chain);
    expect(most).toBe(1);
    await t.must("images", "pull", "-k", reference);
    const digest = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "";
    await t.must(
      "images",
      "push",
      "--tlscacert",
      ca,
      "--max-concurrent-uploaded-layers",
      "1",
      `${registry.host}/team/a:1`,
      reference,
    );
    const byDigest = ["--manifest", digest, "--manifest-type", `${OCI}.manifest.v1+json`];
    await t.must("images", "push", "-k", "--allow-non-distributable-blobs", ...byDigest, `${registry.host}/team/b:1`);
    for (const repository of ["a", "b"]) {
      const put = registry.seen.filter(
        ({ method, path }) => method === "PUT" && path.includes(`/team/${repository}/manifests/1`),
      );
      expect(put).toHaveLength(1);
    }
    expect((await t.ctr("images", "push", "-k", "--manifest", "no", `${registry.host}/team/c:1`)).stderr).toContain(
      "invalid manifest digest",
    );
  },
);

row(
  "G13",
  "users and tokens: a password, a refresh token, none; by the service and by the client",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr images push --help",
    covers: [
      "flag:ctr images pull --user",
      "flag:ctr images push --user",
      "flag:ctr images pull --refresh",
      "flag:ctr images push --refresh",
      "flag:ctr images pull --http-dump",
      "flag:ctr images push --http-dump",
      "flag:ctr images pull --http-trace",
      "flag:ctr images push --http-trace",
    ],
  },
  async (t) => {
    const users = { admin: "Harbor:12345" };
    await using basic = await TestRegistry.start({ auth: { kind: "basic", users } });
    await using tokens = await TestRegistry.start({
      auth: { kind: "token", users, identityToken: "long-lived", post: true },
    });
    const image = await t.image();
    const at = (registry: TestRegistry): string => `${registry.host}/team/app:1`;
    for (const registry of [basic, tokens]) {
      const login = ["--plain-http", "--user", "admin:Harbor:12345"];
      expect((await t.ctr("images", "push", "--plain-http", at(registry), image)).code).toBe(1);
      expect((await t.ctr("images", "push", "--plain-http", "-u", "admin:no", at(registry), image)).code).toBe(1);
      await t.must("images", "push", ...login, at(registry), image);
      expect((await t.ctr("images", "pull", "--plain-http", at(registry))).code).toBe(1);
      await t.must("images", "pull", ...login, at(registry));
      await t.must("images", "pull", "--local", ...login, at(registry));
      // A password that is not given is asked for.
      const asked = await t.ctrWith(
        { stdin: "Harbor:12345\n" },
        "images",
        "pull",
        "--plain-http",
        "-u",
        "admin",
        at(registry),
      );
      expect(asked.stderr).toContain("Password: ");
      expect(asked.code).toBe(0);
    }
    await t.must("images", "pull", "--plain-http", "--refresh", "long-lived", at(tokens));
    await t.must("images", "push", "--plain-http", "--refresh", "long-lived", at(tokens), image);
    for (const flag of ["--http-dump", "--http-trace"]) {
      const pulled = await t.ctr("images", "pull", flag, "--plain-http", "-u", "admin:Harbor:12345", at(basic));
      expect(pulled.stderr).toMatch(
        /registry request method="(GET|HEAD)" url="http:\/\/.*\/v2\/team\/app\/manifests\/1"/,
      );
      expect(pulled.stderr).not.toContain("Harbor");
      const pushed = await t.ctr("images", "push", flag, "--plain-http", "-u", "admin:Harbor:12345", at(basic), image);
      expect(pushed.stderr).toContain("registry request method=");
    }
  },
);

row(
  "G06",
  "a folder of registry settings and client certificates, from flags",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr images pull --help; docs/hosts.md",
    covers: [
      "flag:ctr images pull --hosts-dir",
      "flag:ctr images push --hosts-dir",
      "flag:ctr images pull --tlscert",
      "flag:ctr images pull --tlskey",
      "flag:ctr images push --tlscert",
      "flag:ctr images push --tlskey",
    ],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    putImage(registry, "team/dir", { layers: ["x"], tag: "1" });
    const hosts = t.path(t.id("hosts"));
    await mkdir(`${hosts}/registry.test`, { recursive: true });
    await writeFile(`${hosts}/registry.test/hosts.toml`, `server = "${registry.url}"\n`);
    await t.must("images", "pull", "--hosts-dir", hosts, "registry.test/team/dir:1");
    await t.must("images", "push", "--hosts-dir", hosts, "registry.test/team/new:1", "registry.test/team/dir:1");
    expect(registry.seen.some(({ method, path }) => method === "PUT" && path.includes("/team/new/manifests/1"))).toBe(
      true,
    );

    const { makeCertificates } = await import("@stevedore/registry/testing/certificates");
    const certificates = await makeCertificates();
    await using strict = await TestRegistry.start({ tls: { ...certificates.server, ca: certificates.ca } });
    putImage(strict, "team/strict", { layers: ["x"], tag: "1" });
    const files: Record<string, string> = {
      ca: certificates.ca,
      cert: certificates.client.cert,
      key: certificates.client.key,
    };
    const pem = (name: string): string => t.path(t.id(`${name}.pem`));
    for (const [name, text] of Object.entries(files)) await writeFile(pem(name), text);
    const tls = ["--tlscacert", pem("ca"), "--tlscert", pem("cert"), "--tlskey", pem("key")];
    const reference = `${strict.host}/team/strict:1`;
    expect((await t.ctr("images", "pull", "--tlscacert", pem("ca"), reference)).code).toBe(1);
    await t.must("images", "pull", ...tls, reference);
    await t.must("images", "push", ...tls, `${strict.host}/team/strict:2`, reference);
  },
);

const TRANSFER = `[plugins."io.containerd.transfer.v1.local"]`;

/** Counts the requests that are answered at the same time, of those that `counts` takes. */
function atOnce(registry: TestRegistry, counts: (method: string, path: string) => boolean): { readonly most: number } {
  const seen = { most: 0 };
  let now = 0;
  registry.faults.push(async ({ method, path }, response) => {
    if (!counts(method, path)) return false;
    now++;
    seen.most = Math.max(seen.most, now);
    response.on("close", () => {
      now--;
    });
    await Bun.sleep(30);
    return false;
  });
  return seen;
}

row(
  "N14",
  "limits of downloads, uploads and unpacks, and the folder of registry settings, from the configuration",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, containerd config default; docs/decisions/0221-unpack-while-layers-arrive.md",
    config: {
      ours: `${TRANSFER}
  max_concurrent_downloads = 2
  max_concurrent_uploaded_layers = 1
  max_concurrent_unpacks = 3
  concurrent_layer_fetch_buffer = 1048576
  config_path = "@dir@/certs.d"
`,
    },
    covers: [
      "config:plugins.io.containerd.transfer.v1.local.max_concurrent_downloads",
      "config:plugins.io.containerd.transfer.v1.local.max_concurrent_uploaded_layers",
      "config:plugins.io.containerd.transfer.v1.local.max_concurrent_unpacks",
      "config:plugins.io.containerd.transfer.v1.local.concurrent_layer_fetch_buffer",
      "config:plugins.io.containerd.transfer.v1.local.config_path",
    ],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    await mkdir(t.path("certs.d/registry.test"), { recursive: true });
    await writeFile(t.path("certs.d/registry.test/hosts.toml"), `server = "${registry.url}"\n`);
    putImage(registry, "team/many", { layers: ["a", "b", "c", "d", "e", "f"], tag: "1" });
    const fetched = atOnce(registry, (method, path) => method === "GET" && path.includes("/blobs/"));
    const pushed = atOnce(registry, (method, path) => method === "PUT" && path.includes("/blobs/"));
    await t.must("images", "pull", "registry.test/team/many:1");
    expect(fetched.most).toBe(2);
    expect(lines(await t.must("snapshots", "ls"))).toHaveLength(7);
    await t.must("images", "push", "registry.test/other/many:1", "registry.test/team/many:1");
    expect(pushed.most).toBeLessThanOrEqual(1);

    // A large blob comes in ranges of the size that was given.
    const large = crypto.getRandomValues(Buffer.alloc(65_536));
    const blob = tar([{ path: "large", data: Buffer.concat(Array.from({ length: 34 << 4 }, () => large)) }]);
    const layer = {
      mediaType: `${OCI}.layer.v1.tar`,
      digest: registry.putBlob("team/large", blob),
      size: blob.byteLength,
    };
    const config = Buffer.from(
      JSON.stringify({ architecture: HERE, os: "linux", rootfs: { type: "layers", diff_ids: [digestOf(blob)] } }),
    );
    const described = {
      mediaType: `${OCI}.config.v1+json`,
      digest: registry.putBlob("team/large", config),
      size: config.byteLength,
    };
    const manifest = { schemaVersion: 2, mediaType: `${OCI}.manifest.v1+json`, config: described, layers: [layer] };
    registry.putManifest("team/large", Buffer.from(JSON.stringify(manifest)), { tag: "1" });
    await t.must("images", "pull", "registry.test/team/large:1");
    const ranges = registry.seen
      .filter(({ path }) => path.includes(layer.digest))
      .map(({ headers }) => /bytes=(\d+)-(\d+)/.exec(String(headers["range"])))
      .map((range) => Number(range?.[2]) - Number(range?.[1]) + 1);
    expect(ranges.length).toBeGreaterThan(30);
    expect(Math.max(...ranges)).toBe(1_048_576);
    expect(await t.must("images", "check", "-q")).toContain("registry.test/team/large:1");
  },
);

row(
  "N14",
  "what is unpacked for: the platform that is supported, with the snapshotter and differ that are named",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, containerd config default; plugins/transfer",
    config: {
      ours: `${TRANSFER}
  check_platform_supported = true
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/${HERE}"
    snapshotter = "native"
    differ = "walking"
`,
    },
    covers: ["config:plugins.io.containerd.transfer.v1.local.check_platform_supported"],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    putIndex(registry, "team/two", "1");
    const reference = `${registry.host}/team/two:1`;
    const other = await t.ctr("images", "pull", "--platform", `linux/${OTHER}`, "--snapshotter", "native", reference);
    expect(other.stderr).toContain("unable to initialize unpacker: no unpack platforms defined");
    const overlay = await t.ctr("images", "pull", reference);
    expect(overlay.stderr).toContain("no unpack platforms defined");
    expect(await t.must("images", "ls", "-q")).toBe("");
    await t.must("images", "pull", "--snapshotter", "native", reference);
    expect(lines(await t.must("snapshots", "--snapshotter", "native", "ls"))).toHaveLength(3);
  },
);

row(
  "C11",
  "image verifiers: all must let an image pass; their words are told, and one that hangs is ended",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, docs/image-verification.md",
    config: {
      ours: `[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "@dir@/verifiers"
  max_verifiers = 2
  per_verifier_timeout = "2s"
`,
    },
    covers: [
      "config:plugins.io.containerd.image-verifier.v1.bindir.bin_dir",
      "config:plugins.io.containerd.image-verifier.v1.bindir.max_verifiers",
      "config:plugins.io.containerd.image-verifier.v1.bindir.per_verifier_timeout",
    ],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    const { manifest } = putImage(registry, "team/signed", { layers: ["x"], tag: "1" });
    const reference = `${registry.host}/team/signed:1`;
    const folder = t.path("verifiers");
    const verifier = async (name: string, script: string): Promise<void> => {
      await mkdir(folder, { recursive: true });
      await writeFile(`${folder}/${name}`, `#!/bin/sh\n${script}\n`);
      await chmod(`${folder}/${name}`, 0o755);
    };
    const pull = async (): Promise<string> => {
      const before = registry.seen.length;
      const { code, stderr } = await t.ctr("images", "pull", reference);
      if (code !== 0) expect(registry.seen.slice(before).filter(({ path }) => path.includes("/blobs/"))).toEqual([]);
      await t.ctr("images", "rm", "--sync", reference);
      return code === 0 ? "pulled" : stderr;
    };
    // No folder, an empty one: nobody objects.
    expect(await pull()).toBe("pulled");
    await verifier("1-notes", `printf '%s\\n' "$@" > ${folder}/../arguments; cat > ${folder}/../stdin; echo fine`);
    expect(await pull()).toBe("pulled");
    expect(lines(await readFile(t.path("arguments"), "utf8"))).toEqual([
      "-name",
      reference,
      "-digest",
      manifest.digest,
      "-stdin-media-type",
      "application/vnd.oci.descriptor.v1+json",
    ]);
    expect(JSON.parse(await readFile(t.path("stdin"), "utf8"))).toEqual(manifest);
    await verifier("2-judge", "echo '  not signed  '; echo noise >&2; exit 3");
    expect(await pull()).toContain(
      `image verifier bindir blocked pull of ${reference} with digest ${manifest.digest} for reason: verifier 2-judge rejected image (exit code 3): not signed`,
    );
    await verifier("2-judge", "head -c 100000 /dev/zero | tr '\\0' x; exit 1");
    const long = await pull();
    expect(long).toContain("(stdout truncated)");
    expect(long.length).toBeLessThan(40_000);
    // One that does not end, with a child that holds its output.
    await verifier("2-judge", "sleep 1234.5 & sleep 1234.5");
    const start = performance.now();
    expect(await pull()).toContain("failed to call verifier 2-judge");
    expect(performance.now() - start).toBeGreaterThan(1_900);
    await eventually("the end of what it started", async () =>
      (await exec(["pgrep", "-f", "sleep 1234.5"])).code === 1 ? true : undefined,
    );
    // The third by name is one too many.
    await verifier("2-judge", "exit 0");
    await verifier("3-never", "exit 1");
    expect(await pull()).toBe("pulled");
    await writeFile(`${folder}/0-text`, "no program");
    expect(await pull()).toContain("image verifier bindir returned error: failed to call verifier 0-text");
  },
);

row(
  "C05",
  "kill -9 of the daemon or its client in the middle of pulls: nothing is shown, and the next pull goes on where they were",
  { casts: ["ours"], ownDaemon: true, source: "docs/decisions/0220-transfers-in-the-daemon.md", timeoutMs: 120_000 },
  async (t) => {
    await using registry = await TestRegistry.start();
    const block = crypto.getRandomValues(Buffer.alloc(65_536));
    const large = Buffer.concat(Array.from({ length: 100 }, () => block)).toString("latin1");
    const { layers } = putImage(registry, "team/killed", { layers: ["small", large, "other"], tag: "1" });
    const reference = `${registry.host}/team/killed:1`;
    const sizes = new Map(layers.map(({ digest, size }) => [digest, size]));
    // The large layer comes in pieces, so that there is a middle.
    const slowly = layers[1]?.digest ?? "";
    let stopAfter = 0;
    let reached = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    registry.faults.push(async ({ method, path, headers }, response) => {
      if (method !== "GET" || !path.endsWith(slowly)) return false;
      const whole = registry.repository("team/killed").blobs.get(slowly) ?? new Uint8Array();
      const from = Number(/bytes=(\d+)-/.exec(String(headers["range"]))?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, {
        "Content-Length": whole.byteLength - from,
        ...(from > 0 ? { "Content-Range": `bytes ${from}-${whole.byteLength - 1}/${whole.byteLength}` } : {}),
      });
      for (let at = from; at < whole.byteLength; at += 100_000) {
        if (at >= stopAfter) {
          reached.resolve();
          await gate.promise;
        }
        if (!response.writable) return true;
        response.write(whole.subarray(at, at + 100_000));
      }
      response.end();
      return true;
    });
    for (const [share, victim] of [
      [0, "daemon"],
      [0.2, "client"],
      [0.4, "daemon"],
      [0.6, "client"],
      [0.7, "user"],
      [0.9, "daemon"],
    ] as const) {
      stopAfter = (sizes.get(slowly) ?? 0) * share;
      reached = Promise.withResolvers<void>();
      const pulling = t.start("images", "pull", reference);
      await reached.promise;
      // All but the large one: manifest, config and two layers.
      await eventually("the small blobs", async () => ((await blobs(t)).length >= 4 ? true : undefined));
      if (victim === "daemon") await t.daemon.stop("SIGKILL");
      await pulling.stop(victim === "user" ? "SIGINT" : "SIGKILL");
      if (victim === "daemon") await t.daemon.launch();
      expect(await t.must("images", "ls", "-q")).toBe("");
    }
    stopAfter = Number.POSITIVE_INFINITY;
    gate.resolve();
    const whole = new Set(await blobs(t));
    expect(whole.size).toBe(4);
    const before = registry.seen.length;
    await t.must("images", "pull", reference);
    const asked = registry.seen.slice(before).filter(({ method }) => method === "GET");
    expect(asked.filter(({ path }) => [...whole].some((digest) => path.endsWith(digest)))).toEqual([]);
    const resumed = asked.find(({ path }) => path.endsWith(slowly));
    expect(String(resumed?.headers["range"])).toMatch(/^bytes=[1-9]\d{5,}-/);
    expect(await t.must("images", "check", "-q")).toBe(`${reference}\n`);
    expect(lines(await t.must("snapshots", "ls")).filter((line) => line.includes("Committed"))).toHaveLength(3);
    await dropLeases(t.daemon, t.namespace);
  },
);

row(
  "C11",
  "Debian's docker-registry, with an authority of its own and accounts, and with tokens: what one client pushed the others pull, bit for bit",
  {
    casts: ["ours", "our-daemon"],
    source: "the live registry and Debian's ctr in this case; containerd 1.6 takes the same flags",
    timeoutMs: 120_000,
  },
  async (t) => {
    const { makeCertificates } = await import("@stevedore/registry/testing/certificates");
    const { startDockerRegistry, startTokenServer } = await import("../harness/docker-registry.ts");
    const certificates = await makeCertificates();
    const users = { alice: "correct-horse" };
    const ca = t.path(t.id("ca.pem"));
    await writeFile(ca, certificates.ca);
    const image = await t.image();
    const digest = /sha256:[0-9a-f]{64}/.exec(await t.must("images", "ls"))?.[0] ?? "none";
    await using tokens = await startTokenServer(users);
    for (const kind of ["basic", "token"] as const) {
      const folder = t.path(t.id(kind));
      await mkdir(folder);
      await using registry = await startDockerRegistry({
        folder,
        // The token server has no TLS, and gets no password from a registry that has.
        ...(kind === "basic" ? { users, tls: certificates.server } : { tokens }),
      });
      // Debian's ctr takes a local host for one that speaks HTTP, whatever flags say of TLS.
      const hosts = t.path(t.id(`${kind}-hosts`));
      await mkdir(`${hosts}/${registry.host}`, { recursive: true });
      await writeFile(
        `${hosts}/${registry.host}/hosts.toml`,
        `server = "${registry.url}"\n[host."${registry.url}"]\n${kind === "basic" ? `  ca = "${ca}"\n` : ""}`,
      );
      const login = ["--hosts-dir", hosts, "--user", "alice:correct-horse"];
      const reference = `${registry.host}/team/${kind}:1`;
      await t.must("images", "push", ...login, reference, image);
      expect((await t.ctr("images", "pull", "--hosts-dir", hosts, "--user", "alice:wrong", reference)).code).toBe(1);
      await t.must("images", "pull", ...login, reference);
      expect(await t.must("images", "ls", `name==${reference}`)).toContain(digest);
      // The other client, in a namespace that has nothing yet.
      const other = t.cast.client === "ours" ? "debian" : "ours";
      const elsewhere = `${t.namespace}-${kind}`;
      const pulled = await t.daemon.ctr(other, elsewhere, ["images", "pull", ...login, reference]);
      expect([pulled.code, pulled.stderr]).toEqual([0, ""]);
      const listed = await t.daemon.ctr(other, elsewhere, ["images", "ls"]);
      expect(listed.stdout).toContain(digest);
      const gone = await t.daemon.ctr(other, elsewhere, ["images", "rm", "--sync", reference]);
      expect(gone.code).toBe(0);
    }
  },
);
