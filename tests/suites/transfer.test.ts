// Transfers with everything between a client and the stores in the way: the SDK's client, messages as bytes, the streaming
// and transfer services, the metadata store; the registry, the layers' unpacking and the backends are in memory.
import { describe, expect, test } from "bun:test";
import { gunzipSync } from "node:zlib";
import { backgroundContext, createLogger, errorClassOf, messageOf } from "@stevedore/base";
import type { Descriptor, ImageVerifier, TransferProgress, Transferrer, TransferStore } from "@stevedore/core";
import { createTransferrer } from "@stevedore/images/transfer/transferrer";
import { readBlob } from "@stevedore/images/tree";
import { parseManifest } from "@stevedore/oci/manifest";
import { allPlatforms } from "@stevedore/oci/platform";
import { type StoreFixture, temporaryStore } from "@stevedore/plugins/metadata/fixture";
import { Streams } from "@stevedore/plugins/streaming/impl";
import { transferProxy } from "@stevedore/sdk/proxy/transfer";
import { streamingService } from "@stevedore/services/streaming";
import { transferService } from "@stevedore/services/transfer";
import { Streaming } from "@stevedore/wire/gen/containerd/services/streaming/v1/streaming_pb";
import { Transfer } from "@stevedore/wire/gen/containerd/services/transfer/v1/transfer_pb";
import { memoryTransport, Router, type Transport } from "@stevedore/wire/rpc/index";
import { FakeRegistry, type Fault, OCI, sha256 } from "../harness/fake-registry.ts";

const context = backgroundContext({ namespace: "default" });
const REF = "registry.test/team/app:1";
const AMD64 = { os: "linux", architecture: "amd64" };

/** The daemon's side over stores in memory, and a client of it. */
interface World extends AsyncDisposable {
  readonly registry: FakeRegistry;
  readonly store: StoreFixture;
  readonly client: Transferrer;
  readonly transport: Transport;
  readonly streams: Streams;
  /** Digests of the layers that were applied, in order. */
  readonly applied: string[];
}

async function world(
  options: { readonly verifiers?: ReadonlyMap<string, ImageVerifier>; readonly store?: StoreFixture } = {},
): Promise<World> {
  await using undo = new AsyncDisposableStack();
  const store = options.store ?? undo.use(await temporaryStore());
  const registry = new FakeRegistry();
  const applied: string[] = [];
  const applier = {
    apply: async (at: typeof context, { digest, size }: Descriptor) => {
      const plain = gunzipSync(await readBlob(store.content, at, { digest, limit: size }));
      applied.push(digest);
      return { mediaType: "application/vnd.oci.image.layer.v1.tar", digest: sha256(plain), size: plain.byteLength };
    },
  };
  const transferrer = createTransferrer({
    backend: {
      content: store.content,
      images: store.images,
      diff: applier,
      introspection: {
        plugins: async () =>
          Promise.resolve([
            {
              type: "io.containerd.snapshotter.v1",
              id: "overlayfs",
              requires: [],
              platforms: [],
              exports: {},
              capabilities: ["rebase"],
            },
          ]),
      },
      snapshotter: () => store.snapshotter,
    },
    leases: store.leases,
    openRegistry: registry.open,
    verifiers: options.verifiers ?? new Map<string, ImageVerifier>(),
    unpackPlatforms: [{ platform: allPlatforms, snapshotter: "overlayfs", applier }],
    maxDownloads: 3,
    maxUploads: 3,
    maxUnpacks: 2,
  });
  const streams = new Streams({ leases: store.leases, log: createLogger() });
  const router = new Router()
    .service(Streaming, streamingService({ streams }))
    .service(Transfer, transferService({ streams, transferrers: [transferrer] }));
  const transport = memoryTransport(router);
  undo.defer(async () => transport.close());
  const held = undo.move();
  return {
    registry,
    store,
    client: transferProxy(transport),
    transport,
    streams,
    applied,
    [Symbol.asyncDispose]: async () => held.disposeAsync(),
  };
}

function target(more: Partial<TransferStore> = {}): TransferStore {
  return {
    kind: "store",
    name: REF,
    labels: {},
    platforms: [AMD64],
    allMetadata: false,
    manifestLimit: 0,
    references: [],
    unpacks: [{ platform: AMD64, snapshotter: "" }],
    ...more,
  };
}

