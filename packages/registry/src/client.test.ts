import { afterAll, describe, expect, test } from "bun:test";
import { errorClassOf } from "@stevedore/base";
import { digestOf, MediaType } from "@stevedore/oci";
import { RegistryError } from "./failure.ts";
import { defaultHost } from "./hosts/defaults.ts";
import type { HostsSource, RegistryHost } from "./hosts/types.ts";
import { makeCertificates } from "./testing/certificates.ts";
import { collect, descriptorOf, failureFrom, putImage, quickClient, someBytes } from "./testing/fixture.ts";
import { answer, refuse, TestRegistry } from "./testing/test-registry.ts";

const registry = await TestRegistry.start({ page: 2 });
afterAll(() => registry.stop());
const client = quickClient();
const ref = (rest: string): string => `${registry.host}/${rest}`;

/** Hosts for any namespace: these registries, in order, the last one its own. */
function hostsOf(...urls: readonly string[]): HostsSource {
  return {
    hosts: async () =>
      urls.map((url, i): RegistryHost => {
        const { protocol, host } = new URL(url);
        const own = i === urls.length - 1;
        return {
          ...defaultHost(host),
          scheme: protocol === "http:" ? "http" : "https",
          plainFallback: false,
          own,
          tls: {},
        };
      }),
  };
}

/** The address of a port where nobody listens. */
async function nobody(): Promise<string> {
  const gone = await TestRegistry.start();
  const { url } = gone;
  await gone.stop();
  return url;
}

describe("resolve", () => {
  test("names the manifest of a tag by HEAD, with the digest the registry tells", async () => {
    const { digest, manifest } = putImage(registry, "library/one", "v1");
    const found = await client.resolve(ref("library/one:v1"));
    expect(found.descriptor).toEqual({ mediaType: MediaType.ociManifest, digest, size: manifest.byteLength });
    expect(found.name).toBe(ref("library/one:v1"));
    expect(registry.log.at(-1)).toBe("HEAD /v2/library/one/manifests/v1");
    expect(registry.seen.at(-1)?.headers["user-agent"]).toBe("containerd/2.3.4+test");
  });

  test("takes a digest, and a tag with a digest", async () => {
    const { digest } = putImage(registry, "library/one", "v1");
    expect((await client.resolve(ref(`library/one@${digest}`))).descriptor.digest).toBe(digest);
    expect((await client.resolve(ref(`library/one:other@${digest}`))).descriptor.digest).toBe(digest);
  });

  test("hashes the body where there is no digest header, no HEAD, or no length", async () => {
    for (const options of [{ digestHeader: false }, { head: false }]) {
      await using plain = await TestRegistry.start(options);
      const { digest, manifest } = putImage(plain, "a", "v1");
      const found = await client.resolve(`${plain.host}/a:v1`);
      expect(found.descriptor).toEqual({ mediaType: MediaType.ociManifest, digest, size: manifest.byteLength });
    }
  });

  test("says not found with the registry's own words", async () => {
    const error = await failureFrom(client.resolve(ref("library/one:none")));
    expect(errorClassOf(error)).toBe("not-found");
    expect(error.message).toContain("MANIFEST_UNKNOWN: manifest_unknown");
    expect(error.message).toStartWith(ref("library/one:none: http"));
    expect(error.message).toEndWith(": not found");
  });

  test("refuses a reference without tag and digest", async () => {
    expect((await failureFrom(client.resolve(ref("library/one")))).message).toBe("object required");
  });

  test("refuses content that has not the digest that was asked for", async () => {
    await using liar = await TestRegistry.start();
    const { digest } = putImage(liar, "a", "v1");
    const other = putImage(liar, "a", "v2");
    liar.faults.push((request, response) => {
      response.setHeader("Docker-Content-Digest", other.digest);
      response.setHeader("Content-Type", MediaType.ociManifest);
      response.setHeader("Content-Length", other.manifest.byteLength);
      response.end(request.method === "HEAD" ? undefined : other.manifest);
      return true;
    });
    const error = await failureFrom(client.resolve(`${liar.host}/a@${digest}`));
    expect(error.message).toContain(`answers with ${other.digest} to ${digest}`);
  });
});

