// The daemon's registry endpoint: other daemons, Debian's ctr and skopeo pull from it and, where it was made writable, push to it.
import { afterAll, expect } from "bun:test";
import { createHash } from "node:crypto";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import { parseManifest } from "@stevedore/oci/manifest";
import { ociArchive } from "../harness/images.ts";
import { dropLeases } from "../harness/leases.ts";
import { freePort } from "../harness/ports.ts";
import { exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const SOURCE = "the distribution specification, and the endpoint's own decision page";
const NAME = "docker.io/library/busybox:test";
const REPOSITORY = "library/busybox";

function config(port: number, more = ""): { readonly ours: string } {
  return { ours: `[plugins."stevedore.registry.v1.endpoint"]\n  address = "127.0.0.1:${port}"\n${more}` };
}

/** Our ctr in the namespace that the endpoint serves. @returns what it printed */
async function inDefault(t: Stage, ...args: string[]): Promise<string> {
  const ran = await t.daemon.ctr("ours", "default", args);
  if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stdout}${ran.stderr}`);
  return ran.stdout;
}

/** Imports the test image into the namespace that the endpoint serves. */
async function served(t: Stage): Promise<void> {
  const archive = t.path("image.tar");
  await writeFile(archive, await ociArchive({ name: NAME }));
  await inDefault(t, "images", "import", archive);
}

async function skopeo(...args: string[]): Promise<string> {
  const ran = await exec(["skopeo", "--insecure-policy", ...args], { timeoutMs: 60_000 });
  if (ran.code !== 0) throw new Error(`skopeo ${args.join(" ")}: ${ran.stderr}`);
  return ran.stdout;
}

async function codesOf(answer: Response): Promise<readonly string[]> {
  const body: unknown = await answer.json();
  const errors: unknown = typeof body === "object" && body !== null && "errors" in body ? body.errors : undefined;
  return Array.isArray(errors) ? errors.map((error: { readonly code: string }) => error.code) : [];
}

const sha256 = (bytes: Uint8Array): string => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

const readPort = freePort();
row(
  "C07",
  "the registry endpoint answers the distribution API, read-only",
  { casts: ["ours"], source: SOURCE, config: config(readPort) },
  async (t) => {
    await served(t);
    const base = `http://127.0.0.1:${readPort}/v2`;
    const greeting = await fetch(`${base}/`);
    expect(greeting.status).toBe(200);
    expect(greeting.headers.get("docker-distribution-api-version")).toBe("registry/2.0");

    const byTag = await fetch(`${base}/${REPOSITORY}/manifests/test`);
    const bytes = new Uint8Array(await byTag.arrayBuffer());
    const digest = byTag.headers.get("docker-content-digest") ?? "";
    expect(digest).toBe(sha256(bytes));
    const target = (await inDefault(t, "images", "ls")).split("\n")[1] ?? "";
    expect(target).toContain(digest);
    // The same under its full name, under its digest, and as a mirror's client asks.
    for (const path of [
      `docker.io/${REPOSITORY}/manifests/test`,
      `${REPOSITORY}/manifests/${digest}`,
      `${REPOSITORY}/manifests/test?ns=docker.io`,
    ]) {
      expect(new Uint8Array(await (await fetch(`${base}/${path}`)).arrayBuffer())).toEqual(bytes);
    }
    expect((await fetch(`${base}/${REPOSITORY}/manifests/test?ns=quay.io`)).status).toBe(404);
    const head = await fetch(`${base}/${REPOSITORY}/manifests/test`, { method: "HEAD" });
    expect(head.headers.get("content-length")).toBe(String(bytes.length));

    const manifest = parseManifest(bytes, byTag.headers.get("content-type") ?? "");
    const [layer] = manifest.layers;
    if (layer === undefined) throw new Error("no layer");
    const blob = `${base}/${REPOSITORY}/blobs/${layer.digest}`;
    const whole = new Uint8Array(await (await fetch(blob)).arrayBuffer());
    expect(sha256(whole)).toBe(layer.digest);
    const part = await fetch(blob, { headers: { range: "bytes=10-19" } });
    expect(part.status).toBe(206);
    expect(part.headers.get("content-range")).toBe(`bytes 10-19/${layer.size}`);
    expect(new Uint8Array(await part.arrayBuffer())).toEqual(whole.slice(10, 20));
    const beyond = await fetch(blob, { headers: { range: `bytes=${layer.size}-` } });
    expect(beyond.status).toBe(416);
    expect((await fetch(blob, { headers: { "if-none-match": `"${layer.digest}"` } })).status).toBe(304);

    expect(await (await fetch(`${base}/_catalog`)).json()).toEqual({ repositories: [`docker.io/${REPOSITORY}`] });
    expect(await (await fetch(`${base}/${REPOSITORY}/tags/list`)).json()).toEqual({ name: REPOSITORY, tags: ["test"] });
    const referrers = await fetch(`${base}/${REPOSITORY}/referrers/${digest}`);
    expect(await referrers.json()).toMatchObject({ schemaVersion: 2, manifests: [] });

    const none = `sha256:${"0".repeat(64)}`;
    expect(await codesOf(await fetch(`${base}/${REPOSITORY}/manifests/none`))).toEqual(["MANIFEST_UNKNOWN"]);
    expect(await codesOf(await fetch(`${base}/${REPOSITORY}/manifests/${none}`))).toEqual(["MANIFEST_UNKNOWN"]);
    expect(await codesOf(await fetch(`${base}/${REPOSITORY}/blobs/${none}`))).toEqual(["BLOB_UNKNOWN"]);
    expect(await codesOf(await fetch(`${base}/none/tags/list`))).toEqual(["NAME_UNKNOWN"]);
    expect(await codesOf(await fetch(`${base}/UPPER/tags/list`))).toEqual(["NAME_INVALID"]);
    expect(await codesOf(await fetch(`${base}/_catalog?n=x`))).toEqual(["PAGINATION_NUMBER_INVALID"]);
    // A layer is no manifest, whatever it is asked as.
    expect((await fetch(`${base}/${REPOSITORY}/manifests/${layer.digest}`)).status).toBe(404);
    const refused = await fetch(`${base}/${REPOSITORY}/blobs/uploads/`, { method: "POST" });
    expect(refused.status).toBe(405);
    expect(await refused.text()).toContain("writable = true");
    expect((await fetch(`${base}/${REPOSITORY}/manifests/test`, { method: "DELETE" })).status).toBe(405);
  },
);