function source(reference = REF) {
  return { kind: "registry", reference, headers: {}, hostDir: "", defaultScheme: "" } as const;
}

async function failure(work: Promise<unknown>): Promise<{ readonly class: string; readonly message: string }> {
  try {
    await work;
    return { class: "none", message: "" };
  } catch (error) {
    return { class: errorClassOf(error), message: messageOf(error) };
  }
}

async function imageNames({ store }: World): Promise<string[]> {
  return (await store.images.list(context, [])).map(({ name }) => name);
}

/** More than a window of bytes that do not shrink much. */
function bulk(seed: string, length = 200_000): string {
  let text = "";
  for (let at = 0; text.length < length; at++) text += sha256(new TextEncoder().encode(`${seed}${at}`));
  return text;
}

describe("pull", () => {
  test("fetches what the platform needs, unpacks it, keeps it by labels, and says so in the peer's words", async () => {
    await using w = await world();
    const wanted = w.registry.image({ layers: ["lower", "upper"] });
    const other = w.registry.image({ layers: ["foreign"], architecture: "arm64" });
    const index = w.registry.index({ arm64: other, amd64: wanted });
    w.registry.tags.set(REF, index);
    const told: TransferProgress[] = [];
    await w.client.transfer(context, source(), {
      destination: target({ allMetadata: true, labels: { mine: "yes" } }),
      onProgress: (progress) => told.push(progress),
    });
    const image = await w.store.images.get(context, REF);
    expect([image.target.digest, image.labels]).toEqual([index.digest, { mine: "yes" }]);
    expect(w.applied.toSorted()).toEqual(
      [...w.registry.blobs.entries()]
        .filter(([digest]) => w.applied.includes(digest))
        .map(([digest]) => digest)
        .toSorted(),
    );
    expect(w.applied).toHaveLength(2);
    // The other platform's manifest and config are there, its layer is not.
    const there = [];
    for await (const { digest } of w.store.content.list(context, [])) there.push(digest);
    expect(there).toHaveLength(1 + 2 + 2 + 2);
    const { labels } = await w.store.content.info(context, index.digest);
    expect(labels).toEqual({
      "containerd.io/distribution.source.registry.test": "team/app",
      "containerd.io/gc.ref.content.m.0": other.digest,
      "containerd.io/gc.ref.content.m.1": wanted.digest,
    });
    const words = told.map(({ event, name }) =>
      name === REF || name === "" ? event : `${event} ${name.split("-")[0]}`,
    );
    expect(words.slice(0, 4)).toEqual([
      `Resolving from OCI Registry (${REF})`,
      `Pulling from OCI Registry (${REF})`,
      "fetching image content",
      "waiting index",
    ]);
    expect(words.slice(-2)).toEqual(["saved", `Completed pull from OCI Registry (${REF})`]);
    expect(words.filter((word) => word === "extracted layer")).toHaveLength(2);
    const first = told.find(({ event, name }) => event === "waiting" && name.startsWith("index-"));
    expect(first).toMatchObject({ parents: [REF], total: index.size, descriptor: { digest: index.digest } });
    // Again: nothing is fetched.
    const before = w.registry.fetched.length;
    await w.client.transfer(context, source(), { destination: target() });
    expect([w.registry.fetched.length, w.applied.length]).toEqual([before, 2]);
    expect(await w.store.leases.list(context, [])).toEqual([]);
  });

  test("20 pulls at once of images that share layers: each blob is fetched once, each layer unpacked once", async () => {
    await using w = await world();
    const shared = [bulk("a"), bulk("b")];
    const references = Array.from({ length: 5 }, (_, at) => {
      const reference = `registry.test/app${at}:1`;
      w.registry.tags.set(reference, w.registry.image({ layers: [...shared, `own ${at}`] }));
      return reference;
    });
    w.registry.delayMs = 1;
    await Promise.all(
      [...references, ...references, ...references, ...references].map(async (reference) =>
        w.client.transfer(context, source(reference), { destination: target({ name: reference }) }),
      ),
    );
    const counts = [...w.registry.blobs.keys()].map((digest) => w.registry.timesFetched(digest));
    expect(counts).toEqual(counts.map(() => 1));
    expect([w.applied.length, (await imageNames(w)).length]).toEqual([7, 5]);
  });

  test("a pull that was broken off goes on where it was; whole blobs are not fetched again", async () => {
    await using w = await world();
    w.registry.tags.set(REF, w.registry.image({ layers: ["small", bulk("large")] }));
    const large = [...w.registry.blobs].toSorted((a, b) => b[1].byteLength - a[1].byteLength)[0]?.[0] ?? "";
    const broken: (bytes: Uint8Array) => AsyncGenerator<Uint8Array> = async function* (bytes) {
      yield await Promise.resolve(bytes.slice(0, 10_000));
      throw new Error("the cable");
    };
    w.registry.faults.set(large, broken);
    expect((await failure(w.client.transfer(context, source(), { destination: target() }))).message).toContain(
      "the cable",
    );
    expect(await imageNames(w)).toEqual([]);
    const whole = new Set<string>();
    for await (const { digest } of w.store.content.list(context, [])) whole.add(digest);
    const before = w.registry.fetched.length;
    await w.client.transfer(context, source(), { destination: target() });
    const after = w.registry.fetched.slice(before);
    expect(after.filter(({ digest }) => whole.has(digest))).toEqual([]);
    expect(after).toContainEqual({ digest: large, offset: 10_000 });
    expect(await imageNames(w)).toEqual([REF]);
  });

  test("bytes that end early are asked for again from there; a fetcher that gives up hands over", async () => {
    await using w = await world();
    w.registry.tags.set(REF, w.registry.image({ layers: [bulk("large")] }));
    const large = [...w.registry.blobs].toSorted((a, b) => b[1].byteLength - a[1].byteLength)[0]?.[0] ?? "";
    const short: (bytes: Uint8Array) => AsyncGenerator<Uint8Array> = async function* (bytes) {
      yield await Promise.resolve(bytes.slice(0, 5_000));
    };
    w.registry.faults.set(large, short);
    await w.client.transfer(context, source(), { destination: target({ unpacks: [] }) });
    expect(w.registry.fetched.filter(({ digest }) => digest === large)).toEqual([
      { digest: large, offset: 0 },
      { digest: large, offset: 5_000 },
    ]);

    const second = "registry.test/second:1";
    w.registry.tags.set(second, w.registry.image({ layers: [bulk("other")] }));
    const other = [...w.registry.blobs].at(-3)?.[0] ?? "";
    const started = Promise.withResolvers<void>();
    const stuck: (bytes: Uint8Array, signal: AbortSignal) => AsyncGenerator<Uint8Array> = async function* (
      bytes,
      signal,
    ) {
      yield await Promise.resolve(bytes.slice(0, 100));
      started.resolve();
      const { promise, reject } = Promise.withResolvers<never>();
      signal.addEventListener("abort", () => reject(signal.reason));
      await promise;
    };
    w.registry.faults.set(other, stuck);
    const stop = new AbortController();
    const owner = failure(
      w.client.transfer({ ...context, signal: stop.signal }, source(second), { destination: target({ name: second }) }),
    );
    await started.promise;
    const waiting = w.client.transfer(context, source(second), { destination: target({ name: second }) });
    stop.abort(new DOMException("enough", "AbortError"));
    expect((await owner).class).toBe("canceled");
    await waiting;
    expect(w.registry.fetched.filter(({ digest }) => digest === other).map(({ offset }) => offset)).toEqual([0, 100]);
  });

  test("what a pull that was given up has brought outlives its lease and a collection, until a pull succeeds", async () => {
    await using w = await world();
    w.registry.tags.set(REF, w.registry.image({ layers: ["small", bulk("large")] }));
    const large = [...w.registry.blobs].toSorted((a, b) => b[1].byteLength - a[1].byteLength)[0]?.[0] ?? "";
    for (const offset of [0, 50_000]) {
      const reached = Promise.withResolvers<void>();
      const stuck: Fault = async function* (bytes, signal) {
        yield await Promise.resolve(bytes.slice(0, 50_000));
        reached.resolve();
        const { promise, reject } = Promise.withResolvers<never>();
        signal.addEventListener("abort", () => reject(signal.reason));
        await promise;
      };
      w.registry.faults.set(large, stuck);
      const stop = new AbortController();
      const pulling = failure(
        w.client.transfer({ ...context, signal: stop.signal }, source(), { destination: target() }),
      );
      await reached.promise;
      while ((await w.store.content.listStatuses(context, []))[0]?.offset !== offset + 50_000) await Bun.sleep(1);
      stop.abort(new DOMException("enough", "AbortError"));
      expect((await pulling).class).toBe("canceled");
      // The daemon tidies up after its caller has gone.
      while ((await w.store.leases.list(context, [])).map(({ id }) => id.startsWith("resume-")).join() !== "true") {
        await Bun.sleep(1);
      }
      await w.store.collector.collect(context.signal);
      expect((await w.store.content.listStatuses(context, [])).map((status) => status.offset)).toEqual([
        offset + 50_000,
      ]);
    }
    const before = w.registry.fetched.length;
    await w.client.transfer(context, source(), { destination: target() });
    expect(w.registry.fetched.slice(before)).toEqual([{ digest: large, offset: 100_000 }]);
    expect(await w.store.leases.list(context, [])).toEqual([]);
  });

  test("wrong bytes, wrong documents and hostile ones end with an error and leave no image", async () => {
    await using w = await world();
    const { registry } = w;
    const garble: (bytes: Uint8Array) => AsyncGenerator<Uint8Array> = async function* (bytes) {
      yield await Promise.resolve(bytes.map((byte) => byte ^ 1));
    };
    const endless: () => AsyncGenerator<Uint8Array> = async function* () {
      for (;;) yield await Promise.resolve(new Uint8Array(65_536));
    };
    const pull = async (descriptor: Descriptor) => {
      registry.tags.set(REF, descriptor);
      return failure(w.client.transfer(context, source(), { destination: target() }));
    };
    const image = registry.image({ layers: ["one"] });
    registry.faults.set(image.digest, garble);
    expect((await pull(image)).class).toBe("failed-precondition");
    registry.faults.set(image.digest, endless);
    expect(await pull(image)).toMatchObject({ class: "failed-precondition" });
    expect((await pull({ ...image, size: image.size + 1 })).class).toBe("unavailable");
    expect((await pull({ ...image, size: 1 })).class).toBe("failed-precondition");
    expect((await pull({ ...image, size: 1 << 30 })).message).toContain("the limit is");
    expect(await pull({ ...image, mediaType: OCI.index })).toMatchObject({ class: "invalid-argument" });
    const index = registry.index({ amd64: image });
    expect(await pull({ ...index, mediaType: OCI.manifest })).toMatchObject({ class: "invalid-argument" });
    expect(await pull({ ...image, mediaType: "application/vnd.docker.distribution.manifest.v1+prettyjws" })).toEqual({
      class: "invalid-argument",
      message: "schema 1 image manifests are no longer supported: invalid argument",
    });
    expect((await pull(registry.put("no json", OCI.manifest))).class).toBe("invalid-argument");

    const many = Array.from({ length: 10_000 }, (_, at) => ({
      mediaType: OCI.manifest,
      digest: sha256(new TextEncoder().encode(String(at))),
      size: 100,
    }));
    const crowd = registry.put(JSON.stringify({ schemaVersion: 2, mediaType: OCI.index, manifests: many }), OCI.index);
    const fetched = registry.fetched.length;
    expect((await pull(crowd)).message).toContain("10000 more blobs");
    expect(registry.fetched.length - fetched).toBe(1);

    let nested = index;
    for (let depth = 0; depth < 12; depth++) {
      nested = registry.put(JSON.stringify({ schemaVersion: 2, mediaType: OCI.index, manifests: [nested] }), OCI.index);
    }
    expect((await pull(nested)).message).toContain("is below 8 documents");
    // A circle cannot be made with true digests; one that claims to be is wrong bytes.
    const self = `sha256:${"1".repeat(64)}`;
    registry.blobs.set(
      self,
      new TextEncoder().encode(
        JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: OCI.index, digest: self, size: 10 }] }),
      ),
    );
    expect(
      (await pull({ mediaType: OCI.index, digest: self, size: registry.blobs.get(self)?.byteLength ?? 0 })).class,
    ).toBe("failed-precondition");
    expect(await imageNames(w)).toEqual([]);
    expect(await w.store.content.listStatuses(context, [])).toEqual([]);
    // And the good one still comes.
    expect((await pull(image)).class).toBe("none");
  });

  test("a layer that is not what the config says is no image, and nothing of its snapshots stays under a name", async () => {
    await using w = await world();
    const good = w.registry.image({ layers: ["one", "two"] });
    const manifest = parseManifest(w.registry.blobs.get(good.digest) ?? new Uint8Array(), OCI.manifest);
    const swapped = w.registry.put(JSON.stringify({ ...manifest, layers: manifest.layers.toReversed() }), OCI.manifest);
    w.registry.tags.set(REF, swapped);
    const refused = await failure(w.client.transfer(context, source(), { destination: target() }));
    expect([refused.class, refused.message.includes("wrong diff id")]).toEqual(["data-loss", true]);
    expect(await imageNames(w)).toEqual([]);
    const left = [];
    for await (const { name } of w.store.snapshotter.walk(context, [])) left.push(name);
    expect(left).toEqual([]);
  });

  test("a verifier that says no blocks the pull before anything is fetched; one that fails does too", async () => {
    const no: ImageVerifier = { verify: async () => Promise.resolve({ ok: false, reason: "unsigned" }) };
    const broken: ImageVerifier = { verify: async () => Promise.reject(new Error("no such file")) };
    for (const [verifier, words] of [
      [no, "image verifier bindir blocked pull of"],
      [broken, "image verifier bindir returned error: no such file"],
    ] as const) {
      await using w = await world({ verifiers: new Map([["bindir", verifier]]) });
      w.registry.tags.set(REF, w.registry.image({ layers: ["one"] }));
      const refused = await failure(w.client.transfer(context, source(), { destination: target() }));
      expect([refused.class, refused.message.includes(words)]).toEqual(["unknown", true]);
      expect([w.registry.fetched, await imageNames(w)]).toEqual([[], []]);
    }
  });

  test("at most so many manifests, the wanted platform first; without platforms, all", async () => {
    await using w = await world();
    const images = Object.fromEntries(
      ["arm64", "amd64", "s390x"].map((architecture) => [
        architecture,
        w.registry.image({ layers: [architecture], architecture }),
      ]),
    );
    w.registry.tags.set(REF, w.registry.index(images));
    const limited = target({
      platforms: [{ os: "linux", architecture: "s390x" }, AMD64],
      manifestLimit: 1,
      unpacks: [],
    });
    await w.client.transfer(context, source(), { destination: limited });
    expect(w.registry.timesFetched(images["s390x"]?.digest ?? "")).toBe(1);
    expect(w.registry.timesFetched(images["amd64"]?.digest ?? "")).toBe(0);
    const none = target({ platforms: [{ os: "plan9", architecture: "mips" }], unpacks: [], name: "none:1" });
    expect((await failure(w.client.transfer(context, source(), { destination: none }))).message).toStartWith(
      "no match for platform in manifest sha256:",
    );
    expect(await imageNames(w)).toEqual([REF]);
    await w.client.transfer(context, source(), { destination: target({ platforms: [], unpacks: [] }) });
    expect([...w.registry.blobs.keys()].every((digest) => w.registry.timesFetched(digest) === 1)).toBe(true);
  });

  test("an unpack that nobody here can do is refused before anything is fetched", async () => {
    await using w = await world();
    w.registry.tags.set(REF, w.registry.image({ layers: ["one"] }));
    const wish = target({ unpacks: [{ platform: AMD64, snapshotter: "none" }] });
    const refused = await failure(w.client.transfer(context, source(), { destination: wish }));
    expect(refused.class).toBe("invalid-argument");
    expect(refused.message).toStartWith("unable to initialize unpacker: no unpack platforms defined");
    expect(w.registry.fetched).toEqual([]);
  });
});