describe("fetch", () => {
  test("gives content from any offset", async () => {
    const { layer, layerDigest } = putImage(registry, "library/one", "v1");
    const descriptor = { mediaType: MediaType.ociLayerGzip, digest: layerDigest, size: layer.byteLength };
    for (const offset of [0, 1, 12_345, layer.byteLength - 1, layer.byteLength]) {
      const fetched = await client.fetch(ref("library/one:v1"), descriptor, { offset });
      expect(Buffer.compare(await collect(fetched.body), layer.subarray(offset))).toBe(0);
    }
    const beyond = client.fetch(ref("library/one:v1"), descriptor, { offset: layer.byteLength + 1 });
    expect(errorClassOf(await failureFrom(beyond))).toBe("out-of-range");
  });

  test("skips to the offset where ranges are not known", async () => {
    await using whole = await TestRegistry.start({ ranges: false });
    const bytes = someBytes(200_000);
    whole.putBlob("a", bytes);
    const fetched = await client.fetch(`${whole.host}/a:x`, descriptorOf(bytes), { offset: 150_001 });
    expect(Buffer.compare(await collect(fetched.body), bytes.subarray(150_001))).toBe(0);
  });

  test("finds content of which only the digest is known, blob or manifest", async () => {
    const { layer, layerDigest, digest, manifest } = putImage(registry, "library/one", "v1");
    const blob = await client.fetchByDigest(ref("library/one:v1"), layerDigest);
    expect(blob.descriptor).toEqual({
      mediaType: "application/octet-stream",
      digest: layerDigest,
      size: layer.byteLength,
    });
    expect((await collect(blob.body)).byteLength).toBe(layer.byteLength);
    const found = await client.fetchByDigest(ref("library/one:v1"), digest, { verify: true });
    expect(Buffer.compare(await collect(found.body), manifest)).toBe(0);
  });

  test("reads documents whole and checked", async () => {
    const { digest, manifest } = putImage(registry, "library/one", "v1");
    const descriptor = { mediaType: MediaType.ociManifest, digest, size: manifest.byteLength };
    expect(Buffer.compare(await client.fetchDocument(ref("library/one:v1"), descriptor), manifest)).toBe(0);
  });

  test("uses one connection for requests one after another", async () => {
    const own = quickClient();
    await using fresh = await TestRegistry.start();
    const bytes = someBytes(100_000);
    fresh.putBlob("a", bytes);
    for (let i = 0; i < 5; i++) await collect((await own.fetch(`${fresh.host}/a:x`, descriptorOf(bytes))).body);
    // The first one finds out that the host speaks no TLS.
    expect(fresh.connections).toBe(2);
  });

  test("that nobody reads lets go of its connection, by cancel or by its signal", async () => {
    const own = quickClient();
    const bytes = someBytes(3_000_000, 12);
    registry.putBlob("unread", bytes);
    const at = ref("unread:x");
    await (await own.fetch(at, descriptorOf(bytes))).cancel();
    const begun = await own.fetch(at, descriptorOf(bytes), { offset: 5 });
    for await (const _ of begun.body) break;
    await begun.cancel();
    await (await own.fetchRanges(at, descriptorOf(bytes), { chunkSize: 300_000 })).cancel();
    await (await own.fetchByDigest(at, digestOf(bytes))).cancel();
    const stop = new AbortController();
    await own.fetch(at, descriptorOf(bytes), { signal: stop.signal });
    await own.fetchRanges(at, descriptorOf(bytes), { signal: stop.signal });
    stop.abort(new Error("enough"));
    expect(own.connections.busy).toBe(0);
  });

  test("takes a descriptor's own URLs after the registry, without credentials", async () => {
    await using elsewhere = await TestRegistry.start();
    const bytes = someBytes(5_000);
    elsewhere.faults.push((_, response) => {
      response.end(bytes);
      return true;
    });
    const descriptor = { ...descriptorOf(bytes), urls: ["ftp://no/", `${elsewhere.url}/layer?sig=1`] };
    const own = quickClient({ headers: { "X-Secret": "1" } });
    const fetched = await own.fetch(ref("library/one:v1"), descriptor, { verify: true });
    expect(Buffer.compare(await collect(fetched.body), bytes)).toBe(0);
    expect(elsewhere.log).toEqual(["GET /layer?sig=1"]);
    expect(elsewhere.seen[0]?.headers["x-secret"]).toBeUndefined();
  });
});

