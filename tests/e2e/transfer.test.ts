// The streaming and transfer services, message by message as containerd 2.3.4's own client speaks them, and ctr over them.
import { expect } from "bun:test";
import { writeFile } from "node:fs/promises";
import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { errorClassOf, messageOf } from "@stevedore/base";
import { Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { Leases } from "@stevedore/wire/gen/containerd/services/leases/v1/leases_pb";
import { StreamInitSchema, Streaming } from "@stevedore/wire/gen/containerd/services/streaming/v1/streaming_pb";
import { Transfer } from "@stevedore/wire/gen/containerd/services/transfer/v1/transfer_pb";
import { ImageStoreSchema } from "@stevedore/wire/gen/containerd/types/transfer/imagestore_pb";
import {
  ImageExportStreamSchema,
  ImageImportStreamSchema,
} from "@stevedore/wire/gen/containerd/types/transfer/importexport_pb";
import { ProgressSchema } from "@stevedore/wire/gen/containerd/types/transfer/progress_pb";
import { OCIRegistrySchema } from "@stevedore/wire/gen/containerd/types/transfer/registry_pb";
import { DataSchema, WindowUpdateSchema } from "@stevedore/wire/gen/containerd/types/transfer/streaming_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { type Client, createClient, type Transport } from "@stevedore/wire/rpc/index";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { dropLeases } from "../harness/leases.ts";
import { eventually } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

/** Bytes in a message, and the window, of containerd's client. */
const PIECE = 32 * 1024;
const WINDOW = 2 * PIECE;

function packed<D extends DescMessage>(schema: D, init: MessageInitShape<D>) {
  return { typeUrl: schema.typeName, value: toBinary(schema, create(schema, init)) };
}

async function refusal(work: Promise<unknown>): Promise<[class_: string, message: string]> {
  try {
    await work;
    return ["none", ""];
  } catch (error) {
    return [errorClassOf(error), messageOf(error)];
  }
}

/** One stream as a client has it: what it sends is pushed, what comes is pulled. */
class RawStream implements AsyncDisposable {
  readonly #waiting: ReturnType<typeof packed>[] = [];
  readonly #answers: AsyncIterator<Any>;
  readonly #stop = new AbortController();
  #wake: (() => void) | undefined;
  #ended = false;

  private constructor(transport: Transport, metadata: Readonly<Record<string, string>>) {
    const client = createClient(Streaming, transport);
    this.#answers = client.stream(this.#requests(), { metadata, signal: this.#stop.signal })[Symbol.asyncIterator]();
  }

  /** Registers a stream and takes the daemon's word for it. */
  static async open(transport: Transport, metadata: Readonly<Record<string, string>>, id: string): Promise<RawStream> {
    const stream = new RawStream(transport, metadata);
    stream.send(packed(StreamInitSchema, { id }));
    expect(await stream.next()).toMatchObject({ typeUrl: "google.protobuf.Empty", value: new Uint8Array() });
    return stream;
  }

  /** One whose first message is this. */
  static async beginning(
    transport: Transport,
    metadata: Readonly<Record<string, string>>,
    first: ReturnType<typeof packed>,
  ): Promise<[class_: string, message: string]> {
    await using stream = new RawStream(transport, metadata);
    stream.send(first);
    return await refusal(stream.next());
  }

  async *#requests() {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) yield next;
      else if (this.#ended) return;
      else {
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#wake = resolve;
        await promise;
      }
    }
  }

  send(message: ReturnType<typeof packed>): void {
    this.#waiting.push(message);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async next(): Promise<Any | undefined> {
    const next = await this.#answers.next();
    return next.done === true ? undefined : next.value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#answers.next().catch(() => undefined);
  }
}

interface Api extends AsyncDisposable {
  readonly transport: Transport;
  readonly metadata: Readonly<Record<string, string>>;
  readonly transfers: Client<typeof Transfer>;
  readonly images: Client<typeof Images>;
}

function api(t: Stage): Api {
  const transport = createGrpcTransport({ address: t.daemon.address });
  return {
    transport,
    metadata: { "containerd-namespace": t.namespace },
    transfers: createClient(Transfer, transport),
    images: createClient(Images, transport),
    [Symbol.asyncDispose]: async () => transport.close(),
  };
}

