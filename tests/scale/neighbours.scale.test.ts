// Loud neighbours: containers that print without end, and many whose full FIFOs nobody reads, must not delay the exec and
// kill of a quiet one that may share their shim. The peer is asked first; the time decides how many there are.
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Client, connectClient } from "@stevedore/sdk";
import { LANE_MS, settle, taskLeftovers } from "../crash/leftovers.ts";
import { Daemon, type Maker, program } from "../harness/daemon.ts";
import { eachOf } from "../harness/gate.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { execAndKill, quantile, Samples } from "./figures.ts";

const LOUD = 10;
const MOST_FULL = 200;
const FEWEST_FULL = 10;
/** Clients that start them side by side. */
const AT_ONCE = 4;
const FEWEST_ROUNDS = 20;
const MOST_ROUNDS = 300;
/** What the median may grow by beside neighbours, as a factor of its own when all is quiet. The p99 of few samples is the machine's, and printed. */
const GROWTH = 2;
/** Parts of a maker's time. */
const MEASURING = 0.12;
const FILLING = 0.2;

interface Beside {
  readonly idle: Samples;
  readonly loud: Samples;
  readonly full: Samples;
  readonly count: number;
}

async function measure(client: Client, namespace: string, limitMs: number): Promise<Samples> {
  const samples = new Samples();
  const end = performance.now() + limitMs;
  for (let round = 0; round < MOST_ROUNDS && (round < FEWEST_ROUNDS || performance.now() < end); round += 1)
    await execAndKill(client, samples, { namespace, id: "quiet", round });
  return samples;
}

/** @param share milliseconds there are for this maker. */
async function beside(maker: Maker, share: number): Promise<Beside> {
  const namespace = `stvloud${process.pid}-${Date.now()}-${maker}`;
  await using daemon = await Daemon.start({ maker });
  daemon.use(namespace);
  const must = async (...args: string[]): Promise<void> => {
    const ran = await daemon.ctr(maker, namespace, args, { timeoutMs: 60_000 });
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
  };
  const archive = join(daemon.dir, "image.tar");
  await writeFile(archive, await ociArchive());
  await must("images", "import", archive);
  await using client = connectClient({ address: daemon.address });
  await must("run", "-d", IMAGE, "quiet", "sleep", "100000");
  await measure(client, namespace, 0); // loads what calls need
  const idle = await measure(client, namespace, share * MEASURING);

  // Their output goes to a client that throws it away, as fast as it comes.
  const readers = Array.from({ length: LOUD }, (_, index) =>
    Bun.spawn([program(maker, "ctr"), "-a", daemon.address, "-n", namespace, "run", IMAGE, `loud${index}`, "yes"], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
      env: { PATH: process.env["PATH"] ?? "" },
    }),
  );
  let loud: Samples;
  try {
    for (let tries = 0; ; tries += 1) {
      const listed = await daemon.ctr(maker, namespace, ["tasks", "ls"]);
      if (listed.stdout.match(/loud\d+ .*RUNNING/g)?.length === LOUD) break;
      if (tries > 300) throw new Error(`the loud containers do not run:\n${listed.stdout}`);
      await Bun.sleep(100);
    }
    loud = await measure(client, namespace, share * MEASURING);
  } finally {
    for (const reader of readers) reader.kill("SIGKILL");
    await Promise.all(readers.map((reader) => reader.exited));
  }
  // Without a reader they would fill up, and count as the next ones.
  await eachOf(LOUD, AT_ONCE, async (index) => {
    await must("tasks", "rm", "--force", `loud${index}`);
  });

  // Nobody reads these: they fill their FIFOs and block.
  let count = 0;
  const began = performance.now();
  await eachOf(MOST_FULL, AT_ONCE, async (index) => {
    if (index >= FEWEST_FULL && performance.now() - began > share * FILLING) return;
    count += 1;
    await must("run", "-d", IMAGE, `full${index}`, "yes");
  });
  const full = await measure(client, namespace, share * MEASURING);
  await daemon.clear(namespace);
  expect(await settle(() => taskLeftovers(daemon, namespace))).toEqual([]);
  return { idle, loud, full, count };
}

test(
  `F34 exec and kill of a quiet container beside ${LOUD} that print without end and ${MOST_FULL} with full FIFOs`,
  async () => {
    const [theirs, ours] = [await beside("debian", LANE_MS / 2), await beside("ours", LANE_MS / 2)];
    for (const [maker, { idle, loud, full, count }] of Object.entries({ debian: theirs, ours })) {
      process.stdout.write(`${maker}:\n  idle: ${String(idle)}\n  ${LOUD} loud: ${String(loud)}\n`);
      process.stdout.write(`  ${count} full: ${String(full)}\n`);
    }
    const growth = (of: Samples, idle: Samples, what: string): number =>
      quantile(of.of(what), 0.5) / quantile(idle.of(what), 0.5);
    expect(growth(ours.full, ours.idle, "exec")).toBeLessThan(GROWTH);
    // Printing takes the processor too: where the peer, with a process per container, slows by more, so may we.
    const theirLoud = growth(theirs.loud, theirs.idle, "exec");
    expect(growth(ours.loud, ours.idle, "exec")).toBeLessThan(Math.max(GROWTH, theirLoud) * GROWTH);
  },
  LANE_MS + 900_000,
);
