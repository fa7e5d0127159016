// Stopped shims: 3 of 10 with one container each, and 3 of 10 shared ones with several each, must not be felt by anybody who has to do
// with the others.
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, connectClient } from "@stevedore/sdk";
import { LANE_MS, settle, shims, taskLeftovers } from "../crash/leftovers.ts";
import { Daemon } from "../harness/daemon.ts";
import { eachOf } from "../harness/gate.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { execAndKill, quantile, Samples } from "./figures.ts";

const SHIMS = 10;
const STOPPED = 3;
/** Containers of a shared shim, when there is time for them. */
const MOST_SHARED = 10;
const FEWEST_SHARED = 2;
/** Containers that are made side by side. */
const AT_ONCE = 4;
/** The daemon's limit for a state, the peer's default: what waits for a stopped shim takes as long. */
const STATE_LIMIT_MS = 2_000;
/** What the median of a call may be, as a factor of its usual p99: the machine itself may be slower than it was a minute ago. */
const GROWTH = 2;
/** Two medians of less than this differ by chance. */
const LEAST_MS = 5;
const FEWEST_ROUNDS = 20;
const MOST_ROUNDS = 400;

interface Place {
  readonly namespace: string;
  readonly ids: readonly string[];
}

interface World extends AsyncDisposable {
  readonly daemon: Daemon;
  readonly places: readonly Place[];
}

/** A daemon with ten shims: of one container each in one namespace, or of several in a namespace each. */
async function worldOf(kind: "isolated" | "shared", limitMs: number): Promise<World> {
  const began = performance.now();
  const daemon = await Daemon.start({ maker: "ours" });
  const prefix = `stvstop${process.pid}-${Date.now()}`;
  const must = async (namespace: string, ...args: string[]): Promise<void> => {
    const ran = await daemon.ctr("ours", namespace, args, { timeoutMs: 60_000 });
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
  };
  const archive = join(daemon.dir, "image.tar");
  await writeFile(archive, await ociArchive());
  const namespaces = kind === "isolated" ? [prefix] : Array.from({ length: SHIMS }, (_, index) => `${prefix}-${index}`);
  for (const namespace of namespaces) {
    daemon.use(namespace);
    await must(namespace, "images", "import", archive);
  }
  const flags = ["-d", "--null-io", ...(kind === "isolated" ? ["--label", "stevedore.isolated=true"] : [])];
  const made = namespaces.map(() => new Array<string>());
  const each = kind === "isolated" ? SHIMS : MOST_SHARED;
  // In turns, so that all have as many when the time is over.
  for (let turn = 0; turn < each; turn += 1) {
    if (kind === "shared" && turn >= FEWEST_SHARED && performance.now() - began > limitMs) break;
    await eachOf(namespaces.length, AT_ONCE, async (index) => {
      const id = `c${turn}`;
      await must(namespaces[index] ?? "", "run", ...flags, IMAGE, id, "sleep", "100000");
      made[index]?.push(id);
    });
  }
  const places =
    kind === "isolated"
      ? (made[0] ?? []).map((id) => ({ namespace: prefix, ids: [id] }))
      : namespaces.map((namespace, index) => ({ namespace, ids: made[index] ?? [] }));
  return {
    daemon,
    places,
    [Symbol.asyncDispose]: async () => {
      for (const namespace of namespaces) await daemon.clear(namespace);
      const left = await settle(async () =>
        (await Promise.all(namespaces.map((namespace) => taskLeftovers(daemon, namespace)))).flat(),
      );
      await daemon.close();
      expect(left).toEqual([]);
    },
  };
}

/** The process that serves a container: its init's parent. */
async function shimOf(daemon: Daemon, { namespace, ids: [id = ""] }: Place): Promise<number> {
  await using client = connectClient({ address: daemon.address });
  const { pid } = await client.tasks.get(backgroundContext({ namespace }), { containerId: id, execId: "" });
  const status = await Bun.file(`/proc/${pid}/status`).text();
  const shim = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]);
  expect((await shims(daemon)).map((one) => one.pid)).toContain(shim);
  return shim;
}

/** Calls of somebody who has to do with the first of `places`; lists are of all namespaces. */
async function measure(world: World, places: readonly Place[], limitMs: number): Promise<Samples> {
  const { daemon } = world;
  const all = Map.groupBy(world.places, ({ namespace }) => namespace);
  await using client = connectClient({ address: daemon.address });
  const samples = new Samples();
  const end = performance.now() + limitMs;
  for (let round = 0; round < MOST_ROUNDS && (round < FEWEST_ROUNDS || performance.now() < end); round += 1) {
    const { namespace, ids } = places[round % places.length] ?? { namespace: "", ids: [] };
    const id = ids[round % ids.length] ?? "";
    const context = backgroundContext({ namespace });
    await execAndKill(client, samples, { namespace, id, round });
    await samples.time("get", () => client.tasks.get(context, { containerId: id, execId: "" }));
    await samples.time("version", () => client.version(context));
    const [listed = "", those = []] = [...all][round % all.size] ?? [];
    await samples.time("list", async () => {
      const states = await client.tasks.list(backgroundContext({ namespace: listed }));
      expect(states.map(({ containerId, status }) => `${containerId} ${status}`).toSorted()).toEqual(
        those.flatMap((place) => place.ids.map((one) => `${one} running`)).toSorted(),
      );
    });
  }
  return samples;
}

for (const kind of ["isolated", "shared"] as const) {
  test(
    `F31: ${STOPPED} of ${SHIMS} ${kind} shims are stopped, and nobody else feels it`,
    async () => {
      const share = LANE_MS / 2;
      await using world = await worldOf(kind, share * 0.3);
      const { daemon, places } = world;
      const others = places.slice(STOPPED);
      await measure(world, others, 0); // loads what calls need
      const idle = await measure(world, others, share * 0.2);
      const stopped = await Promise.all(places.slice(0, STOPPED).map((place) => shimOf(daemon, place)));
      const first = new Samples();
      let beside: Samples;
      for (const pid of stopped) process.kill(pid, "SIGSTOP");
      try {
        await using client = connectClient({ address: daemon.address });
        // Of each namespace one list waits, and finds out.
        for (const namespace of new Set(places.map((place) => place.namespace)))
          await first.time("first list", () => client.tasks.list(backgroundContext({ namespace })));
        beside = await measure(world, others, share * 0.2);
      } finally {
        for (const pid of stopped) process.kill(pid, "SIGCONT");
      }
      const sizes = places.map(({ ids }) => ids.length).join(" ");
      process.stdout.write(`${kind}, containers ${sizes}\n  idle: ${String(idle)}\n`);
      process.stdout.write(`  ${STOPPED} stopped: ${String(beside)}; ${String(first)}\n`);
      for (const what of beside.names) {
        const [before, after] = [quantile(idle.of(what), 0.99), quantile(beside.of(what), 0.5)];
        expect([what, after < Math.max(before * GROWTH, LEAST_MS)]).toEqual([what, true]);
        expect([what, beside.of(what).filter((ms) => ms >= STATE_LIMIT_MS)]).toEqual([what, []]);
      }
      // They go on as if nothing had been.
      await measure(world, places, 0);
    },
    LANE_MS + 600_000,
  );
}
