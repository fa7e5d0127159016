import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { backgroundContext, errorClassOf, messageOf } from "@stevedore/base";
import { peerProgram } from "@stevedore/base/test-peer";
import { differSuite, tarOf } from "@stevedore/core/diff-suite";
import type { Mount } from "@stevedore/core/mount";
import { MediaType } from "@stevedore/oci/media-types";
import { mountRaw, unmount, withTempMount } from "@stevedore/os/mount";
import { mountsAtOrBelow } from "@stevedore/os/mountinfo";
import { describeTree } from "@stevedore/os/test-tree";
import { createWalkingDiffer, type WalkingDifferOptions } from "./impl.ts";
import type { StreamProcessor } from "./stream-processors.ts";
import { createTestContent } from "./test-content.ts";

const context = backgroundContext();
const base = mkdtempSync(`${tmpdir()}/differ-`);
mountRaw("tmpfs", base, { type: "tmpfs" });
afterAll(() => {
  unmount(base);
  rmSync(base, { recursive: true });
});
let made = 0;

function folder(): string {
  const path = `${base}/${++made}`;
  mkdirSync(path);
  return path;
}

/** The worker from the sources, as this package may not import it. */
const WORKER = join(import.meta.dir, "..", "..", "..", "worker", "src", "main.ts");

function open(options: Partial<WalkingDifferOptions> & { readonly withFd?: boolean } = {}) {
  const dir = folder();
  const content = createTestContent(`${dir}/content`, { withFd: options.withFd ?? true });
  const differ = createWalkingDiffer({
    content,
    workerCommand: [process.execPath, WORKER],
    stateDir: `${dir}/state`,
    ...options,
  });
  return { differ, content };
}

for (const [name, options] of [
  ["walking, blobs as files", { gunzip: [] }],
  ["walking, blobs through a pipe", { withFd: false }],
  // igzip's stand-in, which takes the same arguments.
  ["walking, another program's gunzip", { gunzip: [Bun.which("gzip") ?? "gzip", "-d", "-c"] }],
] as const) {
  differSuite(name, () => {
    const { differ, content } = open(options);
    return Promise.resolve({
      differ,
      put: (bytes) => Promise.resolve(content.put(bytes)),
      get: async (digest) => ({ bytes: content.get(digest), labels: (await content.info(context, digest)).labels }),
      folder: () => Promise.resolve(folder()),
      describe: describeTree,
      close: () => Promise.resolve(),
    });
  });
}

function bind(source: string): readonly Mount[] {
  return [{ type: "bind", source, target: "", options: ["rbind", "rw"] }];
}

function overlay(upper: string, lowers: readonly string[]): readonly Mount[] {
  const lower = lowers.length === 0 ? [] : [`lowerdir=${lowers.join(":")}`];
  return [{ type: "overlay", source: "overlay", target: "", options: [`upperdir=${upper}`, ...lower, "index=off"] }];
}

async function failure(promise: Promise<unknown>): Promise<{ class: string; message: string }> {
  try {
    await promise;
    return { class: "none", message: "" };
  } catch (error) {
    return { class: errorClassOf(error), message: messageOf(error) };
  }
}

