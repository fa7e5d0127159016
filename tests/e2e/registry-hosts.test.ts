// The registry client beside Debian's ctr: the same configuration makes both ask the same hosts the same things.
import { expect } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { childrenOf, isManifestType, MediaType, parseManifest } from "@stevedore/oci";
import { createRegistryClient, credentialFor, defaultHosts, hostsDir } from "@stevedore/registry";
import { collect, putImage } from "@stevedore/registry/testing/fixture";
import { refuse, type SeenRequest, TestRegistry } from "@stevedore/registry/testing/test-registry";
import { row } from "../harness/row.ts";

const NAMESPACE = "registry.test:5000";
const REF = `${NAMESPACE}/team/app:v1`;

/** What counts of a request, and the headers that were configured. */
function shown(request: SeenRequest): string {
  const { headers } = request;
  const accept = request.path.includes("/blobs/") ? "" : ` accept ${String(headers["accept"])}`;
  return `${request.method} ${request.path} x-mirror ${String(headers["x-mirror"] ?? "none")}${accept}`;
}

row("C17", "hosts of a hosts.toml are asked in the order and form of the peer", { casts: ["peer"] }, async (t) => {
  await using pullOnly = await TestRegistry.start();
  await using proxy = await TestRegistry.start();
  await using server = await TestRegistry.start();
  const { digest, manifest } = putImage(server, "team/app", "v1");
  for (const [name, blob] of server.repository("team/app").blobs) pullOnly.repository("team/app").blobs.set(name, blob);
  // The first mirror has the blobs but not the manifest; the second has nothing, and a path of its own.
  proxy.faults.push((request, response) => {
    if (request.path === "/v2/") return false;
    refuse(response, 404, "NAME_UNKNOWN");
    return true;
  });
  const folder = t.path("certs.d");
  await mkdir(join(folder, "registry.test_5000_"), { recursive: true });
  await writeFile(
    join(folder, "registry.test_5000_/hosts.toml"),
    `server = "${server.url}"

[host."${pullOnly.url}"]
  capabilities = ["pull"]
  [host."${pullOnly.url}".header]
    x-mirror = ["one"]

[host."${proxy.url}/v2/cache/inner"]
  capabilities = ["pull", "resolve"]
  override_path = true
`,
  );
  const registries = [pullOnly, proxy, server];
  const take = (): string[][] =>
    registries.map((registry) => [...new Set(registry.seen.splice(0).map(shown))].toSorted());

  const fetched = await t.ctr("content", "fetch", "--hosts-dir", folder, REF);
  expect(`${fetched.code} ${fetched.stderr}`).toStartWith("0 ");
  const peers = take();
  expect(peers.every((lines) => lines.length > 0)).toBe(true);

  const client = createRegistryClient({ userAgent: "containerd/2.3.4+test", hosts: hostsDir({ roots: [folder] }) });
  const { descriptor } = await client.resolve(REF);
  expect(descriptor).toEqual({ mediaType: MediaType.ociManifest, digest, size: manifest.byteLength });
  const document = parseManifest(await client.fetchDocument(REF, descriptor), descriptor.mediaType);
  for (const child of [document.config, ...document.layers]) {
    await collect((await client.fetch(REF, child, { verify: true })).body);
  }
  client.close();
  // Ours asks once more by GET where a HEAD was refused, for the registry's own reason.
  const ours = take().map((lines) =>
    lines.filter((line) => !line.startsWith("GET /v2/cache/inner/team/app/manifests/v1")),
  );
  expect(ours).toEqual(peers);
});

/** What counts of a request of a push. */
function pushed({ method, path, headers }: SeenRequest): string {
  const sent = ["content-type", "content-length", "transfer-encoding"].map(
    (name) => `${name} ${String(headers[name] ?? "none")}`,
  );
  const accept = method === "HEAD" ? ` accept ${String(headers["accept"])}` : "";
  // The number of an upload depends on which blob came first; Go sorts a query, ours leaves it as the registry spelled it.
  const [place = "", query = ""] = path.replace(/uploads\/\d+/, "uploads/N").split("?");
  const asked = query.split("&").toSorted().join("&");
  return `${method} ${place}?${asked}${accept} ${method === "PUT" ? sent.join(" ") : ""}`;
}

row("C15", "a push asks and sends what the peer's does", { casts: ["peer"] }, async (t) => {
  const auth = { kind: "basic", users: { admin: "Harbor12345" } } as const;
  await using theirs = await TestRegistry.start({ auth });
  await using own = await TestRegistry.start({ auth });
  const image = await t.image();
  await t.must("images", "tag", image, `${theirs.host}/library/app:v1`);
  await t.must("images", "push", "--plain-http", "-u", "admin:Harbor12345", `${theirs.host}/library/app:v1`);
  const repository = theirs.repository("library/app");
  const tagged = repository.tags.get("v1") ?? "";
  expect(repository.manifests.has(tagged)).toBe(true);

  const credential = { kind: "basic", username: "admin", password: "Harbor12345", from: "a flag" } as const;
  const client = createRegistryClient({
    userAgent: "containerd/2.3.4+test",
    hosts: defaultHosts({ scheme: "http" }),
    credentials: credentialFor(own.host, credential),
  });
  const types = new Map(
    [...repository.manifests.values()].flatMap(({ bytes, mediaType }) => typesIn(bytes, mediaType)),
  );
  const all = [
    ...[...repository.blobs].map(([digest, bytes]) => ({ digest, bytes })),
    ...manifestsOf(repository, tagged),
  ];
  for (const { digest, bytes } of all) {
    const mediaType = repository.manifests.get(digest)?.mediaType ?? types.get(digest) ?? "";
    const reference = `${own.host}/library/app:v1@${tagged}`;
    await client.push(reference, { mediaType, digest, size: bytes.byteLength }, async function* () {
      yield bytes;
    });
  }
  client.close();
  expect(own.repository("library/app").tags.get("v1")).toBe(tagged);
  const shownOf = (registry: TestRegistry): string[] => [...new Set(registry.seen.map(pushed))].toSorted();
  expect(shownOf(own)).toEqual(shownOf(theirs));
});

type Stored = { readonly bytes: Uint8Array; readonly mediaType: string };

/** The media types a manifest gives its blobs. */
function typesIn(bytes: Uint8Array, mediaType: string): (readonly [digest: string, mediaType: string])[] {
  if (!isManifestType(mediaType)) return [];
  return childrenOf(parseManifest(bytes, mediaType)).map((child) => [child.digest, child.mediaType]);
}

/** Manifests before the one the tag names. */
function manifestsOf(
  repository: { readonly manifests: ReadonlyMap<string, Stored> },
  tagged: string,
): { readonly digest: string; readonly bytes: Uint8Array }[] {
  const all = [...repository.manifests].map(([digest, { bytes }]) => ({ digest, bytes }));
  return [...all.filter(({ digest }) => digest !== tagged), ...all.filter(({ digest }) => digest === tagged)];
}