describe("ranges", () => {
  const bytes = someBytes(3_000_001);
  const descriptor = descriptorOf(bytes);

  test("bring the same bytes in order, and positioned", async () => {
    registry.putBlob("ranges", bytes);
    for (const offset of [0, 1_000_003]) {
      const options = { parallel: 3, chunkSize: 300_000, offset };
      const ordered = await client.fetchRanges(ref("ranges:x"), descriptor, options);
      expect(ordered.ranged).toBe(true);
      expect(Buffer.compare(await collect(ordered.ordered), bytes.subarray(offset))).toBe(0);
      const placed = await client.fetchRanges(ref("ranges:x"), descriptor, options);
      const target = new Uint8Array(bytes.byteLength);
      let sum = 0;
      for await (const chunk of placed.chunks) {
        target.set(chunk.bytes, chunk.offset);
        sum += chunk.bytes.byteLength;
      }
      expect(sum).toBe(bytes.byteLength - offset);
      expect(Buffer.compare(target.subarray(offset), bytes.subarray(offset))).toBe(0);
    }
  });

  test("are one stream where the server ignores them", async () => {
    await using whole = await TestRegistry.start({ ranges: false });
    whole.putBlob("a", bytes);
    const fetched = await client.fetchRanges(`${whole.host}/a:x`, descriptor, { parallel: 4, chunkSize: 300_000 });
    expect(fetched.ranged).toBe(false);
    expect(Buffer.compare(await collect(fetched.ordered), bytes)).toBe(0);
    expect(whole.log.filter((line) => line.startsWith("GET /v2/a/blobs"))).toHaveLength(1);
  });

  test("end with the reader, and all connections with them", async () => {
    const fetched = await client.fetchRanges(ref("ranges:x"), descriptor, { parallel: 3, chunkSize: 300_000 });
    for await (const chunk of fetched.chunks) if (chunk.bytes.byteLength > 0) break;
    const again = await client.fetchRanges(ref("ranges:x"), descriptor, { parallel: 3, chunkSize: 300_000 });
    expect((await collect(again.ordered)).byteLength).toBe(bytes.byteLength);
  });
});

describe("push", () => {
  const open = (bytes: Uint8Array) => (offset: number) =>
    (async function* () {
      for (let at = offset; at < bytes.byteLength; at += 50_000) yield bytes.subarray(at, at + 50_000);
    })();

  test("stores blobs and manifests, finds what is there, and mounts", async () => {
    await using target = await TestRegistry.start();
    const bytes = someBytes(200_000, 7);
    const at = `${target.host}/team/app:v1`;
    const sent: number[] = [];
    const first = await client.push(at, descriptorOf(bytes), open(bytes), { onProgress: (n) => sent.push(n) });
    expect(first.state).toBe("uploaded");
    expect(sent.at(-1)).toBe(bytes.byteLength);
    expect(target.repository("team/app").blobs.has(digestOf(bytes))).toBe(true);
    expect((await client.push(at, descriptorOf(bytes), open(bytes))).state).toBe("exists");
    const mounted = await client.push(`${target.host}/team/copy:v1`, descriptorOf(bytes), open(bytes), {
      mountFrom: ["none", "team/app"],
    });
    expect(mounted).toMatchObject({ state: "mounted", from: `${target.host}/team/app` });
    const manifest = Buffer.from("{}");
    const descriptor = descriptorOf(manifest, MediaType.ociManifest);
    expect((await client.push(at, descriptor, open(manifest))).state).toBe("uploaded");
    expect(target.repository("team/app").tags.get("v1")).toBe(digestOf(manifest));
    expect((await client.push(at, descriptor, open(manifest))).state).toBe("exists");
  });

  test("goes over to chunks where a whole upload is refused", async () => {
    await using target = await TestRegistry.start({ wholeUploads: false });
    const bytes = someBytes(200_000, 8);
    expect((await client.push(`${target.host}/a:v1`, descriptorOf(bytes), open(bytes))).state).toBe("uploaded");
    expect(target.log.some((line) => line.startsWith("PATCH"))).toBe(true);
  });

  test("sends again after a broken upload, with the whole content", async () => {
    await using target = await TestRegistry.start();
    const bytes = someBytes(2_000_000, 9);
    let broken = 0;
    target.faults.push((request, response) => {
      if (request.method !== "PUT" || broken++ > 0) return false;
      response.socket?.destroy();
      return true;
    });
    expect((await client.push(`${target.host}/a:v1`, descriptorOf(bytes), open(bytes))).state).toBe("uploaded");
    expect(target.repository("a").blobs.has(digestOf(bytes))).toBe(true);
  });

  test("fails with the reason when the content is not what was promised", async () => {
    await using target = await TestRegistry.start();
    const bytes = someBytes(1000, 10);
    const short = client.push(`${target.host}/a:v1`, { ...descriptorOf(bytes), size: 1001 }, open(bytes));
    const tooShort = await failureFrom(short);
    expect(tooShort.message).toContain("1000 of the promised 1001 bytes");
    expect(errorClassOf(tooShort)).toBe("invalid-argument");
    const wrong = client.push(
      `${target.host}/a:v1`,
      { ...descriptorOf(bytes), digest: digestOf("other") },
      open(bytes),
    );
    expect((await failureFrom(wrong)).message).toContain("DIGEST_INVALID");
    const own = client.push(`${target.host}/a:v1`, descriptorOf(bytes), () => {
      throw new Error("the disk broke");
    });
    expect((await failureFrom(own)).message).toBe("the disk broke");
  });
});

