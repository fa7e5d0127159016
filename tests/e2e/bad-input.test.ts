// Input that is wrong, or meant to harm: an error that says so, nothing outside touched, and nothing of before lost.
import { expect, test } from "bun:test";
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, truncate, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { Daemon, type Maker, program } from "../harness/daemon.ts";
import { digestOf } from "../harness/images.ts";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { type TarEntry, tar } from "../harness/tar.ts";

const MIB = 1 << 20;
const LAYER = "application/vnd.oci.image.layer.v1.tar";
/** What a client or daemon may grow to however large the input says it is: Bun's own 150 MiB, and buffers. */
const MEMORY_LIMIT = 512 * MIB;

/** What a namespace has, one line for each thing. */
async function inventory(t: Stage): Promise<string[]> {
  const lists = await Promise.all(
    [
      ["images", "ls"],
      ["containers", "ls"],
      ["content", "ls", "-q"],
      ["snapshots", "ls"],
      ["leases", "ls", "-q"],
    ].map(async (list) => t.must(...list)),
  );
  return lists.flatMap((list) => list.split("\n")).map((line) => line.replaceAll(/\s+/g, " ").trim());
}

/** Does something with an image and a container there, and checks that they, and the daemon, still are. */
async function nothingLost(t: Stage, harm: () => Promise<void>): Promise<void> {
  const image = await t.image();
  await t.must("containers", "create", image, t.id("kept"));
  const before = await inventory(t);
  const { pid } = t.daemon;
  await harm();
  const after = await inventory(t);
  expect(before.filter((line) => !after.includes(line))).toEqual([]);
  expect([t.daemon.running, t.daemon.pid]).toEqual([true, pid]);
  expect(await t.must("run", "--rm", image, t.id("after"), "echo", "works")).toBe("works\n");
}

type Layout = {
  readonly name: string;
  /** The layer as it is in the archive. */
  readonly layer: Uint8Array;
  readonly mediaType?: string;
  /** The digest the configuration gives the unpacked layer. */
  readonly diffId: string;
  /** What the index says of the manifest's size. */
  readonly manifestSize?: number;
  /** Entries before all others. */
  readonly first?: readonly TarEntry[];
};

/** An OCI layout whose parts need not agree. */
function layout(of: Layout): Uint8Array {
  const blob = (text: string | Uint8Array): { digest: string; size: number; entry: TarEntry } => {
    const data = Buffer.from(text);
    const digest = digestOf(data);
    return { digest, size: data.byteLength, entry: { path: `blobs/${digest.replace(":", "/")}`, data } };
  };
  const arch = process.arch === "x64" ? "amd64" : process.arch;
  const config = blob(
    JSON.stringify({ architecture: arch, os: "linux", rootfs: { type: "layers", diff_ids: [of.diffId] } }),
  );
  const layer = blob(of.layer);
  const named = (mediaType: string, part: { digest: string; size: number }) => ({
    mediaType,
    digest: part.digest,
    size: part.size,
  });
  const manifest = blob(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: named("application/vnd.oci.image.config.v1+json", config),
      layers: [named(of.mediaType ?? LAYER, layer)],
    }),
  );
  const index = {
    schemaVersion: 2,
    manifests: [
      {
        ...named("application/vnd.oci.image.manifest.v1+json", manifest),
        size: of.manifestSize ?? manifest.size,
        annotations: { "io.containerd.image.name": of.name },
      },
    ],
  };
  return tar([
    ...(of.first ?? []),
    { path: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' },
    { path: "index.json", data: JSON.stringify(index) },
    config.entry,
    layer.entry,
    manifest.entry,
  ]);
}

/** Names, modes, owners and contents of a folder of plain files. */
async function fingerprint(folder: string): Promise<string[]> {
  const lines: string[] = [];
  for (const name of [".", ...(await readdir(folder)).toSorted()]) {
    const path = join(folder, name);
    const { mode, uid, gid, nlink } = await stat(path);
    const data = name === "." ? "" : digestOf(await readFile(path));
    lines.push(`${name} ${mode.toString(8)} ${uid}:${gid} ${nlink} ${data}`);
  }
  return lines;
}

const UP = "../".repeat(24);
const INNOCENT: TarEntry = { path: "innocent", data: "x" };

