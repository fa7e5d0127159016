// The registry client against Debian's docker-registry: http, https with an own authority, anonymous, basic auth, tokens.
import { expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errorClassOf } from "@stevedore/base";
import { digestOf, MediaType } from "@stevedore/oci";
import {
  type Credential,
  type CredentialSource,
  createRegistryClient,
  credentialFor,
  hostsDir,
  type RegistryClient,
} from "@stevedore/registry";
import { makeCertificates, type TestCertificate } from "@stevedore/registry/testing/certificates";
import { collect, descriptorOf, failureFrom, someBytes } from "@stevedore/registry/testing/fixture";
import { repository } from "../harness/daemon.ts";
import {
  type DockerRegistry,
  startDockerRegistry,
  startTokenServer,
  type TokenServer,
} from "../harness/docker-registry.ts";
import { NODE_VERSION, pinnedNode } from "../harness/node.ts";
import { exec } from "../harness/process.ts";

const LIMIT_MS = 60_000;
const USERS = { alice: "correct-horse" };

type Kind = { readonly name: string; readonly tls: boolean; readonly auth: "none" | "basic" | "token" };
const KINDS: readonly Kind[] = [
  { name: "http", tls: false, auth: "none" },
  { name: "https", tls: true, auth: "none" },
  { name: "http with basic auth", tls: false, auth: "basic" },
  { name: "https with basic auth", tls: true, auth: "basic" },
  { name: "http with a token server", tls: false, auth: "token" },
];

async function inFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "registry-client-"));
  try {
    await use(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

type World = { readonly registry: DockerRegistry; readonly client: RegistryClient; readonly wrong: RegistryClient };

async function withRegistry(kind: Kind, use: (world: World) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    const certificates = kind.tls ? await makeCertificates() : undefined;
    await using tokens: TokenServer | undefined = kind.auth === "token" ? await startTokenServer(USERS) : undefined;
    const tls: { readonly tls?: TestCertificate } = certificates === undefined ? {} : { tls: certificates.server };
    await using registry = await startDockerRegistry({
      folder,
      ...tls,
      ...(kind.auth === "basic" ? { users: USERS } : {}),
      ...(tokens === undefined ? {} : { tokens }),
    });
    const roots = join(folder, "certs.d");
    const at = join(roots, registry.host.replace(/:(\d+)$/, "_$1_"));
    await exec(["mkdir", "-p", at]);
    await writeFile(
      join(at, "hosts.toml"),
      `server = "${registry.url}"\n${certificates === undefined ? "" : 'ca = "ca.pem"\n'}`,
    );
    if (certificates !== undefined) await writeFile(join(at, "ca.pem"), certificates.ca);
    const make = (password: string): RegistryClient => {
      const credential: Credential = { kind: "basic", username: "alice", password, from: "a test" };
      const credentials: CredentialSource = credentialFor(registry.host, credential);
      return createRegistryClient({
        userAgent: "containerd/2.3.4+stevedore.test",
        hosts: hostsDir({ roots: [roots] }),
        ...(kind.auth === "none" ? {} : { credentials }),
      });
    };
    await use({ registry, client: make("correct-horse"), wrong: make("wrong-horse") });
  });
}

const inParts = (bytes: Uint8Array) =>
  async function* (offset: number): AsyncGenerator<Uint8Array> {
    for (let at = offset; at < bytes.byteLength; at += 300_000) yield bytes.subarray(at, at + 300_000);
  };

function imageOf(layer: Uint8Array): { readonly config: Uint8Array; readonly manifest: Uint8Array } {
  const config = Buffer.from(
    JSON.stringify({ architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [digestOf(layer)] } }),
  );
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: MediaType.ociManifest,
    config: descriptorOf(config, MediaType.ociConfig),
    layers: [descriptorOf(layer)],
  });
  return { config, manifest: Buffer.from(manifest) };
}