async function progressOf(stream: RawStream): Promise<{ event: string; name: string; digest: string }[]> {
  const told = [];
  for (let any = await stream.next(); any !== undefined; any = await stream.next()) {
    const { event, name, desc } = fromBinary(ProgressSchema, any.value);
    told.push({ event, name, digest: desc?.digest ?? "" });
  }
  return told;
}

/** Sends an archive as containerd's client does: at most what the windows allow, in pieces. */
async function sendArchive(stream: RawStream, archive: Uint8Array): Promise<number[]> {
  const updates: number[] = [];
  let allowed = 0;
  for (let at = 0; at < archive.byteLength; ) {
    while (allowed === 0) {
      const any = await stream.next();
      if (any === undefined) return updates;
      const { update } = fromBinary(WindowUpdateSchema, any.value);
      updates.push(update);
      allowed += update;
    }
    const data = archive.subarray(at, at + Math.min(PIECE, allowed));
    stream.send(packed(DataSchema, { data }));
    allowed -= data.byteLength;
    at += data.byteLength;
  }
  stream.end();
  return updates;
}

row(
  "N12",
  "a stream is registered under a name of its namespace, once, and ends with its client and its lease",
  {
    casts: ["ours"],
    source: "recordings/image-import-transfer.jsonl; containerd 2.3.4: plugins/services/streaming, plugins/streaming",
    covers: ["rpc:containerd.services.streaming.v1.Streaming/Stream"],
  },
  async (t) => {
    await using at = api(t);
    const { transport, metadata, transfers } = at;
    const transfer = async (stream: string, namespace: Readonly<Record<string, string>> = metadata) =>
      refusal(
        transfers.transfer(
          {
            source: packed(ImageStoreSchema, { name: "none" }),
            destination: packed(ImageExportStreamSchema, { stream }),
          },
          { metadata: namespace },
        ),
      );
    await using first = await RawStream.open(transport, metadata, "one");
    expect((await RawStream.beginning(transport, metadata, packed(StreamInitSchema, { id: "one" })))[0]).toBe(
      "already-exists",
    );
    // Known: the transfer comes as far as the image. Elsewhere, and under another name, it is not.
    expect((await transfer("two"))[1]).toContain('stream "two": not found');
    expect((await transfer("one", { "containerd-namespace": `${t.namespace}x` }))[1]).toContain(
      'stream "one": not found',
    );
    expect((await transfer("one"))[1]).toContain('image "none": not found');
    // The transfer has closed it; the name is free again.
    expect(await first.next()).toBeUndefined();
    await using again = await RawStream.open(transport, metadata, "one");
    await again[Symbol.asyncDispose]();
    await eventually("the name of a client that is gone", async () =>
      (await transfer("one"))[1].includes('stream "one": not found') ? true : undefined,
    );
    expect((await RawStream.beginning(transport, metadata, packed(DataSchema, {})))[0]).toBe("invalid-argument");

    const leases = createClient(Leases, transport);
    await leases.create({ id: "held" }, { metadata });
    await using leased = await RawStream.open(transport, { ...metadata, "containerd-lease": "held" }, "leased");
    await using free = await RawStream.open(transport, metadata, "free");
    await leases.delete({ id: "held", sync: true }, { metadata });
    expect(await leased.next()).toBeUndefined();
    expect((await transfer("leased"))[1]).toContain('stream "leased": not found');
    free.end();
    expect((await transfer("free"))[1]).toContain('image "none": not found');
  },
);