describe("lists", () => {
  test("follow their pages", async () => {
    for (const tag of ["a", "b", "c", "d", "e"]) putImage(registry, "library/tags", tag);
    expect(await client.tags(ref("library/tags:any"))).toEqual(["a", "b", "c", "d", "e"]);
    expect(await client.catalog(registry.host)).toContain("library/tags");
  });

  test("referrers come by the API, or by the tag that stands for it", async () => {
    for (const api of [true, false]) {
      await using own = await TestRegistry.start({ referrers: api });
      const { digest, manifest } = putImage(own, "a", "v1");
      const signature = (artifactType: string): Uint8Array =>
        Buffer.from(
          JSON.stringify({
            schemaVersion: 2,
            mediaType: MediaType.ociManifest,
            artifactType,
            config: { mediaType: MediaType.ociEmpty, digest: digestOf("{}"), size: 2 },
            layers: [],
            subject: { mediaType: MediaType.ociManifest, digest, size: manifest.byteLength },
          }),
        );
      const made = ["application/one", "application/two"].map((artifactType) => {
        const bytes = signature(artifactType);
        return {
          mediaType: MediaType.ociManifest,
          digest: own.putManifest("a", bytes),
          size: bytes.byteLength,
          artifactType,
        };
      });
      if (!api) {
        const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MediaType.ociIndex, manifests: made }));
        own.putManifest("a", index, { tag: digest.replace(":", "-"), mediaType: MediaType.ociIndex });
      }
      expect(await client.referrers(`${own.host}/a:v1`, digest)).toEqual(made);
      const [one] = made;
      if (one === undefined) throw new Error("none was made");
      expect(await client.referrers(`${own.host}/a:v1`, digest, { artifactTypes: ["application/one"] })).toEqual([one]);
      expect(await client.referrers(`${own.host}/a:v1`, digestOf("nothing"))).toEqual([]);
    }
  });

  test("what is deleted is gone", async () => {
    putImage(registry, "library/gone", "v1");
    await client.remove(ref("library/gone:v1"));
    expect(errorClassOf(await failureFrom(client.resolve(ref("library/gone:v1"))))).toBe("not-found");
  });
});

