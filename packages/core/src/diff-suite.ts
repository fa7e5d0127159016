import { describe, expect, test } from "bun:test";
import { backgroundContext, errorClassOf } from "@stevedore/base";
import { MediaType } from "@stevedore/oci/media-types";
import { encodeTarHeader, TAR_END, type TarEntryInit, tarPadding } from "@stevedore/oci/tar/writer";
import type { Differ } from "./diff.ts";
import type { Descriptor } from "./images.ts";
import type { Labels } from "./labels.ts";
import type { Mount } from "./mount.ts";

export interface OpenedDiffer {
  readonly differ: Differ;
  /** Puts a blob into the content store the differ reads. */
  readonly put: (bytes: Uint8Array) => Promise<string>;
  /** What the differ put there. */
  readonly get: (digest: string) => Promise<{ readonly bytes: Uint8Array; readonly labels: Labels }>;
  /** A new empty folder. */
  readonly folder: () => Promise<string>;
  /** A tree as comparable text, without the times of folders. */
  readonly describe: (dir: string) => readonly string[];
  readonly close: () => Promise<void>;
}

const context = backgroundContext({ namespace: "testing" });

/** An archive of entries with their text. */
export function tarOf(...entries: readonly (readonly [TarEntryInit, string?])[]): Buffer {
  const parts: Uint8Array[] = [];
  for (const [entry, text = ""] of entries) {
    const bytes = Buffer.from(text);
    parts.push(encodeTarHeader({ ...entry, size: bytes.length }), bytes, tarPadding(bytes.length));
  }
  return Buffer.concat([...parts, TAR_END]);
}

function bind(source: string, mode: "rw" | "ro" = "rw"): readonly Mount[] {
  return [{ type: "bind", source, target: "", options: ["rbind", mode] }];
}

