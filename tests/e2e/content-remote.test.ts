// Content of a registry by itself: fetch, fetch-object, fetch-blob and push-object of ctr, with all their ways to reach it.
import { expect } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { TestRegistry } from "@stevedore/registry/testing/test-registry";
import { row, type Stage } from "../harness/row.ts";

const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const INDEX = "application/vnd.oci.image.index.v1+json";
const CONFIG = "application/vnd.oci.image.config.v1+json";

interface Served {
  readonly digest: string;
  readonly manifest: string;
  readonly layer: string;
}

function digestOf(bytes: Uint8Array | string): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

/** An image of one layer that no one unpacks. */
function serve(registry: TestRegistry, repository: string): Served {
  const blob = (text: string, mediaType: string): { mediaType: string; digest: string; size: number } => ({
    mediaType,
    digest: registry.putBlob(repository, Buffer.from(text)),
    size: text.length,
  });
  const config = {
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    rootfs: { type: "layers", diff_ids: [digestOf("layer")] },
  };
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: blob(JSON.stringify(config), CONFIG),
    layers: [blob("layer", "application/vnd.oci.image.layer.v1.tar")],
  });
  return {
    digest: registry.putManifest(repository, Buffer.from(manifest), { tag: "1" }),
    manifest,
    layer: digestOf("layer"),
  };
}

/** Runs all four with the flags that reach the registry. */
async function reachBy(t: Stage, reference: string, served: Served, flags: readonly string[]): Promise<void> {
  await t.must("content", "fetch", ...flags, reference);
  expect(await t.must("content", "fetch-object", ...flags, reference)).toBe(served.manifest);
  // The peer of Debian 12 has no such command yet.
  if (t.cast.client === "ours") {
    expect(await t.must("content", "fetch-blob", ...flags, reference, served.layer)).toBe("layer");
  }
  const pushed = await t.must(
    "content",
    "push-object",
    ...flags,
    reference.replace(":1", ":2"),
    served.digest,
    MANIFEST,
  );
  expect(pushed).toBe(`Pushed ${served.digest} ${MANIFEST}\n`);
}

row(
  "C20",
  "content fetch brings an image without unpacking it; fetch-object, fetch-blob and push-object move single things",
  {
    casts: ["peer", "ours", "our-daemon", "our-ctr"],
    covers: [
      "cmd:ctr content fetch",
      "cmd:ctr content fetch-object",
      "cmd:ctr content fetch-blob",
      "cmd:ctr content push-object",
      "flag:ctr content fetch --plain-http",
      "flag:ctr content fetch-object --plain-http",
      "flag:ctr content fetch-blob --plain-http",
      "flag:ctr content push-object --plain-http",
      "flag:ctr content fetch --label",
      "flag:ctr content fetch --platform",
      "flag:ctr content fetch --all-platforms",
      "flag:ctr content fetch --metadata-only",
      "flag:ctr content fetch-blob --media-type",
    ],
  },
  async (t) => {
    await using registry = await TestRegistry.start();
    const served = serve(registry, "team/app");
    const reference = `${registry.host}/team/app:1`;
    await reachBy(t, reference, served, ["--plain-http"]);
    expect(await t.must("images", "ls")).toContain(served.digest);
    expect((await t.must("content", "ls", "-q")).trim().split("\n")).toHaveLength(3);
    expect((await t.must("snapshots", "ls")).trim().split("\n")).toHaveLength(1);
    expect((await fetch(`${registry.url}/v2/team/app/manifests/2`)).status).toBe(200);

    await t.must("images", "rm", "--sync", reference);
    await t.must("content", "fetch", "--plain-http", "--label", "a=b", "--all-platforms", reference);
    expect(await t.must("images", "ls")).toContain("a=b");
    await t.must("content", "fetch", "--plain-http", "--metadata-only", reference);
    await t.must("content", "fetch", "--plain-http", "--platform", "linux", reference);
    // Documents of every platform, and nobody's layers.
    const index = JSON.stringify({
      schemaVersion: 2,
      mediaType: INDEX,
      manifests: [
        {
          mediaType: MANIFEST,
          digest: served.digest,
          size: served.manifest.length,
          platform: { os: "linux", architecture: "s390x" },
        },
      ],
    });
    const top = registry.putManifest("team/app", Buffer.from(index), { tag: "index", mediaType: INDEX });
    await t.must("images", "rm", "--sync", reference);
    await t.must("content", "fetch", "--plain-http", "--metadata-only", `${registry.host}/team/app:index`);
    const fetched = (await t.must("content", "ls", "-q")).trim().split("\n");
    expect(fetched).toContain(top);
    expect(fetched).toContain(served.digest);
    expect(fetched).not.toContain(served.layer);
    const none = `sha256:${"0".repeat(64)}`;
    if (t.cast.client === "ours") {
      const typed = ["--plain-http", "--media-type", MANIFEST, reference, served.digest];
      expect(await t.must("content", "fetch-blob", ...typed)).toBe(served.manifest);
      const missing = await t.ctr("content", "fetch-blob", "--plain-http", reference, none);
      expect(missing.code).toBe(1);
      expect(missing.stderr).toContain("not found");
      expect((await t.ctr("content", "fetch-blob", "--plain-http", reference)).stderr).toContain(
        "must specify digests",
      );
    }
    expect((await t.ctr("content", "push-object", "--plain-http", reference, none, MANIFEST)).code).toBe(1);
    expect((await t.ctr("content", "push-object", "--plain-http", reference, "no", MANIFEST)).stderr).toContain(
      "invalid checksum digest format",
    );
  },
);