const skopeoPort = freePort();
row(
  "Q02 Q04 Q05",
  "skopeo inspects and copies out of the registry endpoint",
  { casts: ["ours"], source: SOURCE, config: config(skopeoPort), timeoutMs: 120_000 },
  async (t) => {
    await served(t);
    const from = `docker://127.0.0.1:${skopeoPort}/${REPOSITORY}:test`;
    const inspected = parseJson(await skopeo("inspect", "--tls-verify=false", from));
    if (!isJsonObject(inspected)) throw new Error("skopeo inspect printed no object");
    const digest = inspected["Digest"];
    if (typeof digest !== "string") throw new Error("skopeo inspect printed no digest");
    expect(inspected["RepoTags"]).toEqual(["test"]);
    expect(await inDefault(t, "images", "ls")).toContain(digest);

    await skopeo(
      "copy",
      "--src-tls-verify=false",
      from,
      `docker-archive:${t.path("out.tar")}:docker.io/library/copy:1`,
    );
    await inDefault(t, "images", "import", t.path("out.tar"));
    expect(await inDefault(t, "images", "ls", "-q")).toContain("docker.io/library/copy:1");

    await skopeo("copy", "--src-tls-verify=false", from, `dir:${t.path("out")}`);
    const files = await readdir(t.path("out"));
    expect(files.filter((name) => /^[0-9a-f]{64}$/.test(name))).toHaveLength(2);
    expect(files).toContain("manifest.json");
    expect(await readFile(`${t.path("out")}/version`, "utf8")).toBe("Directory Transport Version: 1.1\n");
    expect(sha256(await readFile(`${t.path("out")}/manifest.json`))).toBe(digest);
  },
);

const pullPort = freePort();
row(
  "G06 E07",
  "Debian's ctr pulls from the registry endpoint, into another namespace",
  { casts: ["our-daemon"], source: SOURCE, config: config(pullPort), timeoutMs: 120_000 },
  async (t) => {
    await served(t);
    const name = `127.0.0.1:${pullPort}/${REPOSITORY}:test`;
    await t.must("images", "pull", "--plain-http", name);
    expect(await t.must("run", "--rm", name, t.id("a"), "echo", "pulled")).toBe("pulled\n");
  },
);

