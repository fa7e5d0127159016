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

/** A command line of one side's ctr in the namespace of the bench. */
export function ctr(client: Maker, daemon: Daemon, ...args: string[]): string[] {
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
  rows: [{ name: "ctr run --rm IMG true", unit: "ms", asked: 0.55 }],
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

const runTheirs: Case = {
  name: "run-theirs",
  rows: [{ name: "run --rm true, Debian's ctr", unit: "ms", asked: 0.7 }],
  note: `Debian's ctr on both sides, each side's own daemon and shim, roots on disk; ${SYNC}`,
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    await smallImage(sides, stack);
    let turn = 0;
    return async (maker) => {
      turn += 1;
      return [await timed(ctr("debian", sides[maker], "run", "--rm", SMALL_IMAGE, `run-${turn}`, "true"))];
    };
  },
};

const runDetached: Case = {
  name: "run-d",
  rows: [{ name: "ctr run -d IMG sleep", unit: "ms", asked: 0.55 }],
  note: `each side's own ctr, daemon and shim, roots on disk; the container is removed between the runs; ${SYNC}`,
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    await smallImage(sides, stack);
    let turn = 0;
    return async (maker) => {
      turn += 1;
      const id = `d-${turn}`;
      const took = await timed(ctr(maker, sides[maker], "run", "-d", SMALL_IMAGE, id, "sleep", "100000"));
      await succeed(ctr(maker, sides[maker], "tasks", "rm", "--force", id));
      await succeed(ctr(maker, sides[maker], "containers", "rm", id));
      return [took];
    };
  },
};

const execing: Case = {
  name: "exec",
  rows: [{ name: "ctr tasks exec", unit: "ms", asked: 0.65 }],
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

/** Containers that a run of the stress case makes, and how many at a time. */
export const STRESS_CONTAINERS = 48;
export const STRESS_WORKERS = 8;

const stress: Case = {
  name: "stress",
  pairs: 5,
  rows: [{ name: "containers, 8 at a time, each", unit: "ms", asked: 0.4 }],
  note: `one client on both (bench/grpc/stress.py, python3-grpcio): ${STRESS_CONTAINERS} containers of true, from Prepare to Remove, ${STRESS_WORKERS} at a time; milliseconds for each by the wall; ${SYNC}`,
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    await smallImage(sides, stack);
    const client = join(repository, "bench/grpc/stress.py");
    let turn = 0;
    return async (maker) => {
      turn += 1;
      const daemon = sides[maker];
      const spec = join(daemon.dir, "spec.json");
      if (!(await Bun.file(spec).exists())) await writeSpec(daemon, spec);
      const chain = await chainOf(daemon);
      const printed = await succeed([
        "/usr/bin/python3",
        client,
        daemon.address,
        namespaceOf(maker),
        chain,
        spec,
        String(STRESS_CONTAINERS),
        String(STRESS_WORKERS),
        `s${turn}`,
      ]);
      return [Number(printed.trim()) / STRESS_CONTAINERS];
    };
  },
};

/** The spec that Debian's ctr makes for a container of the small image, as a file. */
async function writeSpec(daemon: Daemon, path: string): Promise<void> {
  await succeed(ctr("debian", daemon, "containers", "create", SMALL_IMAGE, "template", "true"));
  const info: unknown = JSON.parse(await succeed(ctr("debian", daemon, "containers", "info", "template")));
  const spec: unknown = typeof info === "object" && info !== null ? Reflect.get(info, "Spec") : undefined;
  if (typeof spec !== "object" || spec === null) throw new Error("containers info told no spec");
  await Bun.write(path, JSON.stringify(spec));
  await succeed(ctr("debian", daemon, "containers", "rm", "template"));
}

/** The committed snapshot of the small image. */
async function chainOf(daemon: Daemon): Promise<string> {
  const listed = await succeed(ctr("debian", daemon, "snapshots", "ls"));
  const key = /^(sha256:[0-9a-f]{64})\s.*Committed/m.exec(listed)?.[1];
  if (key === undefined) throw new Error(`no committed snapshot in ${listed}`);
  return key;
}

/** Idle containers of the density and restart cases. SCALE=500 for the large figure. */
const MANY = Number(process.env["SCALE"] ?? 100);
const START_TOGETHER = 4;

