// The registry client beside Debian's ctr: the same hosts.toml makes both ask the same hosts the same things.
import { expect } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MediaType, parseManifest } from "@stevedore/oci";
import { createRegistryClient, hostsDir } from "@stevedore/registry";
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