const pushPort = freePort();
row(
  "Q06 G13",
  "a writable endpoint takes pushes, and deletions, and says no to what does not fit",
  { casts: ["our-daemon"], source: SOURCE, config: config(pushPort, "  writable = true\n"), timeoutMs: 120_000 },
  async (t) => {
    const host = `127.0.0.1:${pushPort}`;
    const base = `http://${host}/v2`;
    await writeFile(t.path("image.tar"), await ociArchive({ name: NAME }));
    await skopeo(
      "copy",
      "--dest-tls-verify=false",
      `oci-archive:${t.path("image.tar")}:test`,
      `docker://${host}/team/a:1`,
    );
    expect(await inDefault(t, "images", "ls", "-q")).toContain(`${host}/team/a:1`);
    // Debian's ctr pushes what it has in another namespace: the blobs are there already.
    const image = await t.image();
    await t.must("images", "push", "--plain-http", `${host}/team/b:2`, image);
    expect(await (await fetch(`${base}/team/b/tags/list`)).json()).toEqual({ name: "team/b", tags: ["2"] });
    expect(await (await fetch(`${base}/_catalog`)).json()).toEqual({ repositories: ["team/a", "team/b"] });

    await skopeo("delete", "--tls-verify=false", `docker://${host}/team/a:1`);
    expect(await codesOf(await fetch(`${base}/team/a/manifests/1`))).toEqual(["MANIFEST_UNKNOWN"]);

    // A blob in three parts, over a restart of the daemon.
    const bytes = Buffer.from("a blob in three parts".repeat(1000));
    const begun = await fetch(`${base}/team/c/blobs/uploads/`, { method: "POST" });
    const upload = new URL(begun.headers.get("location") ?? "", base).href;
    const third = Math.floor(bytes.length / 3);
    const first = await fetch(upload, {
      method: "PATCH",
      headers: { "content-range": `0-${third - 1}` },
      body: bytes.subarray(0, third),
    });
    expect(first.headers.get("range")).toBe(`0-${third - 1}`);
    await t.daemon.stop("SIGKILL");
    await t.daemon.launch();
    const state = await fetch(upload);
    expect([state.status, state.headers.get("range")]).toEqual([204, `0-${third - 1}`]);
    const gap = await fetch(upload, {
      method: "PATCH",
      headers: { "content-range": "5-9" },
      body: bytes.subarray(5, 10),
    });
    expect([gap.status, gap.headers.get("range")]).toEqual([416, `0-${third - 1}`]);
    await fetch(upload, { method: "PATCH", body: bytes.subarray(third, 2 * third) });
    const done = await fetch(`${upload}?digest=${sha256(bytes)}`, { method: "PUT", body: bytes.subarray(2 * third) });
    expect(done.status).toBe(201);
    expect(new Uint8Array(await (await fetch(`${base}/team/c/blobs/${sha256(bytes)}`)).arrayBuffer())).toEqual(
      new Uint8Array(bytes),
    );

    const other = await fetch(`${base}/team/c/blobs/uploads/`, { method: "POST" });
    const wrong = await fetch(`${new URL(other.headers.get("location") ?? "", base).href}?digest=${sha256(bytes)}`, {
      method: "PUT",
      body: "something else",
    });
    expect(await codesOf(wrong)).toEqual(["DIGEST_INVALID"]);
    const gone = await fetch(`${new URL(other.headers.get("location") ?? "", base).href}?digest=${sha256(bytes)}`, {
      method: "PUT",
    });
    expect(await codesOf(gone)).toEqual(["BLOB_UPLOAD_UNKNOWN"]);

    const put = async (reference: string, type: string, body: string): Promise<readonly string[]> =>
      codesOf(
        await fetch(`${base}/team/c/manifests/${reference}`, {
          method: "PUT",
          headers: { "content-type": type },
          body,
        }),
      );
    const type = "application/vnd.oci.image.manifest.v1+json";
    const none = { mediaType: "application/vnd.oci.image.config.v1+json", digest: `sha256:${"0".repeat(64)}`, size: 2 };
    const manifest = JSON.stringify({ schemaVersion: 2, config: none, layers: [] });
    expect(await put("1", type, manifest)).toEqual(["MANIFEST_BLOB_UNKNOWN"]);
    expect(await put(`sha256:${"1".repeat(64)}`, type, manifest)).toEqual(["DIGEST_INVALID"]);
    expect(await put("1", type, "{")).toEqual(["MANIFEST_INVALID"]);
    expect(await put("1", "text/plain", manifest)).toEqual(["MANIFEST_INVALID"]);
    expect(await put("1", type, JSON.stringify({ schemaVersion: 2, manifests: [] }))).toEqual(["MANIFEST_INVALID"]);
    expect((await fetch(`${base}/team/c/tags/list`)).status).toBe(404);
    await dropLeases(t.daemon, "default");
  },
);