for (const kind of KINDS) {
  test(
    `C11 C12 C15 C20 push, resolve, fetch, mount, list and delete at docker-registry over ${kind.name}`,
    async () => {
      await withRegistry(kind, async ({ registry, client, wrong }) => {
        const ref = `${registry.host}/library/app:v1`;
        const layer = someBytes(5_000_000, 4);
        const { config, manifest } = imageOf(layer);
        const push = async (reference: string, bytes: Uint8Array, mediaType: string) =>
          client.push(reference, descriptorOf(bytes, mediaType), inParts(bytes));
        expect((await push(ref, layer, MediaType.ociLayerGzip)).state).toBe("uploaded");
        expect((await push(ref, config, MediaType.ociConfig)).state).toBe("uploaded");
        expect((await push(ref, manifest, MediaType.ociManifest)).state).toBe("uploaded");
        expect((await push(ref, layer, MediaType.ociLayerGzip)).state).toBe("exists");
        expect((await push(ref, manifest, MediaType.ociManifest)).state).toBe("exists");

        const { descriptor } = await client.resolve(ref);
        expect(descriptor).toEqual(descriptorOf(manifest, MediaType.ociManifest));
        expect(Buffer.compare(await client.fetchDocument(ref, descriptor), manifest)).toBe(0);
        const whole = await client.fetch(ref, descriptorOf(layer), { verify: true });
        expect(Buffer.compare(await collect(whole.body), layer)).toBe(0);
        const rest = await client.fetch(ref, descriptorOf(layer), { offset: 4_000_001 });
        expect(Buffer.compare(await collect(rest.body), layer.subarray(4_000_001))).toBe(0);
        const ranges = await client.fetchRanges(ref, descriptorOf(layer), { parallel: 3, chunkSize: 500_000 });
        expect(ranges.ranged).toBe(true);
        expect(Buffer.compare(await collect(ranges.ordered), layer)).toBe(0);
        const byDigest = await client.fetchByDigest(ref, digestOf(manifest));
        expect(Buffer.compare(await collect(byDigest.body), manifest)).toBe(0);

        const copy = `${registry.host}/library/copy:v1`;
        const mounted = await client.push(copy, descriptorOf(layer), inParts(layer), { mountFrom: ["library/app"] });
        expect(mounted).toMatchObject({ state: "mounted", from: `${registry.host}/library/app` });
        expect(await client.tags(ref)).toEqual(["v1"]);
        if (kind.auth !== "token") expect(await client.catalog(registry.host)).toContain("library/app");

        const missing = await failureFrom(client.resolve(`${registry.host}/library/app:none`));
        expect(errorClassOf(missing)).toBe("not-found");
        expect(missing.message).toContain("MANIFEST_UNKNOWN: manifest unknown");
        if (kind.auth !== "none") {
          const denied = await failureFrom(wrong.resolve(ref));
          expect(errorClassOf(denied)).toBe("unauthenticated");
          expect(denied.message).not.toContain("wrong-horse");
        }
        await client.remove(`${registry.host}/library/app@${descriptor.digest}`);
        expect(errorClassOf(await failureFrom(client.resolve(ref)))).toBe("not-found");
        const explained = await client.explain(ref, { live: true });
        expect(explained.hosts).toMatchObject([{ endpoint: registry.url, live: { ok: true, status: 200 } }]);
        const certificate = explained.hosts[0]?.live?.certificate;
        if (!kind.tls) expect(certificate).toBeUndefined();
        else {
          expect(certificate).toMatchObject({ subject: "test server", issuer: "test authority" });
          expect(certificate?.validUntil).toBeGreaterThan(Date.now());
        }
        client.close();
      });
    },
    LIMIT_MS,
  );
}

test(
  "C07 an OCI artifact passes docker-registry, and what refers to an image is found by its tag",
  async () => {
    await withRegistry({ name: "http", tls: false, auth: "none" }, async ({ registry, client }) => {
      const ref = `${registry.host}/art:v1`;
      const layer = someBytes(1000, 5);
      const { config, manifest } = imageOf(layer);
      const empty = Buffer.from("{}");
      for (const bytes of [layer, config, empty]) await client.push(ref, descriptorOf(bytes), inParts(bytes));
      await client.push(ref, descriptorOf(manifest, MediaType.ociManifest), inParts(manifest));
      const signature = Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: MediaType.ociManifest,
          artifactType: "application/vnd.example.signature",
          config: descriptorOf(empty, MediaType.ociEmpty),
          layers: [descriptorOf(layer, "application/vnd.example.payload")],
          subject: descriptorOf(manifest, MediaType.ociManifest),
        }),
      );
      const bare = `${registry.host}/art@${digestOf(signature)}`;
      await client.push(bare, descriptorOf(signature, MediaType.ociManifest), inParts(signature));
      expect((await client.resolve(bare)).descriptor.digest).toBe(digestOf(signature));
      expect(await client.referrers(ref, digestOf(manifest))).toEqual([]);
      const entry = {
        ...descriptorOf(signature, MediaType.ociManifest),
        artifactType: "application/vnd.example.signature",
      };
      const index = Buffer.from(
        JSON.stringify({ schemaVersion: 2, mediaType: MediaType.ociIndex, manifests: [entry] }),
      );
      const tag = `${registry.host}/art:${digestOf(manifest).replace(":", "-")}`;
      await client.push(tag, descriptorOf(index, MediaType.ociIndex), inParts(index));
      expect(await client.referrers(ref, digestOf(manifest))).toEqual([entry]);
      expect(await client.referrers(ref, digestOf(manifest), { artifactTypes: ["other"] })).toEqual([]);
    });
  },
  LIMIT_MS,
);

