// Loud neighbours: containers that print without end, and many whose full FIFOs nobody reads, must not delay the exec and
// kill of a quiet one that may share their shim. The peer is asked first; the time decides how many there are. Quiet and loud take turns,
// so that what else the machine does hits both.
import { expect, test } from "bun:test";
import { constants } from "node:fs";
import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, type Client, connectClient } from "@stevedore/sdk";
import { LANE_MS, settle, taskLeftovers } from "../crash/leftovers.ts";
import { Clones } from "../harness/clones.ts";
import { Daemon, type Maker, program } from "../harness/daemon.ts";
import { eachOf } from "../harness/gate.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { exec } from "../harness/process.ts";
import { type Comparison, type Cycle, compareP99, execAndKill, Samples, told, tooSlow } from "./figures.ts";

const LOUD = 10;
const MOST_FULL = 200;
const FEWEST_FULL = 10;
/** Clients that start them side by side. */
const AT_ONCE = 4;
/** How long calls are timed in each situation before the other one has its turn, at least and usually; and how often that is at least. */
const FEWEST_ROUNDS = 3;
const PHASE_MS = 800;
const FEWEST_CYCLES = 4;
/** What the p99 may grow by beside neighbours, as a factor of its own when all is quiet. */
const GROWTH = 2;
/** A p99 of less than this is as good as none. */
const LEAST_MS = 10;
/** Parts of a maker's time. */
const MEASURING = 0.3;
const FILLING = 0.2;

/** A daemon with a quiet container. */
interface World {
  readonly daemon: Daemon;
  readonly client: Client;
  readonly namespace: string;
  readonly clones: Clones;
}

/** The neighbours' comparisons: cycles of calls when all is quiet, and beside them. */
interface Beside {
  readonly loud: readonly Cycle[];
  readonly full: readonly Cycle[];
  readonly count: number;
}

async function worldOf(maker: Maker, name: string, stack: AsyncDisposableStack): Promise<World> {
  const namespace = `stvloud${process.pid}-${Date.now()}-${name}`;
  const daemon = stack.use(await Daemon.start({ maker }));
  daemon.use(namespace);
  const must = async (...args: string[]): Promise<void> => {
    const ran = await daemon.ctr(maker, namespace, args, { timeoutMs: 60_000 });
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
  };
  const archive = join(daemon.dir, "image.tar");
  await writeFile(archive, await ociArchive());
  await must("images", "import", archive);
  await must("run", "-d", "--null-io", IMAGE, "quiet", "sleep", "100000");
  await must("containers", "create", IMAGE, "pattern", "yes");
  const client = stack.use(connectClient({ address: daemon.address }));
  return { daemon, client, namespace, clones: await Clones.of(client, namespace, "pattern") };
}

let round = 0;

async function callFor({ client, namespace }: World, ms: number): Promise<Samples> {
  const samples = new Samples();
  const end = performance.now() + ms;
  for (let rounds = 0; rounds < FEWEST_ROUNDS || performance.now() < end; rounds += 1) {
    round += 1;
    await execAndKill(client, samples, { namespace, id: "quiet", round });
  }
  return samples;
}

/** Both situations in turn until the time is over; by turns one of them is first. */
async function cyclesFor(
  ms: number,
  usual: () => Promise<Samples>,
  beside: () => Promise<Samples>,
): Promise<readonly Cycle[]> {
  const end = performance.now() + ms;
  const cycles: Cycle[] = [];
  while (cycles.length < FEWEST_CYCLES || performance.now() < end) {
    if (cycles.length % 2 === 0) cycles.push({ usual: await usual(), beside: await beside() });
    else {
      const now = await beside();
      cycles.push({ usual: await usual(), beside: now });
    }
  }
  return cycles;
}

/** Ten that print as fast as clients throw it away; all of them are stopped while calls are timed that are to be the usual ones. */
async function besideLoud(world: World, maker: Maker, ms: number): Promise<readonly Cycle[]> {
  const { daemon, client, namespace } = world;
  const readers = Array.from({ length: LOUD }, (_, index) =>
    Bun.spawn([program(maker, "ctr"), "-a", daemon.address, "-n", namespace, "run", IMAGE, `loud${index}`, "yes"], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
      env: { PATH: process.env["PATH"] ?? "" },
    }),
  );
  try {
    let pids: readonly number[] = [];
    for (let tries = 0; ; tries += 1) {
      const states = await client.tasks.list(backgroundContext({ namespace }));
      pids = states.flatMap(({ id, pid, status }) => (id.startsWith("loud") && status === "running" ? [pid] : []));
      if (pids.length === LOUD) break;
      if (tries > 600) throw new Error(`only ${pids.length} loud containers run`);
      await Bun.sleep(100);
    }
    const signalAll = (signal: "SIGSTOP" | "SIGCONT"): void => {
      for (const pid of [...pids, ...readers.map((reader) => reader.pid)]) process.kill(pid, signal);
    };
    const usual = async (): Promise<Samples> => {
      signalAll("SIGSTOP");
      try {
        return await callFor(world, PHASE_MS);
      } finally {
        signalAll("SIGCONT");
      }
    };
    return await cyclesFor(ms, usual, async () => callFor(world, PHASE_MS));
  } finally {
    for (const reader of readers) reader.kill("SIGKILL");
    await Promise.all(readers.map((reader) => reader.exited));
    // Without a reader they would fill up, and count as the next ones.
    await eachOf(LOUD, AT_ONCE, async (index) => {
      await daemon.ctr(maker, namespace, ["tasks", "rm", "--force", `loud${index}`], { timeoutMs: 60_000 });
    });
  }
}

