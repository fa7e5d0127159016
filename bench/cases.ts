// What is compared. A case prepares both sides once, then measures one side at a time as the runner asks.
import { join } from "node:path";
import { type Daemon, type Maker, program, repository } from "../tests/harness/daemon.ts";
import { ociArchive } from "../tests/harness/images.ts";
import { BIG_IMAGE, bigImage, noise } from "./image.ts";
import { daemonIn, MAKERS, memoryOf, namespaceOf, SMALL_IMAGE, succeed, timed, tmpfs } from "./world.ts";

export type Row = { readonly name: string; readonly unit: "ms" | "MB"; readonly asked?: number };
/** One value for each row of the case. */
export type Measure = (maker: Maker) => Promise<readonly number[]>;
export type Case = {
  readonly name: string;
  readonly rows: readonly Row[];
  /** What was compared and how durable each side's answer was. */
  readonly note: string;
  /** Heavy cases have fewer pairs: at most this many. */
  readonly pairs?: number;
  readonly prepare: (stack: AsyncDisposableStack) => Promise<Measure>;
};

/** Where archives, samples and the small programs of the floors are kept. */
export const KEPT = join(repository, "build/bench");
const CALLS = 1_000;
const CONTENT_BYTES = 400 * 1024 * 1024;
const SYNC = "ours: SQLite WAL, synchronous=FULL, one fsync per batch of commits; theirs: bbolt, fsync per commit";

type Sides = Readonly<Record<Maker, Daemon>>;

async function both(stack: AsyncDisposableStack, parent: (maker: Maker) => Promise<string>): Promise<Sides> {
  const start = async (maker: Maker): Promise<Daemon> => stack.use(await daemonIn(maker, await parent(maker)));
  return { ours: await start("ours"), debian: await start("debian") };
}

async function onDisk(stack: AsyncDisposableStack): Promise<Sides> {
  return both(stack, async () => "/tmp");
}

function ctr(client: Maker, daemon: Daemon, ...args: string[]): string[] {
  daemon.use(namespaceOf(daemon.maker));
  return [program(client, "ctr"), "--address", daemon.address, "--namespace", namespaceOf(daemon.maker), ...args];
}

async function smallImage(sides: Sides, stack: AsyncDisposableStack): Promise<void> {
  const archive = join(await tmpfs(stack), "busybox.tar");
  await Bun.write(archive, await ociArchive());
  for (const maker of MAKERS) await succeed(ctr(maker, sides[maker], "images", "import", archive));
}

const version: Case = {
  name: "version",
  rows: [{ name: "ctr version", unit: "ms", asked: 1.5 }],
  note: "each side's own ctr against its own daemon; nothing is stored",
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    return async (maker) => [await timed(ctr(maker, sides[maker], "version"))];
  },
};

const help: Case = {
  name: "help",
  rows: [{ name: "ctr --help", unit: "ms", asked: 0.7 }],
  note: "each side's own ctr; no daemon",
  prepare: async () => async (maker) => [await timed([program(maker, "ctr"), "--help"])],
};

const unary: Case = {
  name: "unary",
  rows: [
    { name: "unary RPC, median of a run", unit: "ms", asked: 1.0 },
    { name: "unary RPC, p99 of a run", unit: "ms" },
  ],
  note: `python3-grpcio, ${CALLS} Version calls one after the other in each run, on both; nothing is stored`,
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    const client = join(repository, "bench/grpc/client.py");
    return async (maker) => {
      const printed: unknown = JSON.parse(
        await succeed(["/usr/bin/python3", client, sides[maker].address, String(CALLS), "1"]),
      );
      const times: unknown = typeof printed === "object" && printed !== null ? Reflect.get(printed, "ms") : undefined;
      if (!Array.isArray(times)) throw new Error("client.py printed no times");
      const sorted = times.filter((each) => typeof each === "number").sort((a, b) => a - b);
      return [
        sorted[Math.floor(sorted.length / 2)] ?? Number.NaN,
        sorted[Math.floor(sorted.length * 0.99)] ?? Number.NaN,
      ];
    };
  },
};

