// Loud neighbours: containers that print without end, and many whose full FIFOs nobody reads, must not delay the exec and
// kill of a quiet one that may share their shim.
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, type Client, connectClient } from "@stevedore/sdk";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";
import { settle, taskLeftovers } from "../crash/leftovers.ts";
import { Daemon, type Maker, program } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";

const LOUD = 10;
const FULL = 200;
/** Clients that start them side by side. */
const AT_ONCE = 5;
/** Samples of each figure. */
const ROUNDS = 60;
/** What a figure may grow by beside neighbours, as a factor of its own p99 when all is quiet. */
const GROWTH = 2;
const LIMIT_MS = 600_000;
const SIGCONT = 18;

interface Figures {
  readonly exec: number;
  readonly kill: number;
}

function p99(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.99))] ?? Number.NaN;
}

/** Milliseconds at p99 of an exec from its creation to its removal, and of a signal, to the container `id`. */
async function measure(client: Client, namespace: string, id: string): Promise<Figures> {
  const context = backgroundContext({ namespace });
  const spec = jsonAny(PROCESS_TYPE_URL, { user: { uid: 0, gid: 0 }, args: ["true"], env: ["PATH=/bin"], cwd: "/" });
  const [execs, kills] = [new Array<number>(), new Array<number>()];
  for (let round = 0; round < ROUNDS; round += 1) {
    const process_ = { containerId: id, execId: `e${round}-${Date.now()}` };
    const began = performance.now();
    await client.tasks.exec(context, { ...process_, io: NULL_IO, spec });
    const exited = client.tasks.wait(context, process_);
    await client.tasks.start(context, process_);
    await exited;
    await client.tasks.delete(context, process_);
    execs.push(performance.now() - began);
    const sent = performance.now();
    await client.tasks.kill(context, { containerId: id, execId: "" }, { number: SIGCONT, all: false });
    kills.push(performance.now() - sent);
  }
  return { exec: p99(execs), kill: p99(kills) };
}

async function beside(maker: Maker): Promise<{ idle: Figures; loud: Figures; full: Figures }> {
  const namespace = `stvloud${process.pid}-${maker}`;
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
  await measure(client, namespace, "quiet");
  const idle = await measure(client, namespace, "quiet");

  // Their output goes to a client that throws it away, as fast as it comes.
  const readers = Array.from({ length: LOUD }, (_, index) =>
    Bun.spawn([program(maker, "ctr"), "-a", daemon.address, "-n", namespace, "run", IMAGE, `loud${index}`, "yes"], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
      env: { PATH: process.env["PATH"] ?? "" },
    }),
  );
  for (let tries = 0; ; tries += 1) {
    const listed = await daemon.ctr(maker, namespace, ["tasks", "ls"]);
    if (listed.stdout.match(/loud\d+ .*RUNNING/g)?.length === LOUD) break;
    if (tries > 300) throw new Error(`the loud containers do not run:\n${listed.stdout}`);
    await Bun.sleep(100);
  }
  const loud = await measure(client, namespace, "quiet");
  for (const reader of readers) reader.kill("SIGKILL");
  await Promise.all(readers.map((reader) => reader.exited));

  // Nobody reads these: they fill their FIFOs and block.
  const ids = Array.from({ length: FULL }, (_, index) => `full${index}`);
  for (let from = 0; from < FULL; from += AT_ONCE)
    await Promise.all(ids.slice(from, from + AT_ONCE).map((id) => must("run", "-d", IMAGE, id, "yes")));
  const full = await measure(client, namespace, "quiet");
  await daemon.clear(namespace);
  expect(await settle(() => taskLeftovers(daemon, namespace))).toEqual([]);
  return { idle, loud, full };
}

test(
  "F34 exec and kill of a quiet container beside 10 that print without end and 200 with full FIFOs",
  async () => {
    const [theirs, ours] = [await beside("debian"), await beside("ours")];
    const shown = ({ exec, kill }: Figures): string => `exec ${exec.toFixed(1)} kill ${kill.toFixed(1)}`;
    for (const [maker, { idle, loud, full }] of Object.entries({ debian: theirs, ours }))
      process.stdout.write(`${maker}: p99 ms idle ${shown(idle)}; loud ${shown(loud)}; full ${shown(full)}\n`);
    const growth = (beside_: Figures, idle: Figures): Figures => ({
      exec: beside_.exec / idle.exec,
      kill: beside_.kill / idle.kill,
    });
    const [theirLoud, loud, full] = [
      growth(theirs.loud, theirs.idle),
      growth(ours.loud, ours.idle),
      growth(ours.full, ours.idle),
    ];
    expect(full.exec).toBeLessThan(GROWTH);
    // Printing takes the processor too: where the peer, with a process per container, slows by more, so may we.
    expect(loud.exec).toBeLessThan(Math.max(GROWTH, theirLoud.exec));
  },
  LIMIT_MS,
);
