// Pulls and pushes, against one docker-registry that both sides share.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Daemon, Maker } from "../tests/harness/daemon.ts";
import { type DockerRegistry, startDockerRegistry } from "../tests/harness/docker-registry.ts";
import { ociArchive } from "../tests/harness/images.ts";
import { tar } from "../tests/harness/tar.ts";
import { type Case, ctr, KEPT, type Measure } from "./cases.ts";
import { BIG_IMAGE, bigImage, noise } from "./image.ts";
import { daemonIn, memoryOf, namespaceOf, succeed, timed, tmpfs } from "./world.ts";

const OURS = "ours commits with fsync, layers synced before their commit; theirs syncs blobs and not layers";
const LARGE = "9 layers, 400 MB";
/** Bytes of the one layer, which does not compress. */
const GIGABYTE = 1_000_000_000;
/** Milliseconds between looks at the memory of a pull. */
const LOOK_MS = 50;

/** A registry in memory with an image in it. @returns it and the image's reference */
async function registryWith(
  stack: AsyncDisposableStack,
  archive: string,
  name: string,
): Promise<{ readonly registry: DockerRegistry; readonly reference: string }> {
  const registry = stack.use(await startDockerRegistry({ folder: join(await tmpfs(stack), "registry") }));
  const reference = `${registry.host}/${name}`;
  await succeed([
    "skopeo",
    "--insecure-policy",
    "copy",
    "--quiet",
    "--dest-tls-verify=false",
    `oci-archive:${archive}`,
    `docker://${reference}`,
  ]);
  return { registry, reference };
}

/** An ext4 of its own in a file, so that nothing another run has deleted slows this one. */
async function ext4(stack: AsyncDisposableStack): Promise<string> {
  const folder = await mkdtemp("/tmp/stv-bench-");
  stack.defer(() => rm(folder, { recursive: true }));
  const file = join(folder, "disk");
  const point = await mkdtemp("/tmp/stv-bench-");
  stack.defer(() => rm(point, { recursive: true }));
  await succeed(["truncate", "-s", "4G", file]);
  await succeed(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", file]);
  await succeed(["mount", "-o", "loop", file, point]);
  stack.defer(async () => {
    await succeed(["umount", point]);
  });
  return point;
}

interface Peak {
  /** MB of the daemon alone. */
  readonly daemon: number;
  /** MB of it, its shims and its workers. */
  readonly all: number;
}

async function pssOf(pid: number): Promise<number> {
  const rollup = await readFile(`/proc/${pid}/smaps_rollup`, "utf8").catch(() => "");
  return Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? 0) / 1024;
}

/** The most memory that a daemon has while something runs. */
async function peakDuring(daemon: Daemon, work: () => Promise<number>): Promise<{ took: number; peak: Peak }> {
  let peak: Peak = { daemon: 0, all: 0 };
  const over = new AbortController();
  const looking = (async () => {
    while (!over.signal.aborted) {
      const [own, all] = [await pssOf(daemon.pid), await memoryOf(daemon)];
      peak = { daemon: Math.max(peak.daemon, own), all: Math.max(peak.all, all) };
      await Bun.sleep(LOOK_MS);
    }
  })();
  let took: number;
  try {
    took = await work();
  } finally {
    over.abort();
    await looking;
  }
  return { took, peak };
}

/** Pulls with a fresh daemon on a fresh file system each time. */
function fresh(reference: string, disk: (stack: AsyncDisposableStack) => Promise<string>, layers: number): Measure {
  return async (maker) => {
    await using stack = new AsyncDisposableStack();
    const daemon = stack.use(await daemonIn(maker, await disk(stack)));
    const pull = ctr(maker, daemon, "images", "pull", "--plain-http", reference);
    const { took, peak } = await peakDuring(daemon, async () => timed(pull));
    const listed = await succeed(ctr("debian", daemon, "snapshots", "ls"));
    if (listed.split("\n").filter((line) => line.includes("Committed")).length !== layers) {
      throw new Error(`${maker} pulled ${reference} into\n${listed}`);
    }
    return [took, peak.daemon, peak.all];
  };
}

async function large(stack: AsyncDisposableStack): Promise<string> {
  const archive = join(KEPT, "image-400mb.tar");
  await bigImage(archive);
  return (await registryWith(stack, archive, BIG_IMAGE.slice("docker.io/".length))).reference;
}

const pull: Case = {
  name: "pull",
  pairs: 11,
  rows: [
    { name: `pull, ${LARGE}, tmpfs`, unit: "ms", asked: 0.4 },
    { name: "  daemon's memory at the peak", unit: "MB", asked: 1.5 },
    { name: "  the same with workers", unit: "MB", asked: 2.5 },
  ],
  note: `each side's own ctr, a fresh daemon on a fresh tmpfs for every run, docker-registry on a tmpfs of its own; ${OURS}`,
  prepare: async (stack) => fresh(await large(stack), tmpfs, 10),
};