row(
  "C20 C11",
  "content fetch and its like know accounts, authorities, hosts folders and traces",
  {
    casts: ["ours", "our-ctr"],
    source: "containerd 2.3.4, ctr content fetch --help",
    covers: [
      "flag:ctr content fetch --user",
      "flag:ctr content fetch-object --user",
      "flag:ctr content fetch-blob --user",
      "flag:ctr content push-object --user",
      "flag:ctr content fetch --refresh",
      "flag:ctr content fetch-object --refresh",
      "flag:ctr content fetch-blob --refresh",
      "flag:ctr content push-object --refresh",
      "flag:ctr content fetch --hosts-dir",
      "flag:ctr content fetch-object --hosts-dir",
      "flag:ctr content fetch-blob --hosts-dir",
      "flag:ctr content push-object --hosts-dir",
      "flag:ctr content fetch --skip-verify",
      "flag:ctr content fetch-object --skip-verify",
      "flag:ctr content fetch-blob --skip-verify",
      "flag:ctr content push-object --skip-verify",
      "flag:ctr content fetch --tlscacert",
      "flag:ctr content fetch-object --tlscacert",
      "flag:ctr content fetch-blob --tlscacert",
      "flag:ctr content push-object --tlscacert",
      "flag:ctr content fetch --tlscert",
      "flag:ctr content fetch-object --tlscert",
      "flag:ctr content fetch-blob --tlscert",
      "flag:ctr content push-object --tlscert",
      "flag:ctr content fetch --tlskey",
      "flag:ctr content fetch-object --tlskey",
      "flag:ctr content fetch-blob --tlskey",
      "flag:ctr content push-object --tlskey",
      "flag:ctr content fetch --http-dump",
      "flag:ctr content fetch-object --http-dump",
      "flag:ctr content fetch-blob --http-dump",
      "flag:ctr content push-object --http-dump",
      "flag:ctr content fetch --http-trace",
      "flag:ctr content fetch-object --http-trace",
      "flag:ctr content fetch-blob --http-trace",
      "flag:ctr content push-object --http-trace",
      "flag:ctr content fetch --skip-metadata",
    ],
  },
  async (t) => {
    const { makeCertificates } = await import("@stevedore/registry/testing/certificates");
    const certificates = await makeCertificates();
    await using locked = await TestRegistry.start({ auth: { kind: "basic", users: { admin: "Harbor:12345" } } });
    const login = ["--plain-http", "--user", "admin:Harbor:12345"];
    await reachBy(t, `${locked.host}/team/app:1`, serve(locked, "team/app"), login);
    expect((await t.ctr("content", "fetch-object", "--plain-http", `${locked.host}/team/app:1`)).code).toBe(1);

    await using tokens = await TestRegistry.start({
      auth: { kind: "token", users: {}, identityToken: "long-lived" },
    });
    const refreshed = ["--plain-http", "--refresh", "long-lived"];
    await reachBy(t, `${tokens.host}/team/app:1`, serve(tokens, "team/app"), refreshed);

    const pem = async (name: string, text: string): Promise<string> => {
      const path = t.path(t.id(`${name}.pem`));
      await writeFile(path, text);
      return path;
    };
    const ca = await pem("ca", certificates.ca);
    const own = [
      "--tlscert",
      await pem("cert", certificates.client.cert),
      "--tlskey",
      await pem("key", certificates.client.key),
    ];
    await using strict = await TestRegistry.start({ tls: { ...certificates.server, ca: certificates.ca } });
    const served = serve(strict, "team/app");
    await reachBy(t, `${strict.host}/team/app:1`, served, ["--tlscacert", ca, ...own]);
    await reachBy(t, `${strict.host}/team/app:1`, served, ["--skip-verify", ...own]);

    await using plain = await TestRegistry.start();
    const there = serve(plain, "team/app");
    const hosts = t.path(t.id("hosts"));
    await mkdir(`${hosts}/registry.test`, { recursive: true });
    await writeFile(`${hosts}/registry.test/hosts.toml`, `server = "${plain.url}"\n`);
    await reachBy(t, "registry.test/team/app:1", there, ["--hosts-dir", hosts]);
    for (const flag of ["--http-dump", "--http-trace"]) {
      const flags = ["--plain-http", flag, `${plain.host}/team/app:1`];
      for (const line of [
        ["fetch", "--skip-metadata", ...flags],
        ["fetch-object", ...flags],
        ["fetch-blob", ...flags, there.layer],
        ["push-object", ...flags, there.digest, MANIFEST],
      ]) {
        const ran = await t.ctr("content", ...line);
        expect(ran.code).toBe(0);
        expect(ran.stderr).toContain("/v2/team/app/");
      }
    }
  },
);