describe("push", () => {
  test("sends blobs before the documents that name them, the tagged one last, and says where they could be mounted from", async () => {
    await using w = await world();
    const index = w.registry.index({ amd64: w.registry.image({ layers: ["lower", "upper"] }) });
    w.registry.tags.set(REF, index);
    await w.client.transfer(context, source(), { destination: target({ unpacks: [] }) });
    w.registry.blobs.clear();
    const told: string[] = [];
    await w.client.transfer(context, target(), {
      destination: source("registry.test/other:2"),
      onProgress: ({ event, name }) =>
        told.push(name === "" || name === REF ? event : `${event} ${name.split("-")[0]}`),
    });
    expect(w.registry.pushed).toHaveLength(5);
    expect(w.registry.pushed.at(-1)).toEqual({ digest: index.digest, tag: true, mountFrom: ["team/app"] });
    expect(w.registry.pushed.slice(0, -1).every(({ tag }) => !tag)).toBe(true);
    expect(w.registry.blobs.size).toBe(5);
    expect(told.slice(0, 3)).toEqual([
      "Pushing to OCI Registry (registry.test/other:2)",
      "pushing content",
      "waiting index",
    ]);
    expect(told.slice(-2)).toEqual(["pushed content", "Completed push to OCI Registry (registry.test/other:2)"]);
    told.length = 0;
    await w.client.transfer(context, target(), {
      destination: source("registry.test/other:2"),
      onProgress: ({ event }) => told.push(event),
    });
    expect(told.filter((event) => event === "already exists")).toHaveLength(5);
  });

  test("what is not there is told", async () => {
    await using w = await world();
    expect((await failure(w.client.transfer(context, target(), { destination: source() }))).class).toBe("not-found");
  });
});