row(
  "N14",
  "import by messages as containerd's client sends them: windows, progress, names, labels and the unpacked layers",
  {
    casts: ["ours"],
    source: "recordings/image-import-transfer.jsonl",
    covers: ["rpc:containerd.services.transfer.v1.Transfer/Transfer"],
  },
  async (t) => {
    await using at = api(t);
    const { transport, metadata, transfers, images } = at;
    const archive = await ociArchive();
    await using progress = await RawStream.open(transport, metadata, "progress");
    await using bytes = await RawStream.open(transport, metadata, "import");
    const told = progressOf(progress);
    const sent = sendArchive(bytes, archive);
    const platform = { os: "linux", architecture: process.arch === "arm64" ? "arm64" : "amd64" };
    await transfers.transfer(
      {
        source: packed(ImageImportStreamSchema, { stream: "import" }),
        destination: packed(ImageStoreSchema, {
          platforms: [platform],
          labels: { who: "me" },
          extraReferences: [{ name: "import-2026-11-21", isPrefix: true, allowOverwrite: true }],
          unpacks: [{ platform }],
        }),
        options: { progressStream: "progress" },
      },
      { metadata },
    );
    expect(new Set(await sent)).toEqual(new Set([WINDOW]));
    const { image } = await images.get({ name: IMAGE }, { metadata });
    expect(image).toMatchObject({
      name: IMAGE,
      labels: { who: "me" },
      target: { annotations: { "io.containerd.image.name": IMAGE, "org.opencontainers.image.ref.name": "test" } },
    });
    expect(await told).toEqual([
      { event: "Importing", name: "", digest: "" },
      { event: "saved", name: IMAGE, digest: image?.target?.digest ?? "none" },
      { event: "Completed import", name: "", digest: "" },
    ]);
    expect((await t.must("snapshots", "ls")).trim().split("\n")).toHaveLength(2);
    expect(await t.must("leases", "ls", "-q")).toBe("");
    // What it imported runs.
    const ran = await t.ctr("run", "--rm", IMAGE, t.id("run"), "echo", "alive");
    expect([ran.code, ran.stdout]).toEqual([0, "alive\n"]);
  },
);

row(
  "N14",
  "export, tag, and the pairs that nothing is moved between",
  {
    casts: ["ours"],
    source: "recordings/image-export.jsonl, image-tag.jsonl; containerd 2.3.4: plugins/services/transfer",
  },
  async (t) => {
    await using at = api(t);
    const { transport, metadata, transfers, images } = at;
    const image = await t.image();
    await using progress = await RawStream.open(transport, metadata, "progress");
    await using bytes = await RawStream.open(transport, metadata, "export");
    const told = progressOf(progress);
    const received = (async () => {
      const parts: Uint8Array[] = [];
      let window = 0;
      for (;;) {
        if (window < WINDOW) {
          bytes.send(packed(WindowUpdateSchema, { update: WINDOW }));
          window += WINDOW;
        }
        const any = await bytes.next();
        if (any === undefined) return Buffer.concat(parts);
        const { data } = fromBinary(DataSchema, any.value);
        expect(data.byteLength).toBeLessThanOrEqual(PIECE);
        window -= data.byteLength;
        expect(window).toBeGreaterThanOrEqual(0);
        parts.push(data);
      }
    })();
    await transfers.transfer(
      {
        source: packed(ImageStoreSchema, { extraReferences: [{ name: image }] }),
        destination: packed(ImageExportStreamSchema, { stream: "export" }),
        options: { progressStream: "progress" },
      },
      { metadata },
    );
    const archive = await received;
    expect((await told).map(({ event }) => event)).toEqual(["Exporting", "Completed export"]);
    const file = t.path(t.id("out.tar"));
    await t.must("images", "export", "--local", file, image);
    expect(archive.equals(Buffer.from(await Bun.file(file).arrayBuffer()))).toBe(true);

    await transfers.transfer(
      { source: packed(ImageStoreSchema, { name: image }), destination: packed(ImageStoreSchema, { name: "b:2" }) },
      { metadata },
    );
    expect((await images.list({}, { metadata })).images.map(({ name }) => name)).toEqual(["b:2", image]);
    const pair = async (source: ReturnType<typeof packed>, destination: ReturnType<typeof packed>) =>
      refusal(transfers.transfer({ source, destination }, { metadata }));
    const registry = packed(OCIRegistrySchema, { reference: "registry.test/a:1" });
    const names = `${OCIRegistrySchema.typeName} to ${OCIRegistrySchema.typeName}`;
    expect(await pair(registry, registry)).toEqual([
      "not-implemented",
      expect.stringContaining(`method Transfer not implemented for ${names}`),
    ]);
    expect((await pair({ typeUrl: "no.such.Type", value: new Uint8Array() }, registry))[0]).toBe("not-found");
    expect(
      (await pair(packed(ImageStoreSchema, { name: "none" }), packed(ImageStoreSchema, { name: "x" })))[1],
    ).toContain('image "none": not found');
    expect((await pair(packed(ImageImportStreamSchema, { stream: "none" }), packed(ImageStoreSchema, {})))[0]).toBe(
      "not-found",
    );
  },
);