async function startMany(maker: Maker, daemon: Daemon): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let at = next++; at < MANY; at = next++) {
      const flags = ["run", "-d", "--null-io"];
      await succeed(ctr(maker, daemon, ...flags, SMALL_IMAGE, `many-${at}`, "sleep", "100000"));
    }
  };
  await Promise.all(Array.from({ length: START_TOGETHER }, worker));
}

async function endMany(maker: Maker, daemon: Daemon): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let at = next++; at < MANY; at = next++) {
      await succeed(ctr(maker, daemon, "tasks", "rm", "--force", `many-${at}`));
      await succeed(ctr(maker, daemon, "containers", "rm", `many-${at}`));
    }
  };
  await Promise.all(Array.from({ length: START_TOGETHER }, worker));
}

/** Until what a start leaves running (loading, compiling, collecting) is over. */
const SETTLE_MS = 5_000;

const density: Case = {
  name: "density",
  pairs: 1,
  rows: [{ name: `memory (PSS), ${MANY} containers`, unit: "MB", asked: MANY >= 500 ? 0.2 : 0.5 }],
  note: `daemon, keeper, spare and all shims together, ${SETTLE_MS / 1000} s after the last of ${MANY} containers that sleep was started; SCALE=500 for another number`,
  prepare: async (stack) => {
    const archive = join(await tmpfs(stack), "busybox.tar");
    await Bun.write(archive, await ociArchive());
    return async (maker) => {
      await using daemon = await daemonIn(maker, "/tmp");
      await succeed(ctr(maker, daemon, "images", "import", archive));
      await startMany(maker, daemon);
      await Bun.sleep(SETTLE_MS);
      const used = await memoryOf(daemon);
      await endMany(maker, daemon);
      return [used];
    };
  },
};

const restart: Case = {
  name: "restart",
  pairs: 5,
  rows: [{ name: `restart with ${MANY} containers`, unit: "ms", asked: 0.5 }],
  note: `from the start of the daemon's process (the one before was stopped by SIGTERM) until one client (Debian's ctr) has listed all ${MANY} tasks as running; roots on disk`,
  prepare: async (stack) => {
    const sides = await onDisk(stack);
    await smallImage(sides, stack);
    for (const maker of MAKERS) {
      await startMany(maker, sides[maker]);
      stack.defer(() => endMany(maker, sides[maker]));
    }
    return async (maker) => {
      const daemon = sides[maker];
      await daemon.stop("SIGTERM");
      const start = performance.now();
      await daemon.launch();
      for (;;) {
        const listed = await succeed(ctr("debian", daemon, "tasks", "ls"));
        if (listed.match(/ RUNNING/g)?.length === MANY) return [performance.now() - start];
      }
    };
  },
};

const busy: Case = {
  name: "busy",
  pairs: 3,
  rows: [
    { name: "Version while unpacking, p99", unit: "ms" },
    { name: "Tasks.Get while unpacking, p99", unit: "ms" },
  ],
  note: "python3-grpcio asks 100 times a second for as long as Debian's ctr imports 400 MB with 20,000 files in nine layers; roots on disk",
  prepare: async () => {
    const archive = join(KEPT, "image-400mb.tar");
    await bigImage(archive);
    const small = join(KEPT, "busybox.tar");
    await Bun.write(small, await ociArchive());
    return async (maker) => {
      await using daemon = await daemonIn(maker, "/tmp");
      await succeed(ctr(maker, daemon, "images", "import", small));
      await succeed(ctr(maker, daemon, "run", "-d", "--null-io", SMALL_IMAGE, "sleeper", "sleep", "100000"));
      const client = join(repository, "bench/grpc/busy.py");
      const asking = Bun.spawn(["/usr/bin/python3", client, daemon.address, namespaceOf(maker), "sleeper"], {
        stdin: "pipe",
        stdout: "pipe",
        stderr: "inherit",
      });
      await succeed(ctr("debian", daemon, "images", "import", archive));
      await asking.stdin.end();
      // Takes longer than the harness gives a namespace to be emptied.
      await succeed(ctr("debian", daemon, "images", "rm", "--sync", BIG_IMAGE));
      const [version, get] = (await new Response(asking.stdout).text()).trim().split(" ").map(Number);
      return [version ?? Number.NaN, get ?? Number.NaN];
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

export const CASES: readonly Case[] = [
  version,
  help,
  unary,
  content,
  importing,
  run,
  runTheirs,
  runDetached,
  execing,
  stress,
  memory,
  density,
  restart,
  busy,
];