describe("walking differ", () => {
  test("another program's gunzip that loads slowly still finds what it needs", async () => {
    const slow = ["/bin/sh", "-c", "sleep 0.2; exec gzip -d -c"];
    const { differ, content } = open({ gunzip: slow });
    const bytes = Bun.gzipSync(new Uint8Array(tarOf([{ type: "file", name: "a", mode: 0o644 }, "x"])));
    const layer = { mediaType: MediaType.ociLayerGzip, digest: content.put(bytes), size: bytes.length };
    const into = folder();
    await differ.apply(context, layer, { mounts: bind(into) });
    expect(await Bun.file(`${into}/a`).text()).toBe("x");
    // One that cannot run at all is done without.
    const { differ: other, content: its } = open({ gunzip: ["/bin/sh", "-c", "exit 127"] });
    its.put(bytes);
    const again = folder();
    await other.apply(context, layer, { mounts: bind(again) });
    expect(await Bun.file(`${again}/a`).text()).toBe("x");
    const broken = { ...layer, digest: content.put(bytes.subarray(0, 20)), size: 20 };
    expect((await failure(differ.apply(context, broken, { mounts: bind(folder()) }))).class).toBe("data-loss");
  });

  const file = (name: string, text = "x") => [{ type: "file", name, mode: 0o644 }, text] as const;

  test("errors carry the layer and the entry", async () => {
    const { differ, content } = open();
    const bytes = tarOf(file("fine"), file("bad/.wh.", ""));
    const digest = content.put(bytes);
    const layer = { mediaType: MediaType.ociLayer, digest, size: bytes.length };
    expect(await failure(differ.apply(context, layer, { mounts: bind(folder()) }))).toEqual({
      class: "invalid-argument",
      message: `failed to apply layer ${digest}: entry "bad/.wh.": invalid whiteout name: .wh.: invalid archive`,
    });
  });

  test("a blob that is not what its digest says is refused", async () => {
    const { differ, content } = open();
    const bytes = gzipSync(tarOf(file("a")));
    const digest = content.put(bytes);
    const lying = { ...content, open: () => content.open(context, content.put(gzipSync(tarOf(file("b"))))) };
    const liar = createWalkingDiffer({ content: lying, workerCommand: [process.execPath, WORKER], stateDir: folder() });
    const layer = { mediaType: MediaType.ociLayerGzip, digest, size: bytes.length };
    const { class: errorClass, message } = await failure(liar.apply(context, layer, { mounts: bind(folder()) }));
    expect(errorClass).toBe("data-loss");
    expect(message).toContain(`expected ${digest}`);
    expect((await failure(differ.apply(context, layer, { mounts: bind(folder()) }))).class).toBe("none");
  });

  for (const [name, pack] of [
    ["gzip", gzipSync],
    ["zstd", zstdCompressSync],
  ] as const) {
    test(`a ${name} bomb ends at the limit, long before the disk is full`, async () => {
      const { differ, content } = open({ limits: { maxRatio: 100, ratioFloor: 1 << 20 } });
      const bytes = pack(tarOf(file("bomb", "\0".repeat(64 << 20))));
      const layer = { mediaType: MediaType.ociLayerGzip, digest: content.put(bytes), size: bytes.length };
      const target = folder();
      const result = await failure(differ.apply(context, layer, { mounts: bind(target) }));
      expect(result.class).toBe("resource-exhausted");
      expect(result.message).toContain("more than 100 times its compressed size");
    });
  }

  test("sizes and entries have limits", async () => {
    const bytes = tarOf(file("a"), file("b"), file("c"));
    for (const limits of [{ maxBytes: 1024 }, { maxEntries: 2 }]) {
      const { differ, content } = open({ limits });
      const layer = { mediaType: MediaType.ociLayer, digest: content.put(bytes), size: bytes.length };
      expect((await failure(differ.apply(context, layer, { mounts: bind(folder()) }))).class).not.toBe("none");
    }
  });

  test("a cancelled apply kills its worker and leaves no mount", async () => {
    const { differ, content } = open();
    const bytes = gzipSync(tarOf(file("big", "x".repeat(200 << 20))), { level: 1 });
    const layer = { mediaType: MediaType.ociLayerGzip, digest: content.put(bytes), size: bytes.length };
    const stop = new AbortController();
    setTimeout(() => stop.abort(new DOMException("gone", "AbortError")), 120);
    const start = performance.now();
    const result = await failure(differ.apply({ signal: stop.signal }, layer, { mounts: bind(folder()) }));
    expect(result.class).toBe("canceled");
    expect(performance.now() - start).toBeLessThan(2_000);
    expect(mountsAtOrBelow(base)).toHaveLength(1);
  });

  test("a tree seen through an id mapping has the ids that are seen", async () => {
    const { differ, content } = open();
    const bytes = tarOf([{ type: "file", name: "f", mode: 0o644, uid: 5, gid: 6 }]);
    const layer = { mediaType: MediaType.ociLayer, digest: content.put(bytes), size: bytes.length };
    const [target, again] = [folder(), folder()];
    await differ.apply(context, layer, { mounts: bind(target) });
    const mapping = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];
    const upper = [{ type: "bind", source: target, target: "", options: [...mapping, "rw", "rbind"] }];
    const made = await differ.compare(context, [], { upper, mediaType: MediaType.ociLayer, ref: "", labels: {} });
    await differ.apply(context, made, { mounts: bind(again) });
    expect(describeTree(again, { times: false })[0]).toStartWith("/f 100644 100005:200006");
  });

  test("a worker ends with the daemon, however that ends", async () => {
    const dir = folder();
    const layer = join(dir, "layer");
    writeFileSync(layer, tarOf(...Array.from({ length: 60_000 }, (_, i) => file(`d${i % 100}/f${i}`))));
    mkdirSync(join(dir, "target"));
    const script = `
      import { createWalkingDiffer } from ${JSON.stringify(join(import.meta.dir, "impl.ts"))};
      import { createTestContent } from ${JSON.stringify(join(import.meta.dir, "test-content.ts"))};
      const content = createTestContent(${JSON.stringify(join(dir, "content"))});
      const bytes = new Uint8Array(await Bun.file(${JSON.stringify(layer)}).arrayBuffer());
      const options = { content, workerCommand: ${JSON.stringify([process.execPath, WORKER])}, stateDir: ${JSON.stringify(dir)} };
      const mounts = [{ type: "bind", source: ${JSON.stringify(join(dir, "target"))}, target: "", options: ["rbind", "rw"] }];
      const mediaType = ${JSON.stringify(MediaType.ociLayer)};
      await createWalkingDiffer(options).apply({ signal: new AbortController().signal }, { mediaType, digest: content.put(bytes), size: bytes.length }, { mounts });`;
    const daemon = Bun.spawn([process.execPath, "-e", script], { stderr: "inherit" });
    // The worker is named by its last argument; the script above mentions the folder inside a longer one.
    const workers = (): readonly string[] =>
      readdirSync("/proc").filter((pid) => {
        if (!/^[0-9]+$/.test(pid)) return false;
        try {
          return readFileSync(`/proc/${pid}/cmdline`, "utf8").endsWith(`\0${dir}\0`);
        } catch {
          return false;
        }
      });
    for (let tries = 0; tries < 500 && readdirSync(join(dir, "target")).length === 0; tries++) await Bun.sleep(10);
    expect(workers()).toHaveLength(1);
    daemon.kill("SIGKILL");
    await daemon.exited;
    for (let tries = 0; tries < 100 && workers().length > 0; tries++) await Bun.sleep(10);
    expect(workers()).toEqual([]);
  }, 20_000);

  test("parallel unpack gives what a serial one on overlayfs gives", async () => {
    const { differ, content } = open();
    const layers = [
      tarOf(
        [{ type: "directory", name: "etc", mode: 0o711, uid: 5 }],
        file("etc/a"),
        file("etc/gone"),
        [{ type: "directory", name: "opt", mode: 0o755 }],
        file("opt/old"),
      ),
      tarOf(file("etc/.wh.gone", ""), file("etc/b"), file("opt/.wh..wh..opq", ""), file("opt/new")),
      tarOf([{ type: "directory", name: "opt", mode: 0o700 }], file("etc/c"), [
        { type: "link", name: "etc/d", linkName: "etc/c", mode: 0o644 },
      ]),
    ].map((bytes) => ({ mediaType: MediaType.ociLayer, digest: content.put(bytes), size: bytes.length }));
    const serial: string[] = [];
    for (const layer of layers) {
      const upper = folder();
      await differ.apply(context, layer, { mounts: serial.length === 0 ? bind(upper) : overlay(upper, serial) });
      serial.unshift(upper);
    }
    const { adoptFolders } = await import("@stevedore/os/adopt-folders");
    const { IMPLIED_MARK } = await import("@stevedore/oci/layer-job");
    const parallel = layers.map(() => folder());
    await Promise.all(
      layers.map((layer, i) => differ.apply(context, layer, { mounts: overlay(parallel[i] ?? "", []) })),
    );
    const chain: string[] = [];
    for (const upper of parallel) {
      adoptFolders(upper, chain, IMPLIED_MARK);
      chain.unshift(upper);
    }
    const view = (lowers: readonly string[]): Promise<readonly string[]> =>
      withTempMount(
        [{ type: "overlay", source: "overlay", options: [`lowerdir=${lowers.join(":")}`, "index=off"] }],
        (dir) => describeTree(dir, { trusted: true }),
      );
    const expected = await view(serial);
    expect(await view(chain)).toEqual([...expected]);
    expect(expected.map((line) => line.split(" ").slice(0, 3).join(" "))).toEqual([
      "/etc 40711 5:0",
      "/etc/a 100644 0:0",
      "/etc/b 100644 0:0",
      "/etc/c 100644 0:0",
      "/etc/d 100644 0:0",
      "/opt 40700 0:0",
      "/opt/new 100644 0:0",
      "linked: /etc/c /etc/d",
    ]);
  });

  test("configured programs make layers of what only they can read (A38)", async () => {
    const type = `${MediaType.ociLayerGzip}+example`;
    const program = (script: string, extra: Partial<StreamProcessor> = {}): StreamProcessor => ({
      id: "example",
      accepts: [type],
      returns: MediaType.ociLayerGzip,
      path: "sh",
      args: ["-c", script],
      env: ["KEY=42"],
      ...extra,
    });
    const plain = tarOf(file("f", "hello"));
    const bytes = Buffer.from(gzipSync(plain)).map((byte) => byte ^ 0xff);
    const flip = `exec python3 -c 'import sys; sys.stdout.buffer.write(bytes(b ^ 255 for b in sys.stdin.buffer.read()))'`;
    const check = `[ "$KEY $STREAM_PROCESSOR_MEDIATYPE" = "42 ${type}" ] || { echo "env: $KEY" >&2; exit 3; }`;
    const apply = async (streamProcessors: readonly StreamProcessor[], payloads = {}) => {
      const { differ, content } = open({ streamProcessors });
      const layer = { mediaType: type, digest: content.put(bytes), size: bytes.length };
      const target = folder();
      const result = await differ.apply(context, layer, { mounts: bind(target), payloads });
      expect(readdirSync(target)).toEqual(["f"]);
      return result;
    };
    expect((await apply([program(`${check}; ${flip}`)])).size).toBe(plain.length);
    const twice = [
      program(flip, { id: "one", returns: "application/x" }),
      program("cat", { id: "two", accepts: ["application/x"] }),
    ];
    expect((await apply(twice)).size).toBe(plain.length);
    const payload = { example: { typeUrl: "t", value: new Uint8Array([0x6f, 0x6b]) } };
    await apply([program(`[ "$(od -An -tx1 <&3 | tr -d ' \n')" = 0a017412026f6b ] || exit 4; ${flip}`)], payload);
    const refused = await failure(apply([program("echo no key >&2; exit 7")]));
    expect([refused.class, refused.message.endsWith(": no key")]).toEqual(["unknown", true]);
    expect((await failure(apply([program(flip, { path: "/none" })]))).class).toBe("not-found");
    expect((await failure(apply([program("cat", { returns: type })]))).message).toContain("form a circle");
    expect((await failure(apply([]))).class).not.toBe("none");
  });

  test("a worker that cannot be started is told", async () => {
    const { differ, content } = open({ workerCommand: ["/bin/false"] });
    const bytes = tarOf();
    const layer = { mediaType: MediaType.ociLayer, digest: content.put(bytes), size: bytes.length };
    const result = await failure(differ.apply(context, layer, { mounts: bind(folder()) }));
    expect(result).toMatchObject({ class: "internal" });
    expect(result.message).toContain("layer worker ended with status 1 without a result");
  });
});