/** Runs a shell script with its arguments as $1, $2 …; what it prints is the result. */
async function shell(script: string, ...args: readonly string[]): Promise<string> {
  const child = Bun.spawn(["sh", "-ec", script, "sh", ...args], { stdout: "pipe", stderr: "pipe" });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${script}: ${await new Response(child.stderr).text()}`);
  return text;
}

function gzip(bytes: Buffer): Buffer {
  return Buffer.from(Bun.gzipSync(new Uint8Array(bytes)));
}

function zstd(bytes: Buffer): Buffer {
  return Bun.zstdCompressSync(bytes);
}

async function classOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    return errorClassOf(error);
  }
}

function sha256(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

/** One suite for every differ that takes tar layers, also behind a socket. Needs root for the mounts. */
export function differSuite(name: string, open: () => Promise<OpenedDiffer>): void {
  const withOne = async (run: (opened: OpenedDiffer) => Promise<void>): Promise<void> => {
    const opened = await open();
    try {
      await run(opened);
    } finally {
      await opened.close();
    }
  };
  const layer = async (opened: OpenedDiffer, mediaType: string, bytes: Uint8Array): Promise<Descriptor> => ({
    mediaType,
    digest: await opened.put(bytes),
    size: bytes.byteLength,
  });
  const archive = tarOf(
    [{ type: "directory", name: "d", mode: 0o750, uid: 3, gid: 4 }],
    [{ type: "file", name: "d/f", mode: 0o4755, mtime: { seconds: 1_600_000_000, nanoseconds: 0 } }, "hello"],
    [{ type: "symlink", name: "s", linkName: "d/f" }],
  );

  describe(`Differ contract: ${name}`, () => {
    for (const [what, mediaType, packed] of [
      ["plain", MediaType.ociLayer, archive],
      ["gzip", MediaType.ociLayerGzip, gzip(archive)],
      ["zstd", MediaType.ociLayerZstd, zstd(archive)],
      ["Docker's gzip", MediaType.dockerLayerGzip, gzip(archive)],
      ["foreign", MediaType.dockerLayerForeignGzip, gzip(archive)],
      ["non-distributable", MediaType.ociLayerNonDistributableZstd, zstd(archive)],
      ["Docker's plain type that holds gzip", MediaType.dockerLayer, gzip(archive)],
      ["a gzip type that holds plain tar", MediaType.ociLayerGzip, archive],
      [
        "gzip of two members",
        MediaType.ociLayerGzip,
        Buffer.concat([gzip(archive.subarray(0, 700)), gzip(archive.subarray(700))]),
      ],
    ] as const) {
      test(`applies ${what} and tells the diff ID`, () =>
        withOne(async (opened) => {
          const target = await opened.folder();
          const result = await opened.differ.apply(context, await layer(opened, mediaType, packed), {
            mounts: bind(target),
            syncFs: true,
          });
          expect(result).toEqual({ mediaType: MediaType.ociLayer, digest: sha256(archive), size: archive.length });
          expect(await Bun.file(`${target}/s`).text()).toBe("hello");
        }));
    }

    test("what it cannot take has the contract's classes", () =>
      withOne(async (opened) => {
        const mounts = bind(await opened.folder());
        const apply = async (mediaType: string, bytes: Uint8Array): Promise<string> =>
          classOf(opened.differ.apply(context, await layer(opened, mediaType, bytes), { mounts }));
        expect(await apply("application/vnd.example", archive)).toBe("not-implemented");
        expect(await apply(MediaType.ociLayerGzip, gzip(archive).subarray(0, 60))).toBe("data-loss");
        expect(await apply(MediaType.ociLayer, archive.subarray(0, 1100))).toBe("data-loss");
        expect(await apply(MediaType.ociLayer, Buffer.alloc(600, 1))).toBe("invalid-argument");
        const missing = { mediaType: MediaType.ociLayer, digest: sha256(Buffer.from("none")), size: 4 };
        expect(await classOf(opened.differ.apply(context, missing, { mounts }))).toBe("not-found");
      }));

    test("an archive ending without its marker, or with garbage behind it, applies", () =>
      withOne(async (opened) => {
        for (const bytes of [archive.subarray(0, -1024), Buffer.concat([archive, Buffer.from("more")])]) {
          const descriptor = await layer(opened, MediaType.ociLayer, bytes);
          const result = await opened.differ.apply(context, descriptor, { mounts: bind(await opened.folder()) });
          expect(result.digest).toBe(sha256(bytes));
        }
      }));

    test("a cancelled call ends", () =>
      withOne(async (opened) => {
        const descriptor = await layer(opened, MediaType.ociLayer, archive);
        const stop = AbortSignal.abort(new DOMException("gone", "AbortError"));
        const mounts = bind(await opened.folder());
        expect(await classOf(opened.differ.apply({ ...context, signal: stop }, descriptor, { mounts }))).toBe(
          "canceled",
        );
      }));

    for (const mediaType of ["", MediaType.ociLayer, MediaType.ociLayerGzip, MediaType.ociLayerZstd]) {
      test(`apply(compare(x)) = x with ${mediaType === "" ? "the default type" : mediaType}`, () =>
        withOne(async (opened) => {
          const { differ } = opened;
          const [lower, upper, target] = [await opened.folder(), await opened.folder(), await opened.folder()];
          for (const dir of [lower, upper, target]) {
            await shell('mkdir "$1/etc"; printf 1 > "$1/etc/gone"; printf 1 > "$1/etc/kept"', dir);
          }
          await shell(
            `rm "$1/etc/gone"; printf %03000d 7 > "$1/etc/new"; chmod 2710 "$1/etc/new"
             mkdir -p "$1/deep/er"; ln -s ../etc "$1/deep/link"`,
            upper,
          );
          const labels = { given: "1" };
          const made = await differ.compare(context, bind(lower, "ro"), {
            upper: bind(upper),
            mediaType,
            ref: "",
            labels,
          });
          expect(made.mediaType).toBe(mediaType === "" ? MediaType.ociLayerGzip : mediaType);
          const stored = await opened.get(made.digest);
          expect(stored.bytes.byteLength).toBe(made.size);
          const result = await differ.apply(context, made, { mounts: bind(target) });
          const plain = mediaType === MediaType.ociLayer;
          expect(stored.labels).toEqual(plain ? labels : { ...labels, "containerd.io/uncompressed": result.digest });
          const times = (lines: readonly string[]): string[] => lines.map((line) => line.replace(/ @\d+/, ""));
          expect(times(opened.describe(target))).toEqual(times(opened.describe(upper)));
          expect((await shell('ls -A "$1/etc"', target)).trim().split("\n")).toEqual(["kept", "new"]);
        }));
    }

    test("compare knows only its own types, and a ref is used again from its start", () =>
      withOne(async (opened) => {
        const upper = bind(await opened.folder());
        const compare = (mediaType: string): Promise<Descriptor> =>
          opened.differ.compare(context, [], { upper, mediaType, ref: "again", labels: {} });
        expect(await classOf(compare(MediaType.dockerLayerGzip))).toBe("not-implemented");
        const first = await compare(MediaType.ociLayer);
        expect(first.digest).toBe(sha256(TAR_END));
        expect(await compare(MediaType.ociLayer)).toEqual(first);
      }));

    test("times are cut to the epoch that is asked for", () =>
      withOne(async (opened) => {
        const upper = await opened.folder();
        await shell('printf x > "$1/f"', upper);
        const made = await opened.differ.compare(context, [], {
          upper: bind(upper),
          mediaType: MediaType.ociLayer,
          ref: "",
          labels: {},
          sourceDateEpoch: new Date(5_000),
        });
        const { bytes } = await opened.get(made.digest);
        expect(Buffer.from(bytes).toString("latin1", 136, 147)).toBe("00000000005");
      }));
  });
}