describe("other pairs", () => {
  test("tag names the target again, export and import go round, and what nobody moves is not implemented", async () => {
    await using w = await world();
    w.registry.tags.set(REF, w.registry.image({ layers: ["lower", bulk("big")] }));
    await w.client.transfer(context, source(), { destination: target() });
    await w.client.transfer(context, target(), { destination: target({ name: "two:2" }) });
    expect(await imageNames(w)).toEqual([REF, "two:2"]);
    const parts: Uint8Array[] = [];
    let closed = 0;
    await w.client.transfer(context, target({ name: "", references: [plainReference(REF)] }), {
      destination: {
        kind: "export",
        write: async (bytes) => {
          parts.push(bytes);
          await Promise.resolve();
        },
        close: () => {
          closed++;
        },
        mediaType: "",
        platforms: [AMD64],
        allPlatforms: false,
        skipCompatibilityManifest: false,
        skipNonDistributable: false,
      },
    });
    expect(closed).toBe(1);
    const archive = new Uint8Array(await new Blob(parts.map((part) => new Uint8Array(part))).arrayBuffer());
    expect(archive.byteLength % 512).toBe(0);
    await using other = await world();
    const events: string[] = [];
    await other.client.transfer(
      context,
      { kind: "import", bytes: piecesOf(archive, 10_000), mediaType: "", forceCompress: false },
      {
        destination: target({
          name: "",
          references: [{ ...plainReference("base"), isPrefix: true, allowOverwrite: true }],
        }),
        onProgress: ({ event }) => events.push(event),
      },
    );
    expect(events).toEqual(["Importing", "saved", "Completed import"]);
    expect([await imageNames(other), other.applied.length]).toEqual([[REF], 2]);
    const truncated = await failure(
      other.client.transfer(
        context,
        { kind: "import", bytes: piecesOf(archive.subarray(0, 100_000), 10_000), mediaType: "", forceCompress: false },
        { destination: target() },
      ),
    );
    expect(truncated.class).not.toBe("none");
    const filtered = await failure(
      other.client.transfer(
        context,
        { kind: "import", bytes: piecesOf(archive, 10_000), mediaType: "", forceCompress: false },
        { destination: target({ platforms: [{ os: "plan9", architecture: "mips" }] }) },
      ),
    );
    expect(filtered).toEqual({ class: "none", message: "" });
    expect(await failure(w.client.transfer(context, source(), { destination: source() }))).toEqual({
      class: "not-implemented",
      message:
        "method Transfer not implemented for containerd.types.transfer.OCIRegistry to containerd.types.transfer.OCIRegistry: not implemented",
    });
  });

  test("a client whose archive fails in the middle hears its own error, and a daemon's error comes before the archive ends", async () => {
    await using w = await world();
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(new Uint8Array(1024).fill(1));
      throw new Error("disk on fire");
    };
    const endless = async function* (): AsyncGenerator<Uint8Array> {
      for (;;) yield await Promise.resolve(new Uint8Array(65_536).fill(7));
    };
    const send = async (bytes: AsyncIterable<Uint8Array>) =>
      failure(
        w.client.transfer(
          context,
          { kind: "import", bytes, mediaType: "", forceCompress: false },
          { destination: target() },
        ),
      );
    expect((await send(failing())).message).toContain("disk on fire");
    expect((await send(endless())).class).toBe("invalid-argument");
    expect(await imageNames(w)).toEqual([]);
  });
});

function plainReference(name: string) {
  return { name, isPrefix: false, allowOverwrite: false, addDigest: false, skipNamedDigest: false } as const;
}

async function* piecesOf(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield await Promise.resolve(bytes.slice(at, at + size));
}