// The peer is Debian's containerd 1.6: D07, N04.
const theirDaemon = peerProgram("containerd") ?? "";
const theirCtr = peerProgram("ctr") ?? "";

describe.skipIf(theirDaemon === "" || theirCtr === "")("beside the peer", () => {
  test("compare writes the peer's bytes, and its unpack gives our tree", async () => {
    const { differ, content } = open();
    const root = folder();
    const socket = `${root}/c.sock`;
    writeFileSync(
      `${root}/config.toml`,
      `version = 2\nroot = "${root}/root"\nstate = "${root}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n[grpc]\naddress = "${socket}"\n[ttrpc]\naddress = "${socket}.ttrpc"\n`,
    );
    const daemon = Bun.spawn([theirDaemon, "-c", `${root}/config.toml`], { stdout: "ignore", stderr: "ignore" });
    const ctr = async (...args: readonly string[]): Promise<Buffer> => {
      const child = Bun.spawn([theirCtr, "-a", socket, ...args], { stdout: "pipe", stderr: "pipe" });
      const bytes = Buffer.from(await new Response(child.stdout).arrayBuffer());
      if ((await child.exited) !== 0) throw new Error(await new Response(child.stderr).text());
      return bytes;
    };
    try {
      for (let tries = 0; tries < 100; tries++) {
        if ((await failure(ctr("version"))).class === "none") break;
        await Bun.sleep(50);
      }
      await ctr("snapshots", "prepare", "a");
      const upper = `${root}/root/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs`;
      const script = `set -e; umask 022; mkdir -p etc usr/bin ${"dir".repeat(30)}/${"sub".repeat(30)} ${"p".repeat(130)}/q
        echo 1 > etc/a; ln etc/a usr/bin/z; ln -s ../../etc/a usr/bin/s; mkfifo usr/p; mknod usr/c c 1 3; chmod 4755 etc/a
        chown 5:70000 etc/a; chown 3000000:3000000 usr/p; touch ${"n".repeat(150)} grün usr-x; echo hi > ${"dir".repeat(30)}/${"sub".repeat(30)}/f
        truncate -s 100000 sparse; touch -d @1000000000.5 etc; ln -s ${"t".repeat(120)} usr/long`;
      expect(Bun.spawnSync(["bash", "-c", script], { cwd: upper }).exitCode).toBe(0);
      await ctr("snapshots", "commit", "A", "a");
      const theirs = await ctr("snapshots", "diff", "--media-type", MediaType.ociLayer, "A");
      const ours = await differ.compare(context, [], {
        upper: bind(upper),
        mediaType: MediaType.ociLayer,
        ref: "",
        labels: {},
      });
      expect(Buffer.from(content.get(ours.digest)).equals(theirs)).toBe(true);

      const changes = tarOf(
        file("etc/.wh.a", ""),
        file("usr/bin/.wh..wh..opq", ""),
        file("usr/bin/new"),
        [{ type: "directory", name: "usr", mode: 0o700, mtime: { seconds: 7, nanoseconds: 500 } }],
        [{ type: "symlink", name: "way", linkName: "/usr" }],
        file("way/../way/through"),
        [{ type: "link", name: "hard", linkName: "usr/bin/new", mode: 0o644 }],
        [{ type: "char", name: "dev", mode: 0o600, devMajor: 1, devMinor: 5 }],
      );
      const layers = [theirs, changes];
      await ctr("images", "import", "--snapshotter", "overlayfs", ociArchive(folder(), layers));
      const [name = ""] = (await ctr("images", "ls", "-q")).toString().trim().split("\n");
      const view = folder();
      await ctr("images", "mount", name, view);
      const uppers: string[] = [];
      for (const bytes of layers) {
        const into = folder();
        const layer = { mediaType: MediaType.ociLayer, digest: content.put(bytes), size: bytes.length };
        await differ.apply(context, layer, { mounts: uppers.length === 0 ? bind(into) : overlay(into, uppers) });
        uppers.unshift(into);
      }
      const expected = describeTree(view, { trusted: false });
      const step = { type: "overlay", source: "overlay", options: [`lowerdir=${uppers.join(":")}`, "index=off"] };
      expect(await withTempMount([step], (dir) => describeTree(dir))).toEqual(expected);
      await ctr("images", "unmount", view);
      expect(readdirSync(view)).toEqual([]);
    } finally {
      daemon.kill();
      await daemon.exited;
    }
  }, 60_000);

  function file(name: string, text = "x") {
    return [{ type: "file", name, mode: 0o644, mtime: { seconds: 1_500_000_000, nanoseconds: 0 } }, text] as const;
  }

  /** An OCI image layout as a tar file. */
  function ociArchive(dir: string, layers: readonly Buffer[]): string {
    const files = new Map<string, Buffer>();
    const put = (bytes: Buffer): { digest: string; size: number } => {
      const hex = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
      files.set(`blobs/sha256/${hex}`, bytes);
      return { digest: `sha256:${hex}`, size: bytes.length };
    };
    const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
    const described = layers.map((bytes) => ({ mediaType: MediaType.ociLayer, ...put(bytes) }));
    const config = put(
      json({
        architecture: "amd64",
        os: "linux",
        config: {},
        rootfs: { type: "layers", diff_ids: described.map((d) => d.digest) },
      }),
    );
    const manifest = put(
      json({
        schemaVersion: 2,
        mediaType: MediaType.ociManifest,
        config: { mediaType: MediaType.ociConfig, ...config },
        layers: described,
      }),
    );
    const annotations = {
      "io.containerd.image.name": "example.com/oracle:1",
      "org.opencontainers.image.ref.name": "1",
    };
    files.set(
      "index.json",
      json({ schemaVersion: 2, manifests: [{ mediaType: MediaType.ociManifest, ...manifest, annotations }] }),
    );
    files.set("oci-layout", json({ imageLayoutVersion: "1.0.0" }));
    for (const [name, bytes] of files) {
      mkdirSync(`${dir}/${name}`.replace(/\/[^/]*$/, ""), { recursive: true });
      writeFileSync(`${dir}/${name}`, bytes);
    }
    expect(Bun.spawnSync(["tar", "-C", dir, "-cf", `${dir}.tar`, "."]).exitCode).toBe(0);
    return `${dir}.tar`;
  }
});