/** Starts one whose output nobody reads: it fills its FIFO and blocks. */
async function runFull({ daemon, clones }: World, id: string): Promise<void> {
  const [stdout, stderr] = [join(daemon.dir, `${id}-out`), join(daemon.dir, `${id}-err`)];
  const made = await exec(["mkfifo", stdout, stderr]);
  if (made.code !== 0) throw new Error(made.stderr);
  await clones.make(id);
  // The client that made it is there until it runs, as `ctr run -d` is.
  await using readers = new AsyncDisposableStack();
  for (const fifo of [stdout, stderr]) {
    const reader = await open(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
    readers.defer(() => reader.close());
  }
  await clones.create(id, { stdin: "", stdout, stderr, terminal: false });
  await clones.start(id);
}

/** @param share milliseconds there are for this maker. */
async function beside(maker: Maker, share: number): Promise<Beside> {
  await using stack = new AsyncDisposableStack();
  const world = await worldOf(maker, `${maker}-loud`, stack);
  await callFor(world, 0); // loads what calls need
  const loud = await besideLoud(world, maker, share * MEASURING);

  const ids: string[] = [];
  const began = performance.now();
  await eachOf(MOST_FULL, AT_ONCE, async (index) => {
    if (index >= FEWEST_FULL && performance.now() - began > share * FILLING) return;
    await runFull(world, `full${index}`);
    ids.push(`full${index}`);
  });
  // They are quiet now; the usual calls are those of a daemon that has none of them.
  const alone = await worldOf(maker, `${maker}-quiet`, stack);
  await callFor(alone, 0);
  const full = await cyclesFor(
    share * MEASURING,
    async () => callFor(alone, PHASE_MS),
    async () => callFor(world, PHASE_MS),
  );
  await eachOf(ids.length, AT_ONCE, async (index) => {
    await world.clones.kill(ids[index] ?? "");
    await world.clones.delete(ids[index] ?? "");
  });
  await world.clones.removeAll(AT_ONCE);
  for (const { daemon, namespace } of [world, alone]) {
    await daemon.clear(namespace);
    expect(await settle(() => taskLeftovers(daemon, namespace))).toEqual([]);
  }
  return { loud, full, count: ids.length };
}

const CALLS = ["exec", "kill"] as const;

function compare(cycles: readonly Cycle[], factor: number): Comparison[] {
  return CALLS.map((what) => compareP99(cycles, what, { factor, leastMs: LEAST_MS }));
}

test(
  `F34 exec and kill of a quiet container beside ${LOUD} that print without end and ${MOST_FULL} with full FIFOs`,
  async () => {
    const theirs = await beside("debian", LANE_MS / 2);
    const ours = await beside("ours", LANE_MS / 2);
    // Printing takes the processor too: where the peer, with a process per container, slows by more, so may we.
    const theirLoud = compare(theirs.loud, GROWTH);
    const allowed = Math.max(GROWTH, ...theirLoud.map(({ ratio }) => ratio));
    const [loud, full] = [compare(ours.loud, allowed), compare(ours.full, GROWTH)];
    const tell = (who: string, comparisons: readonly Comparison[]): void => {
      process.stdout.write(`${who}:\n    ${told(comparisons)}\n`);
    };
    tell(`debian beside ${LOUD} loud, ${theirs.loud.length} cycles`, theirLoud);
    tell(`debian beside ${theirs.count} full, ${theirs.full.length} cycles`, compare(theirs.full, GROWTH));
    tell(`ours beside ${LOUD} loud, ${ours.loud.length} cycles`, loud);
    tell(`ours beside ${ours.count} full, ${ours.full.length} cycles`, full);
    expect(tooSlow([...loud, ...full])).toEqual([]);
  },
  LANE_MS + 500_000,
);