/** Layers that reach for `canary`, a folder with the file `kept`. */
function escapes(canary: string): Readonly<Record<string, readonly TarEntry[]>> {
  const below = canary.slice(1);
  const out: TarEntry = { path: "out", type: "symlink", target: canary };
  const kept = `${canary}/kept`;
  return {
    absolute: [
      { path: `${canary}/planted`, data: "x" },
      { path: kept, data: "changed", mode: 0o777 },
    ],
    dots: [
      { path: `${UP}${below}/planted`, data: "x" },
      { path: `a/${UP}${below}/kept`, data: "changed", mode: 0o777 },
    ],
    symlink: [out, { path: "out/planted", data: "x" }, { path: "out/kept", data: "changed", mode: 0o777 }],
    "relative-symlink": [
      { path: "out", type: "symlink", target: `${UP}${below}` },
      { path: "out/planted", data: "x" },
    ],
    "symlink-chain": [
      { path: "one", type: "symlink", target: ".." },
      { path: "two", type: "symlink", target: `one/${UP}` },
      { path: `two/${below}/planted`, data: "x" },
    ],
    "symlink-as-file": [
      { path: "file", type: "symlink", target: kept },
      { path: "file", data: "changed", mode: 0o777 },
    ],
    "folder-through-symlink": [out, { path: "out/", type: "dir", mode: 0o777, uid: 1000, gid: 1000 }],
    whiteout: [out, { path: "out/.wh.kept", data: "" }, { path: `${UP}${below}/.wh.kept`, data: "" }],
    opaque: [out, { path: "out/.wh..wh..opq", data: "" }],
    "whiteout-of-dots": [
      { path: "d/", type: "dir" },
      { path: "d/.wh...", data: "" },
    ],
    hardlink: [
      { path: "link", type: "hardlink", target: kept, mode: 0o777, uid: 1000 },
      { path: "link", data: "changed" },
    ],
    "hardlink-dots": [{ path: "link", type: "hardlink", target: `${UP}${below}/kept`, mode: 0o777 }],
    "hardlink-through-symlink": [out, { path: "link", type: "hardlink", target: "out/kept", mode: 0o777, uid: 1000 }],
  };
}

row(
  "G10",
  "hostile layers touch nothing outside their snapshot",
  { casts: ["peer", "ours"], timeoutMs: 120_000 },
  async (t) => {
    const canary = t.path(t.id("canary"));
    await mkdir(canary);
    await writeFile(join(canary, "kept"), "kept", { mode: 0o600 });
    const before = await fingerprint(canary);
    await nothingLost(t, async () => {
      for (const [what, entries] of Object.entries(escapes(canary))) {
        const layer = tar([INNOCENT, ...entries]);
        const file = t.path(`${t.id(what)}.tar`);
        // The same names in the archive itself, which is not to be unpacked anywhere.
        await writeFile(
          file,
          layout({ name: `docker.io/library/${what}:1`, layer, diffId: digestOf(layer), first: entries }),
        );
        const ran = await t.ctr("images", "import", file);
        // Kept inside or refused: both are answers. A refusal says why.
        if (ran.code !== 0) expect(`${what}: ${ran.stderr}`).toMatch(/ctr: .+/);
        expect([what, ...(await fingerprint(canary))]).toEqual([what, ...before]);
        await rm(file);
      }
    });
  },
);