const content: Case = {
  name: "content",
  pairs: 11,
  rows: [
    { name: "content ingest, 400 MB", unit: "ms", asked: 1.0 },
    { name: "content get, 400 MB", unit: "ms", asked: 1.0 },
  ],
  note: "Debian's ctr on both, roots on a fresh tmpfs each, so fsync costs nothing; both sync the blob before it is committed",
  prepare: async (stack) => {
    const source = join(await tmpfs(stack), "blob");
    const bytes = noise(CONTENT_BYTES, 1);
    await Bun.write(source, bytes);
    const digest = `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
    const sides = await both(stack, async () => tmpfs(stack));
    let turn = 0;
    return async (maker) => {
      const call = (...args: string[]): string[] => ctr("debian", sides[maker], "content", ...args);
      turn += 1;
      const ingest = await timed(call("ingest", `blob-${turn}`), { stdin: source });
      // What nothing names could be collected before it is read.
      await succeed(call("label", digest, "containerd.io/gc.root=1"));
      const get = await timed(call("get", digest));
      await succeed(call("rm", digest));
      return [ingest, get];
    };
  },
};

const importing: Case = {
  name: "import",
  pairs: 11,
  rows: [{ name: "import, 400 MB, 20,000 files", unit: "ms", asked: 0.7 }],
  note: "each side's own ctr; nine gzip layers, unpacked to overlayfs; a fresh daemon on a fresh tmpfs for every run, so fsync costs nothing",
  prepare: async () => {
    const archive = join(KEPT, "image-400mb.tar");
    await bigImage(archive);
    return async (maker) => {
      await using stack = new AsyncDisposableStack();
      const daemon = stack.use(await daemonIn(maker, await tmpfs(stack)));
      const took = await timed(ctr(maker, daemon, "images", "import", archive));
      const listed = await succeed(ctr(maker, daemon, "images", "ls", "-q"));
      const snapshots = (await succeed(ctr("debian", daemon, "snapshots", "ls"))).trim().split("\n").length - 1;
      if (!listed.includes(BIG_IMAGE) || snapshots !== 10) {
        throw new Error(`${maker} imported ${listed.trim()} with ${snapshots} snapshots, not ${BIG_IMAGE} with 10`);
      }
      return [took];
    };
  },
};

const run: Case = {
  name: "run",
  rows: [{ name: "ctr run --rm IMG true", unit: "ms", asked: 0.8 }],
  note: `each side's own ctr, daemon and shim, roots on disk; ${SYNC}`,
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    await smallImage(sides, stack);
    let turn = 0;
    return async (maker) => {
      turn += 1;
      const env = { PATH: `${sides[maker].dir}/bin:/usr/sbin:/usr/bin:/sbin:/bin` };
      return [await timed(ctr(maker, sides[maker], "run", "--rm", SMALL_IMAGE, `run-${turn}`, "true"), { env })];
    };
  },
};

const execing: Case = {
  name: "exec",
  rows: [{ name: "ctr tasks exec", unit: "ms", asked: 0.8 }],
  note: "each side's own ctr, daemon and shim; a container that sleeps; neither side stores anything for an exec",
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    await smallImage(sides, stack);
    for (const maker of MAKERS) {
      await succeed(ctr(maker, sides[maker], "run", "-d", SMALL_IMAGE, "sleeper", "sleep", "100000"));
    }
    let turn = 0;
    return async (maker) => {
      turn += 1;
      return [await timed(ctr(maker, sides[maker], "tasks", "exec", "--exec-id", `e${turn}`, "sleeper", "true"))];
    };
  },
};

const memory: Case = {
  name: "memory",
  pairs: 3,
  rows: [
    { name: "memory (PSS), daemon idle", unit: "MB" },
    { name: "memory (PSS), 1 container", unit: "MB" },
  ],
  note: "daemon, shims and workers counted together; the second row after one import, run and exec",
  prepare: async (stack) => {
    const archive = join(await tmpfs(stack), "busybox.tar");
    await Bun.write(archive, await ociArchive());
    return async (maker) => {
      await using daemon = await daemonIn(maker, "/tmp");
      await succeed(ctr(maker, daemon, "version"));
      const idle = await memoryOf(daemon);
      await succeed(ctr(maker, daemon, "images", "import", archive));
      await succeed(ctr(maker, daemon, "run", "-d", SMALL_IMAGE, "sleeper", "sleep", "100000"));
      await succeed(ctr(maker, daemon, "tasks", "exec", "--exec-id", "e", "sleeper", "true"));
      await Bun.sleep(500);
      return [idle, await memoryOf(daemon)];
    };
  },
};

export const CASES: readonly Case[] = [version, help, unary, content, importing, run, execing, memory];
