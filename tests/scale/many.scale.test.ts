// As many containers as there is time for, up to a thousand: started, listed, killed and deleted, with what a call takes and what the
// processes hold beside so many. The peer is asked first, with a part of the time; it has a shim for each.
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, type Client, connectClient } from "@stevedore/sdk";
import { LANE_MS, settle, shims, taskLeftovers } from "../crash/leftovers.ts";
import { Clones } from "../harness/clones.ts";
import { Daemon, type Maker, processesNaming } from "../harness/daemon.ts";
import { eachOf } from "../harness/gate.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { eventually } from "../harness/process.ts";
import { heldBy } from "../soak/held.ts";
import { Samples } from "./figures.ts";

const MOST = 1_000;
/** Containers between two looks at what the processes hold. */
const STEP = 100;
const AT_ONCE = 8;
/** Lists and states that are timed at each look. */
const LISTS = 10;
/** Parts of a maker's time in which containers are started; the rest is for their ends. */
const STARTING = 0.45;
/** Of the peer, of the whole time. */
const PEER = 0.3;
/** From so many containers on the memory of each is compared: before that it is the daemon's own. */
const COMPARABLE = 50;
/** Descriptors that connections of clients may still hold when all containers are gone, and those to each shim that is kept for the next. */
const SPARE_DESCRIPTORS = 8;
const DESCRIPTORS_OF_SHIM = 4;
const SIGKILLED = 137;

interface Look {
  readonly count: number;
  readonly descriptors: { readonly daemon: number; readonly shims: number };
  /** Private memory in KiB: the daemon's, and that of its shims and keeper. */
  readonly kibibytes: { readonly daemon: number; readonly shims: number };
  readonly shims: number;
  readonly calls: string;
}

async function lookAt(daemon: Daemon, client: Client, clones: Clones, ids: readonly string[]): Promise<Look> {
  const context = backgroundContext({ namespace: clones.namespace });
  const calls = new Samples();
  for (let round = 0; round < LISTS; round += 1) {
    await calls.time("list", async () => {
      const states = await client.tasks.list(context);
      // The peer's lists leave the container's own field empty.
      const found = states.map(({ id, status }) => `${id} ${status}`).toSorted();
      expect(found).toEqual(ids.map((id) => `${id} running`).toSorted());
    });
    const containerId = ids[Math.floor((round / LISTS) * ids.length)];
    if (containerId !== undefined)
      await calls.time("get", () => client.tasks.get(context, { containerId, execId: "" }));
  }
  const others = (await processesNaming(daemon.dir)).filter(
    ({ pid, command }) => pid !== daemon.pid && isOurs(command),
  );
  // One that is just ending holds nothing any more.
  const held = await Promise.all(others.map(({ pid }) => heldBy(pid).catch(() => ({ descriptors: 0, kibibytes: 0 }))));
  const own = await heldBy(daemon.pid);
  const sum = (of: (one: (typeof held)[number]) => number): number => held.reduce((all, one) => all + of(one), 0);
  const look = {
    count: ids.length,
    descriptors: { daemon: own.descriptors, shims: sum(({ descriptors }) => descriptors) },
    kibibytes: { daemon: own.kibibytes, shims: sum(({ kibibytes }) => kibibytes) },
    shims: (await shims(daemon)).length,
    calls: String(calls),
  };
  process.stdout.write(`${daemon.maker} ${JSON.stringify(look)}\n`);
  return look;
}

function isOurs(command: string): boolean {
  return command.includes("containerd-shim") || command.includes(" keeper -address ");
}

/** @returns KiB a container, with how many there were. */
async function many(maker: Maker, limitMs: number): Promise<{ readonly count: number; readonly each: number }> {
  const namespace = `stvmany${process.pid}-${maker}`;
  await using daemon = await Daemon.start({ maker });
  daemon.use(namespace);
  const must = async (...args: string[]): Promise<string> => {
    const ran = await daemon.ctr(maker, namespace, args, { timeoutMs: 120_000 });
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
    return ran.stdout;
  };
  const archive = join(daemon.dir, "image.tar");
  await writeFile(archive, await ociArchive());
  await must("images", "import", archive);
  await must("containers", "create", IMAGE, "pattern", "sleep", "100000");
  await using client = connectClient({ address: daemon.address });
  const context = backgroundContext({ namespace });
  const clones = await Clones.of(client, namespace, "pattern");
  const id = (index: number): string => `c${String(index).padStart(4, "0")}`;
  const before = await lookAt(daemon, client, clones, []);

  const began = performance.now();
  const calls = new Samples();
  const ids: string[] = [];
  let last = before;
  while (ids.length < MOST && (ids.length === 0 || performance.now() - began < limitMs * STARTING)) {
    const from = ids.length;
    await eachOf(STEP, AT_ONCE, async (index) => {
      if (index >= AT_ONCE && performance.now() - began > limitMs * STARTING) return;
      const containerId = id(from + index);
      await calls.time("start", async () => {
        await clones.make(containerId);
        await clones.create(containerId);
        await clones.start(containerId);
      });
      ids.push(containerId);
    });
    last = await lookAt(daemon, client, clones, ids);
  }
  const started = performance.now() - began;
  await calls.time("ctr tasks ls", async () => {
    expect((await must("tasks", "ls")).match(/ RUNNING/g)?.length).toBe(ids.length);
  });

  const codes: number[] = [];
  const killing = performance.now();
  await eachOf(ids.length, AT_ONCE, async (index) => {
    await calls.time("kill and wait", async () => codes.push(await clones.kill(ids[index] ?? "")));
  });
  const killed = performance.now() - killing;
  expect(codes).toEqual(ids.map(() => SIGKILLED));
  await eventually("all to be stopped", async () => {
    const states = await client.tasks.list(context);
    return states.length === ids.length && states.every(({ status }) => status === "stopped") ? true : undefined;
  });
  await eachOf(ids.length, AT_ONCE, async (index) => {
    await calls.time("delete", () => clones.delete(ids[index] ?? ""));
  });
  expect(await client.tasks.list(context)).toEqual([]);
  await calls.time("remove and collect", () => clones.removeAll(AT_ONCE));
  const seconds = (ms: number): string => (ms / 1_000).toFixed(1);
  process.stdout.write(
    `${maker}: ${ids.length} containers, started in ${seconds(started)} s, killed in ${seconds(killed)} s; ${String(calls)}\n`,
  );
  expect(await settle(() => taskLeftovers(daemon, namespace))).toEqual([]);
  const after = await lookAt(daemon, client, clones, []);
  const spare = SPARE_DESCRIPTORS + DESCRIPTORS_OF_SHIM * after.shims;
  expect(after.descriptors.daemon).toBeLessThan(before.descriptors.daemon + spare);
  const total = ({ kibibytes }: Look): number => kibibytes.daemon + kibibytes.shims;
  return { count: ids.length, each: (total(last) - total(before)) / ids.length };
}

test(
  "R04: a thousand containers are started, listed, killed and deleted, with what calls take and what is held beside them",
  async () => {
    const theirs = await many("debian", LANE_MS * PEER);
    const ours = await many("ours", LANE_MS * (1 - PEER));
    for (const [maker, { count, each }] of Object.entries({ debian: theirs, ours }))
      process.stdout.write(`${maker}: ${(each / 1_024).toFixed(2)} MiB for each of ${count} containers\n`);
    if (Math.min(theirs.count, ours.count) >= COMPARABLE) expect(ours.each).toBeLessThan(theirs.each);
  },
  LANE_MS + 500_000,
);