describe("hosts", () => {
  test("are tried in order, and the error names each with its reason", async () => {
    await using mirror = await TestRegistry.start();
    await using upstream = await TestRegistry.start();
    const { digest } = putImage(upstream, "library/app", "v1");
    mirror.faults.push((_, response) => {
      refuse(response, 500, "UNKNOWN", "the disk is full");
      return true;
    });
    const dead = await nobody();
    const own = quickClient({ hosts: hostsOf(dead, mirror.url, upstream.url) });
    const found = await own.resolve("docker.io/library/app:v1");
    expect(found).toMatchObject({ endpoint: upstream.url, descriptor: { digest } });
    // A mirror is told whose image is meant.
    expect(mirror.log[0]).toBe("HEAD /v2/library/app/manifests/v1?ns=docker.io");
    const error = await failureFrom(own.resolve("docker.io/library/app:none"));
    if (!(error instanceof RegistryError)) throw error;
    expect(error.failures.map(({ endpoint }) => endpoint)).toEqual([dead, mirror.url, upstream.url]);
    expect(error.message).toContain(
      `docker.io/library/app:none: 3 hosts were tried: ${dead}: dial: connection refused; `,
    );
    expect(error.message).toContain(
      `${upstream.url}: GET /v2/library/app/manifests/none?ns=docker.io: 404 Not Found: MANIFEST_UNKNOWN`,
    );
    expect(errorClassOf(error)).toBe("not-found");
  });

  test("that fail again and again come last for a while", async () => {
    await using upstream = await TestRegistry.start();
    putImage(upstream, "library/app", "v1");
    let now = 1_000_000;
    const dead = await nobody();
    const own = quickClient({
      hosts: hostsOf(dead, upstream.url),
      now: () => now,
      limits: { breakerFailures: 2, breakerMs: 1000 },
    });
    const failures = async (): Promise<readonly [number, boolean]> => {
      const [first] = (await own.explain("docker.io/library/app:v1")).hosts;
      return [first?.failures ?? -1, (first?.passedOverUntil ?? 0) > 0];
    };
    for (const expected of [
      [1, false],
      [2, true],
      [2, true],
    ] as const) {
      await own.resolve("docker.io/library/app:v1");
      expect(await failures()).toEqual([...expected]);
    }
    now += 1001;
    await own.resolve("docker.io/library/app:v1");
    expect(await failures()).toEqual([3, true]);
  });

  test("without the capability are not asked", async () => {
    const none = quickClient({
      hosts: { hosts: async () => [{ ...defaultHost("docker.io"), capabilities: new Set(["push"]) }] },
    });
    const error = await failureFrom(none.resolve("docker.io/library/app:v1"));
    expect(error.message).toBe("docker.io/library/app:v1: no host is configured for it: not found");
  });
});

test("a local registry that comes back with TLS is found again", async () => {
  let now = 1_000_000;
  const plain = await TestRegistry.start();
  const port = Number(plain.host.split(":")[1]);
  putImage(plain, "a", "v1");
  const own = quickClient({ now: () => now });
  expect((await own.resolve(`${plain.host}/a:v1`)).endpoint).toBe(`http://${plain.host}`);
  await plain.stop();
  const certificates = await makeCertificates();
  await using secure = await TestRegistry.start({ tls: certificates.server, port });
  putImage(secure, "a", "v1");
  now += 31_000;
  expect((await own.resolve(`${secure.host}/a:v1`)).endpoint).toBe(`https://${secure.host}`);
});

test("an aborted signal ends what is under way, with its reason", async () => {
  await using slow = await TestRegistry.start();
  slow.faults.push(() => true);
  const stop = new AbortController();
  const pending = failureFrom(client.resolve(`${slow.host}/a:v1`, { signal: stop.signal }));
  setTimeout(() => stop.abort(new Error("changed my mind")), 50);
  expect((await pending).message).toBe("changed my mind");
});

test("explain tells hosts, settings, credentials and what a live check finds", async () => {
  await using token = await TestRegistry.start({ auth: { kind: "token", users: { alice: "secret-word" } } });
  const own = quickClient({
    credentials: {
      name: "test",
      find: async () => ({ kind: "basic", username: "alice", password: "secret-word", from: "a test" }),
    },
  });
  const found = await own.explain(`${token.host}/a:v1`, { live: true });
  expect(found.hosts[0]).toMatchObject({
    own: true,
    endpoint: token.url,
    tls: "off",
    auth: { kind: "basic", username: "alice", from: "a test" },
    live: { ok: true, status: 200, challenges: [`bearer ${token.url}/token`] },
  });
  expect(JSON.stringify(found)).not.toContain("secret-word");
  const dead = await nobody();
  const gone = await quickClient({ hosts: hostsOf(dead) }).explain("docker.io/a:v1", { live: true });
  expect(gone.hosts[0]?.live).toMatchObject({ ok: false, failure: { reason: "dial: connection refused" } });
});

test("an answer's odd headers do not break a request", async () => {
  await using odd = await TestRegistry.start();
  odd.faults.push((_, response) => {
    response.setHeader("Warning", '299 - "soon gone"');
    response.setHeader("Content-Type", "<script>");
    response.setHeader("Docker-Content-Digest", digestOf("x"));
    answer(response, 200, "x");
    return true;
  });
  expect((await client.resolve(`${odd.host}/a:v1`)).descriptor.mediaType).toBe("application/octet-stream");
});