row(
  "G10",
  "archives that lie: sizes, digests, gzip cut short; an error, and memory stays bounded",
  { casts: ["peer", "ours"], timeoutMs: 180_000 },
  async (t) => {
    const layer = tar([INNOCENT]);
    const diffId = digestOf(layer);
    const packed = Bun.gzipSync(tar([{ path: "big", data: Buffer.alloc(MIB, "some text ") }]));
    const bombed = Buffer.concat([layer, Buffer.alloc(256 * MIB)]);
    // Never one that is unpacked already: that would be taken instead.
    const other = (what: string): string => digestOf(Buffer.from(what));
    const name = (what: string): string => `docker.io/library/${what}:1`;
    const cases: Readonly<Record<string, Uint8Array>> = {
      // Clients go by the blob that is there, not by what the index says of its size: no error, and no memory for it. Our transfer
      // service believes no document of that size.
      "manifest-of-10-gib": layout({ name: name("large"), layer, diffId, manifestSize: 10 * 1024 * MIB }),
      "wrong-diff-id": layout({ name: name("diff"), layer, diffId: other("diff") }),
      "gzip-cut": layout({
        name: name("cut"),
        layer: packed.subarray(0, packed.byteLength >> 1),
        mediaType: `${LAYER}+gzip`,
        diffId: other("cut"),
      }),
      "not-gzip": layout({
        name: name("not"),
        layer: Buffer.from("no gzip"),
        mediaType: `${LAYER}+gzip`,
        diffId: other("not"),
      }),
      "gzip-bomb": layout({
        name: name("bomb"),
        layer: Bun.gzipSync(bombed),
        mediaType: `${LAYER}+gzip`,
        diffId: other("bomb"),
      }),
      "no-index": tar([{ path: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' }]),
      "broken-index": tar([
        { path: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' },
        { path: "index.json", data: "{" },
      ]),
      "index-of-10-gib": tar([
        { path: "oci-layout", data: '{"imageLayoutVersion":"1.0.0"}' },
        { path: "index.json", pax: { size: String(10 * 1024 * MIB) } },
      ]),
      "no-archive": Buffer.from("this is no archive"),
      "archive-cut": layout({ name: name("short"), layer, diffId }).subarray(0, 1_700),
    };
    await nothingLost(t, async () => {
      for (const [what, bytes] of Object.entries(cases)) {
        // The peer would write all 10 GiB of it into an ingest.
        if (what === "index-of-10-gib" && t.cast.client === "debian") continue;
        const file = t.path(`${t.id(what)}.tar`);
        await writeFile(file, bytes);
        // As long as it says, without taking the room.
        if (what === "index-of-10-gib") await truncate(file, 10 * 1024 * MIB + 8192);
        const client = t.start("images", "import", file);
        let peak = 0;
        for (let code: number | undefined; code === undefined; ) {
          peak = Math.max(peak, await highWater(client.pid));
          code = await Promise.race([client.exited, Bun.sleep(20).then(() => undefined)]);
        }
        const stderr = client.stderr();
        const taken = what === "manifest-of-10-gib" && t.castName !== "ours";
        expect([what, await client.exited, stderr.trim() !== ""]).toEqual(
          taken ? [what, 0, stderr.trim() !== ""] : [what, 1, true],
        );
        expect([what, peak < MEMORY_LIMIT]).toEqual([what, true]);
        await rm(file);
      }
    });
    expect(await highWater(t.daemon.pid)).toBeLessThan(MEMORY_LIMIT);
  },
);

/** The most memory a process ever had, in bytes; 0 when it has ended. */
async function highWater(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}

row("C07", "a device node of an image opens nothing of the machine's", { casts: ["peer", "ours"] }, async (t) => {
  const nodes = tar([
    { path: "memory", type: "char", device: [1, 1], mode: 0o666 },
    { path: "disk", type: "block", device: [7, 0], mode: 0o666 },
  ]);
  await nothingLost(t, async () => {
    const image = await t.image({ name: "docker.io/library/devices:1", layers: [nodes] });
    for (const node of ["/memory", "/disk"]) {
      const ran = await t.ctr("run", "--rm", image, t.id(node.slice(1)), "dd", `if=${node}`, "count=0");
      expect([node, ran.code]).toEqual([node, 1]);
      expect(ran.stderr).toMatch(/not permitted|denied/);
    }
  });
});

row("G12", "references, namespaces, ids and flags that are none", { timeoutMs: 120_000 }, async (t) => {
  await nothingLost(t, async () => {
    const image = await t.image();
    // Port 1 answers nobody: whatever passes for a reference fails there.
    const references = ["", "Not A Ref", "localhost:1/UPPER:1", `localhost:1/${"a".repeat(5_000)}:1`, "..", "/", ":1"];
    for (const reference of references) {
      const ran = await t.ctr("images", "pull", "--plain-http", reference);
      expect([reference, ran.code, ran.stderr.trim() !== ""]).toEqual([reference, 1, true]);
    }
    for (const namespace of ["a/b", "../x", "a b", "-a", "a".repeat(77)]) {
      const ran = await t.daemon.ctrPlain(t.cast.client, ["--namespace", namespace, "images", "ls"]);
      expect([namespace, ran.code]).toEqual([namespace, 1]);
      expect(ran.stderr).toContain("namespace");
      const made = await t.daemon.ctrPlain(t.cast.client, ["namespaces", "create", "--", namespace]);
      expect([namespace, made.code]).toEqual([namespace, 1]);
    }
    for (const id of ["a/b", "../x", "..", ".hidden", "a b", "a".repeat(77)]) {
      const ran = await t.ctr("run", "--rm", image, id, "true");
      expect([id, ran.code]).toEqual([id, 1]);
      expect(ran.stderr).toContain("invalid argument");
    }
    for (const command of [["images", "ls"], ["run"], ["containers", "create"], []]) {
      const ran = await t.ctr(...command, "--no-such-flag");
      expect([command, ran.code]).toEqual([command, 1]);
      expect(ran.stdout + ran.stderr).toContain("flag provided but not defined: -no-such-flag");
    }
  });
});

/** Sends bytes to a socket and goes away: when it is closed, or after a moment. */
async function send(path: string, bytes: Uint8Array, how: "end" | "destroy"): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const socket = connect(path);
  socket.on("error", () => resolve(undefined));
  socket.on("close", () => resolve(undefined));
  socket.on("data", () => undefined);
  socket.on("connect", () => {
    socket.write(bytes, () => {
      if (how === "end") socket.end();
    });
  });
  await Promise.race([promise, Bun.sleep(150)]);
  socket.destroy();
}

const PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const NOISE = Buffer.from(Array.from({ length: 70_000 }, (_, at) => (at * 7919 + (at >> 3)) & 0xff));
const h2 = (...bytes: number[]): Uint8Array => Buffer.concat([Buffer.from(PREFACE), Buffer.from(bytes)]);

const GRPC: Readonly<Record<string, Uint8Array>> = {
  noise: NOISE,
  "HTTP/1": Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
  "half a preface": Buffer.from(PREFACE.slice(0, 11)),
  "a preface for another": Buffer.from(PREFACE.replace("SM", "XX")),
  "a TLS hello": Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]),
  "half a frame": h2(0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3),
  "the largest length": h2(...SETTINGS, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, ...NOISE.subarray(0, 30_000)),
  "settings of 5 bytes": h2(0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5),
  "data before headers": h2(...SETTINGS, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0),
  "headers that are no HPACK": h2(...SETTINGS, 0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),
  "a stream of even number": h2(...SETTINGS, 0, 0, 1, 1, 5, 0, 0, 0, 2, 0x82),
  "continuation of nothing": h2(...SETTINGS, 0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82),
  "frames of noise": Buffer.concat([h2(...SETTINGS), NOISE]),
};

const ttrpc = (length: number, stream: number, type: number, body: readonly number[] = []): Uint8Array => {
  const header = Buffer.alloc(10);
  header.writeUInt32BE(length, 0);
  header.writeUInt32BE(stream, 4);
  header[8] = type;
  return Buffer.concat([header, Buffer.from(body)]);
};

const TTRPC: Readonly<Record<string, Uint8Array>> = {
  noise: NOISE,
  "the largest length": Buffer.concat([ttrpc(0xffffffff, 1, 1), NOISE]),
  "more than 4 MiB": Buffer.concat([ttrpc(5 * MIB, 1, 1), Buffer.alloc(5 * MIB)]),
  "half a header": ttrpc(1, 1, 1).subarray(0, 5),
  "half a message": ttrpc(100, 1, 1, [10, 3, 1]),
  "no message": ttrpc(0, 1, 1),
  "no protobuf": ttrpc(4, 1, 1, [0xff, 0xff, 0xff, 0xff]),
  "a stream of even number": ttrpc(0, 2, 1),
  "stream 0": ttrpc(0, 0, 1),
  "a type there is not": ttrpc(2, 1, 77, [1, 2]),
  "a response": ttrpc(2, 1, 2, [1, 2]),
  "data of no stream": ttrpc(2, 9, 3, [1, 2]),
};

row(
  "A14",
  "malformed and oversized bytes on the gRPC and the ttrpc socket hurt only who sent them",
  { casts: ["peer", "ours"], timeoutMs: 120_000 },
  async (t) => {
    await nothingLost(t, async () => {
      for (const [address, inputs] of [
        [t.daemon.address, GRPC],
        [`${t.daemon.address}.ttrpc`, TTRPC],
      ] as const) {
        for (const bytes of Object.values(inputs)) {
          await send(address, bytes, "end");
          await send(address, bytes, "destroy");
          expect(await t.must("images", "ls", "-q")).not.toBe("");
        }
        // Those that are still there when others come.
        await Promise.all(Object.values(inputs).map(async (bytes) => send(address, bytes, "destroy")));
      }
    });
    expect(await highWater(t.daemon.pid)).toBeLessThan(MEMORY_LIMIT);
  },
);

/** Connects as a user; the folder is where it starts, so that only the folder's and the socket's own modes count. */
async function connectAs(uid: number, socket: string): Promise<string> {
  const script =
    'use IO::Socket::UNIX; print IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $ARGV[0]) ? "connected" : "$!"';
  const user = ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
  const ran = await exec([...user, "perl", "-e", script, `./${basename(socket)}`], { cwd: dirname(socket) });
  return ran.stdout + ran.stderr;
}

const NOBODY = 65_534;

function withDebugSocket(maker: Maker): string {
  const debug = '[debug]\n  address = "@dir@/debug.sock"\n';
  if (maker === "ours") return `version = 3\n${debug}`;
  const opt = '[plugins."io.containerd.internal.v1.opt"]\n  path = "@dir@/opt"\n';
  return `version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n${opt}${debug}`;
}

row("A14", "another user is refused on every socket", { casts: ["peer", "ours"] }, async (t) => {
  await using daemon = await Daemon.start({ maker: t.cast.daemon, wholeConfig: withDebugSocket(t.cast.daemon) });
  await chmod(daemon.dir, 0o711);
  // A socket for everyone in the same folder shows that it is the socket that refuses.
  const open = createServer((socket) => socket.destroy());
  const listening = Promise.withResolvers<undefined>();
  open.listen(join(daemon.dir, "open.sock"), () => listening.resolve(undefined));
  await listening.promise;
  await chmod(join(daemon.dir, "open.sock"), 0o666);
  expect(await connectAs(NOBODY, join(daemon.dir, "open.sock"))).toBe("connected");
  open.close();
  for (const name of ["c.sock", "c.sock.ttrpc", "debug.sock"]) {
    const socket = join(daemon.dir, name);
    expect([name, await connectAs(0, socket)]).toEqual([name, "connected"]);
    expect([name, await connectAs(NOBODY, socket)]).toEqual([name, "Permission denied"]);
  }
  const image = await t.image();
  await t.must("run", "-d", image, t.id("c"), "sleep", "60");
  const bundle = join(t.daemon.state, "io.containerd.runtime.v2.task", t.namespace, t.id("c"));
  const address = await eventually("the shim's address", async () => {
    const text = await readFile(join(bundle, "address"), "utf8").catch(async () =>
      readFile(join(bundle, "bootstrap.json"), "utf8").catch(() => ""),
    );
    return /unix:\/\/([^"\s]+)/.exec(text)?.[1];
  });
  const shim = await realpath(address);
  expect(await connectAs(0, shim)).toBe("connected");
  expect(await connectAs(NOBODY, shim)).toMatch(/Permission denied/);
  await t.must("tasks", "rm", "--force", t.id("c"));
  await t.must("containers", "rm", t.id("c"));
});

// The peer says it in other words and without the place.
test("A12: a file that is no TOML ends the daemon with the file, the line and the column", async () => {
  const dir = await mkdtemp(join(tmpdir(), "stv-bad-"));
  try {
    const path = join(dir, "bad.toml");
    for (const text of ["version = 3\n[debug\n", "version = 3\nroot = \n", "version = 3\nroot = 'a'\nroot = 'b'\n"]) {
      await writeFile(path, text);
      const ran = await exec([program("ours", "containerd"), "-c", path, "--root", `${dir}/r`, "--state", `${dir}/s`]);
      expect([text, ran.code]).toEqual([text, 1]);
      expect(ran.stderr).toMatch(/bad\.toml: line \d+, column \d+: |bad\.toml:\d+:\d+/);
      expect(await readdir(dir)).toEqual(["bad.toml"]);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

// Of the runtime that the binary is made with: it would read both, and run what the second names.
test("G12: files in the folder a command is started in set nothing and run nothing", async () => {
  const dir = await mkdtemp(join(tmpdir(), "stv-folder-"));
  try {
    await writeFile(join(dir, ".env"), "CONTAINERD_ADDRESS=/from-the-folder.sock\n");
    await writeFile(join(dir, "bunfig.toml"), 'preload = ["./evil.ts"]\n');
    await writeFile(join(dir, "evil.ts"), 'await Bun.write("evil", "it ran");\nconsole.error("it ran");\n');
    for (const [name, argument] of [
      ["ctr", "version"],
      ["containerd", "--version"],
      ["containerd-shim-runc-v2", "-v"],
    ] as const) {
      const ran = await exec([program("ours", name), argument], { cwd: dir });
      expect(`${name}: ${ran.stdout}${ran.stderr}`).not.toMatch(/it ran|from-the-folder/);
    }
    expect((await readdir(dir)).toSorted()).toEqual([".env", "bunfig.toml", "evil.ts"]);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