test(
  "C20 a fetch goes on where it was when docker-registry is killed and started again",
  async () => {
    await withRegistry({ name: "http", tls: false, auth: "none" }, async ({ registry, client }) => {
      const layer = someBytes(24_000_000, 6);
      const ref = `${registry.host}/big:v1`;
      await client.push(ref, descriptorOf(layer), inParts(layer));
      const { body } = await client.fetch(ref, descriptorOf(layer), { verify: true });
      let got = 0;
      for await (const chunk of body) {
        const before = got;
        got += chunk.byteLength;
        if (before < 2_000_000 && got >= 2_000_000) await registry.restart();
      }
      expect(got).toBe(layer.byteLength);
    });
  },
  LIMIT_MS,
);

test(
  "B21 names of registries are looked up in /etc/hosts",
  async () => {
    await withRegistry({ name: "http", tls: false, auth: "none" }, async ({ registry }) => {
      await inFolder(async (folder) => {
        const port = registry.host.split(":")[1] ?? "";
        await writeFile(join(folder, "hosts"), "127.0.0.1 localhost docker.vms.weijc\n");
        const program = join(folder, "program.ts");
        await writeFile(
          program,
          `import { createRegistryClient, defaultHosts } from ${JSON.stringify(join(repository, "packages/registry/src/index.ts"))};
           const client = createRegistryClient({ userAgent: "x", hosts: defaultHosts({ scheme: "http" }) });
           const failure = await client.resolve("docker.vms.weijc:${port}/library/none:v1").catch((error) => error);
           console.log(failure.errorClass, failure.failures[0].endpoint);`,
        );
        const script = `mount --bind ${folder}/hosts /etc/hosts && exec ${process.execPath} ${program}`;
        const ran = await exec(["unshare", "--mount", "--propagation", "private", "sh", "-c", script]);
        expect(`${ran.stdout}${ran.stderr}`).toBe(`not-found http://docker.vms.weijc:${port}\n`);
      });
    });
  },
  LIMIT_MS,
);

test(
  "N12 the client runs on Node, pushes and pulls",
  async () => {
    await withRegistry({ name: "https", tls: true, auth: "basic" }, async ({ registry }) => {
      await inFolder(async (folder) => {
        const bundle = join(folder, "registry.mjs");
        const entry = join(repository, "packages/registry/src/index.ts");
        const built = await exec(
          [process.execPath, "build", "--target=node", "--format=esm", entry, `--outfile=${bundle}`],
          { timeoutMs: 30_000 },
        );
        expect(built.code).toBe(0);
        await writeFile(
          join(folder, "program.mjs"),
          `import { createRegistryClient, defaultHost } from "./registry.mjs";
           import { createHash } from "node:crypto";
           const [host] = process.argv.slice(2);
           const own = { ...defaultHost(host), plainFallback: false, tls: { skipVerify: true } };
           const credential = { kind: "basic", username: "alice", password: "correct-horse", from: "the test" };
           const client = createRegistryClient({
             userAgent: "node", hosts: { hosts: async () => [own] }, credentials: { name: "x", find: async () => credential },
           });
           const bytes = Buffer.alloc(3_000_000, 7);
           const digest = "sha256:" + createHash("sha256").update(bytes).digest("hex");
           const descriptor = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
           const ref = host + "/node:v1";
           const pushed = await client.push(ref, descriptor, async function* () { yield bytes; });
           let n = 0;
           for await (const chunk of (await client.fetch(ref, descriptor, { verify: true })).body) n += chunk.byteLength;
           for await (const chunk of (await client.fetchRanges(ref, descriptor, { chunkSize: 500_000 })).ordered) n += chunk.byteLength;
           const failure = await client.resolve(host + "/none:v1").catch((error) => error.errorClass);
           console.log(process.version, pushed.state, n, failure);`,
        );
        const ran = await exec([await pinnedNode(), join(folder, "program.mjs"), registry.host]);
        expect(`${ran.stdout}${ran.stderr}`).toBe(`v${NODE_VERSION} uploaded 6000000 not-found\n`);
      });
    });
  },
  // The first run fetches Node.
  LIMIT_MS + 240_000,
);