const lockedPort = freePort();
const USERS = `/tmp/stv-endpoint-users-${process.pid}`;
// htpasswd -nbBC 5 user secret
const HASH = await Bun.password.hash("secret", { algorithm: "bcrypt", cost: 5 });
await writeFile(USERS, `user:${HASH.replace("$2b$", "$2y$")}\n`);
afterAll(async () => rm(USERS, { force: true }));
row(
  "C13",
  "an endpoint with users lets in nobody else",
  {
    casts: ["ours"],
    source: SOURCE,
    config: config(lockedPort, `  htpasswd = "${USERS}"\n`),
  },
  async (t) => {
    await served(t);
    const url = `http://127.0.0.1:${lockedPort}/v2/${REPOSITORY}/manifests/test`;
    const as = async (user: string): Promise<number> =>
      (await fetch(url, { headers: { authorization: `Basic ${Buffer.from(user).toString("base64")}` } })).status;
    const refused = await fetch(url);
    expect([refused.status, refused.headers.get("www-authenticate")]).toEqual([
      401,
      'Basic realm="stevedore registry"',
    ]);
    expect(await as("user:wrong")).toBe(401);
    expect(await as("other:secret")).toBe(401);
    expect(await as("user:secret")).toBe(200);
    expect(await as("user:secret")).toBe(200);
    const from = `docker://127.0.0.1:${lockedPort}/${REPOSITORY}:test`;
    expect(await skopeo("inspect", "--tls-verify=false", "--creds", "user:secret", from)).toContain('"Digest"');
    await writeFile(USERS, "");
    expect(await as("user:secret")).toBe(401);
  },
);

const sharedPort = freePort();
row(
  "G13 C07",
  "a push of what another namespace has already, whether that one is served or not",
  {
    casts: ["ours"],
    source: SOURCE,
    config: config(sharedPort, '  writable = true\n  namespaces = ["default", "served"]\n'),
    timeoutMs: 120_000,
  },
  async (t) => {
    const archive = t.path("image.tar");
    await writeFile(archive, await ociArchive({ name: NAME }));
    const host = `127.0.0.1:${sharedPort}`;
    for (const [at, namespace] of ["hidden", "served"].entries()) {
      t.daemon.use(namespace);
      expect(await t.daemon.ctr("ours", namespace, ["images", "import", archive])).toMatchObject({ code: 0 });
      const to = `docker://${host}/team/shared:${at}`;
      await skopeo("copy", "--dest-tls-verify=false", `oci-archive:${archive}:test`, to);
    }
    const tags = await (await fetch(`http://${host}/v2/team/shared/tags/list`)).json();
    expect(tags).toEqual({ name: "team/shared", tags: ["0", "1"] });
    // It is the writer's own now: the others may go.
    for (const namespace of ["hidden", "served"]) {
      expect(await t.daemon.ctr("ours", namespace, ["images", "rm", "--sync", NAME])).toMatchObject({ code: 0 });
    }
    await skopeo("copy", "--src-tls-verify=false", `docker://${host}/team/shared:1`, `dir:${t.path("back")}`);
    // A digest that makes no sense begins nothing.
    const before = await inDefault(t, "leases", "ls", "-q");
    const wrong = await fetch(`http://${host}/v2/team/shared/blobs/uploads/?digest=no`, { method: "POST", body: "x" });
    expect(await codesOf(wrong)).toEqual(["DIGEST_INVALID"]);
    const other = await fetch(`http://${host}/v2/team/shared/blobs/uploads/?digest=${sha256(Buffer.from("y"))}`, {
      method: "POST",
      body: "x",
    });
    expect(await codesOf(other)).toEqual(["DIGEST_INVALID"]);
    expect(await inDefault(t, "leases", "ls", "-q")).toBe(before);
    for (const namespace of ["default", "hidden", "served"]) await dropLeases(t.daemon, namespace);
  },
);