row(
  "G09",
  "a daemon that is killed in the middle of an import shows nothing of it, and the next import finishes",
  { casts: ["ours"], ownDaemon: true, source: "docs/decisions/0220-transfers-in-the-daemon.md" },
  async (t) => {
    const layer = tar([{ path: "big", data: Buffer.alloc(8 << 20, "not so random ") }]);
    const archive = await ociArchive({ layers: [layer], compress: "none" });
    for (const share of [0.1, 0.5, 0.98]) {
      await using at = api(t);
      await using bytes = await RawStream.open(at.transport, at.metadata, "import");
      const transfer = refusal(
        at.transfers.transfer(
          {
            source: packed(ImageImportStreamSchema, { stream: "import" }),
            destination: packed(ImageStoreSchema, {
              extraReferences: [{ name: "x", isPrefix: true, allowOverwrite: true }],
              unpacks: [{ platform: { os: "linux", architecture: "amd64" } }],
            }),
          },
          { metadata: at.metadata },
        ),
      );
      const cut = archive.subarray(0, Math.floor(archive.byteLength * share));
      let allowed = 0;
      for (let from = 0; from < cut.byteLength; ) {
        if (allowed === 0) {
          const any = await bytes.next();
          if (any === undefined) break;
          allowed += fromBinary(WindowUpdateSchema, any.value).update;
        }
        const data = cut.subarray(from, from + Math.min(PIECE, allowed));
        bytes.send(packed(DataSchema, { data }));
        allowed -= data.byteLength;
        from += data.byteLength;
      }
      await t.daemon.stop("SIGKILL");
      expect((await transfer)[0]).toBe("unavailable");
      await t.daemon.launch();
      expect(await t.must("images", "ls", "-q")).toBe("");
    }
    const file = t.path("whole.tar");
    await writeFile(file, archive);
    await t.must("images", "import", file);
    expect(await t.must("images", "ls", "-q")).toBe(`${IMAGE}\n`);
    expect(await t.must("images", "check", "-q")).toBe(`${IMAGE}\n`);
    await dropLeases(t.daemon, t.namespace);
  },
);

row(
  "C05",
  "ctr shows an import's ends as lines where it cannot draw, and as a tree where it can",
  {
    casts: ["ours"],
    source: "recordings/image-import-transfer.out",
    covers: ["flag:ctr images import --local", "flag:ctr images export --local", "flag:ctr images tag --local"],
  },
  async (t) => {
    const file = t.path(t.id("in.tar"));
    await writeFile(file, await ociArchive());
    const lines = (await t.must("images", "import", file)).split("\n");
    expect(lines.slice(0, 2)).toEqual(["Importing", `${IMAGE}\tsaved`]);
    expect(lines[2]).toMatch(/^Completed import\telapsed: \d+\.\d\s+s\ttotal:\s+[\d.]+ B?\t\([\d.]+ [KMG]?i?B\/s\)\t$/);
    const drawn = await t.ctrWith({ tty: true }, "images", "import", file);
    expect(drawn.stdout).toMatch(new RegExp(`${IMAGE}\\s+\\tsaved\\t`));
    expect(drawn.stdout).toMatch(/application\/vnd\.oci\.image\.manifest\.v1\+json sha256:[0-9a-f]{64}/);
    expect(await t.must("images", "import", "--local", file)).toMatch(/^unpacking .*\.\.\.done\n$/);
    const out = t.path(t.id("out.tar"));
    expect(await t.must("images", "export", out, IMAGE)).toBe("");
    await t.must("images", "export", "--local", `${out}2`, IMAGE);
    const [service, client] = await Promise.all([out, `${out}2`].map(async (path) => Bun.file(path).bytes()));
    expect(Buffer.from(service ?? []).equals(Buffer.from(client ?? []))).toBe(true);
    expect((await t.ctr("images", "export", t.path(t.id("no.tar")), "none:1")).stderr).toContain(
      'image "none:1": not found',
    );
    expect(await Bun.file(t.path(t.id("no.tar"))).exists()).toBe(false);
    expect(await t.must("images", "tag", "--local", IMAGE, "docker.io/library/a:1")).toBe("docker.io/library/a:1\n");
    expect(await t.must("images", "tag", "--force", IMAGE, "docker.io/library/a:1")).toBe("docker.io/library/a:1\n");
    expect((await t.ctr("images", "tag", IMAGE, "docker.io/library/a:1")).code).not.toBe(0);
  },
);