const pullExt4: Case = {
  name: "pull-ext4",
  pairs: 7,
  rows: [
    { name: `pull, ${LARGE}, ext4`, unit: "ms", asked: 0.6 },
    { name: "  daemon's memory at the peak", unit: "MB", asked: 1.5 },
    { name: "  the same with workers", unit: "MB", asked: 2.5 },
  ],
  note: `the same on a fresh ext4 in a loop file; ${OURS}`,
  prepare: async (stack) => fresh(await large(stack), ext4, 10),
};

/** One layer of a gigabyte over nothing. */
async function gigabyteImage(): Promise<string> {
  const archive = join(KEPT, "image-1gb.tar");
  if (await Bun.file(archive).exists()) return archive;
  const part = 50_000_000;
  const entries = Array.from({ length: GIGABYTE / part }, (_, at) => ({ path: `file${at}`, data: noise(part, at) }));
  await writeFile(
    archive,
    await ociArchive({ name: "docker.io/library/gigabyte:bench", bare: true, layers: [tar(entries)] }),
  );
  return archive;
}

const pullLayer: Case = {
  name: "pull-layer",
  pairs: 5,
  rows: [
    { name: "pull, one layer of 1 GB, tmpfs", unit: "ms", asked: 0.6 },
    { name: "  daemon's memory at the peak", unit: "MB" },
    { name: "  the same with workers", unit: "MB" },
  ],
  note: `each side's own ctr, a fresh daemon on a fresh tmpfs for every run; ${OURS}`,
  prepare: async (stack) =>
    fresh((await registryWith(stack, await gigabyteImage(), "library/gigabyte:bench")).reference, tmpfs, 1),
};

/** A daemon each, and the small image in a registry. */
async function small(stack: AsyncDisposableStack): Promise<{
  readonly sides: Readonly<Record<Maker, Daemon>>;
  readonly registry: DockerRegistry;
  readonly reference: string;
}> {
  const archive = join(await tmpfs(stack), "small.tar");
  // With busybox some 2 MB.
  await Bun.write(archive, await ociArchive({ layers: [tar([{ path: "data", data: noise(1_000_000, 1) }])] }));
  const { registry, reference } = await registryWith(stack, archive, "library/small:bench");
  const start = async (maker: Maker): Promise<Daemon> => stack.use(await daemonIn(maker, "/tmp"));
  return { sides: { ours: await start("ours"), debian: await start("debian") }, registry, reference };
}

const pullSmall: Case = {
  name: "pull-small",
  rows: [{ name: "pull, 2 MB", unit: "ms", asked: 0.9 }],
  note: `each side's own ctr, roots on disk; the image is removed and collected between the runs; ${OURS}`,
  prepare: async (stack) => {
    const { sides, reference } = await small(stack);
    return async (maker) => {
      const took = await timed(ctr(maker, sides[maker], "images", "pull", "--plain-http", reference));
      await succeed(ctr(maker, sides[maker], "images", "rm", "--sync", reference));
      return [took];
    };
  },
};

const pullAgain: Case = {
  name: "pull-again",
  rows: [{ name: "pull of what is there", unit: "ms", asked: 0.8 }],
  note: "each side's own ctr, roots on disk",
  prepare: async (stack) => {
    const { sides, reference } = await small(stack);
    return async (maker) => [await timed(ctr(maker, sides[maker], "images", "pull", "--plain-http", reference))];
  },
};

const push: Case = {
  name: "push",
  pairs: 7,
  rows: [{ name: `push, ${LARGE}`, unit: "ms", asked: 0.8 }],
  note: "each side's own ctr; each push goes to an empty docker-registry on a tmpfs of its own",
  prepare: async (stack) => {
    const archive = join(KEPT, "image-400mb.tar");
    await bigImage(archive);
    const sides = new Map<Maker, Daemon>();
    for (const maker of ["ours", "debian"] as const) {
      const daemon = stack.use(await daemonIn(maker, await tmpfs(stack)));
      await succeed(ctr(maker, daemon, "images", "import", archive));
      sides.set(maker, daemon);
    }
    return async (maker) => {
      const daemon = sides.get(maker);
      if (daemon === undefined) throw new Error(`no daemon of ${maker}`);
      await using empty = new AsyncDisposableStack();
      const registry = empty.use(await startDockerRegistry({ folder: join(await tmpfs(empty), "registry") }));
      return [
        await timed(
          ctr(maker, daemon, "images", "push", "--plain-http", `${registry.host}/big:${namespaceOf(maker)}`, BIG_IMAGE),
        ),
      ];
    };
  },
};

export const PULL_CASES: readonly Case[] = [pull, pullExt4, pullLayer, pullSmall, pullAgain, push];
