// Stopped shims: 3 of 10 with one container each, and 3 of 10 shared ones with several each, must not be felt by anybody who has to do
// with the others. They are stopped and go on again and again, and calls are timed in both situations: what else the machine does hits
// both.
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, type Client, connectClient } from "@stevedore/sdk";
import { LANE_MS, settle, shims, taskLeftovers } from "../crash/leftovers.ts";
import { Clones } from "../harness/clones.ts";
import { Daemon } from "../harness/daemon.ts";
import { eachOf } from "../harness/gate.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { type Cycle, compareP99, execAndKill, quantile, Samples, told, tooSlow } from "./figures.ts";

const SHIMS = 10;
const STOPPED = 3;
/** Containers of a shared shim, when there is time for them. */
const MOST_SHARED = 10;
const FEWEST_SHARED = 2;
/** Containers that are made side by side. */
const AT_ONCE = 4;
/** The daemon's limit for a state, the peer's default: what waits for a stopped shim takes as long. */
const STATE_LIMIT_MS = 2_000;
/** What the p99 of a call may be beside stopped shims, as a factor of its usual one in the same minute. */
const TOLERANCE = 1.25;
/** Two p99 of less than this differ by chance. */
const LEAST_MS = 10;
/** How long calls are timed before the shims are stopped, or go on, at least and usually; and how often that is at least. */
const FEWEST_ROUNDS = 3;
const PHASE_MS = 1_000;
const FEWEST_CYCLES = 4;
/** A container is made, started, killed and deleted once in so many rounds: that takes longer than all other calls together. */
const MAKING_EACH = 4;

const ISOLATED = { "stevedore.isolated": "true" };

/** A shim, by what it serves. */
interface Place {
  readonly namespace: string;
  readonly ids: readonly string[];
}

interface World extends AsyncDisposable {
  readonly daemon: Daemon;
  readonly client: Client;
  readonly places: readonly Place[];
  /** By namespace. */
  readonly clones: ReadonlyMap<string, Clones>;
  readonly isolated: boolean;
}

/** A daemon with ten shims: of one container each in one namespace, or of several in a namespace each. */
async function worldOf(kind: "isolated" | "shared", limitMs: number): Promise<World> {
  const daemon = await Daemon.start({ maker: "ours" });
  try {
    return await fill(daemon, kind, limitMs);
  } catch (error) {
    await daemon.close();
    throw error;
  }
}

async function fill(daemon: Daemon, kind: "isolated" | "shared", limitMs: number): Promise<World> {
  const began = performance.now();
  const client = connectClient({ address: daemon.address });
  const prefix = `stvstop${process.pid}-${Date.now()}`;
  const must = async (namespace: string, ...args: string[]): Promise<void> => {
    const ran = await daemon.ctr("ours", namespace, args, { timeoutMs: 60_000 });
    if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
  };
  const archive = join(daemon.dir, "image.tar");
  await writeFile(archive, await ociArchive());
  const isolated = kind === "isolated";
  const namespaces = isolated ? [prefix] : Array.from({ length: SHIMS }, (_, index) => `${prefix}-${index}`);
  const clones = new Map<string, Clones>();
  const made = namespaces.map(() => new Array<string>());
  await eachOf(namespaces.length, AT_ONCE, async (index) => {
    const namespace = namespaces[index] ?? "";
    daemon.use(namespace);
    await must(namespace, "images", "import", archive);
    await must(namespace, "containers", "create", IMAGE, "pattern", "sleep", "100000");
    clones.set(namespace, await Clones.of(client, namespace, "pattern"));
  });
  const add = async (index: number, id: string): Promise<void> => {
    const of = clones.get(namespaces[index] ?? "");
    await of?.make(id, isolated ? { labels: ISOLATED } : {});
    await of?.create(id);
    await of?.start(id);
    made[index]?.push(id);
  };
  if (isolated) await eachOf(SHIMS, AT_ONCE, async (index) => add(0, `c${index}`));
  // In turns, so that all have as many when the time is over.
  else
    for (let turn = 0; turn < MOST_SHARED; turn += 1) {
      if (turn >= FEWEST_SHARED && performance.now() - began > limitMs) break;
      await eachOf(namespaces.length, AT_ONCE, async (index) => add(index, `c${turn}`));
    }
  const places = isolated
    ? (made[0] ?? []).toSorted().map((id) => ({ namespace: prefix, ids: [id] }))
    : namespaces.map((namespace, index) => ({ namespace, ids: made[index] ?? [] }));
  return {
    daemon,
    client,
    places,
    clones,
    isolated,
    [Symbol.asyncDispose]: async () => {
      try {
        for (const of of clones.values()) {
          await eachOf(of.ids.length, AT_ONCE, async (index) => {
            const id = of.ids.toSorted()[index] ?? "";
            await of.kill(id);
            await of.delete(id);
          });
        }
        const left = await settle(async () =>
          (await Promise.all(namespaces.map((namespace) => taskLeftovers(daemon, namespace)))).flat(),
        );
        expect(left).toEqual([]);
        for (const of of clones.values()) for (const id of of.ids.toSorted()) await of.remove(id);
      } finally {
        await client[Symbol.asyncDispose]();
        await daemon.close();
      }
    },
  };
}

/** The process that serves a container: its init's parent. */
async function shimOf({ daemon, client }: World, { namespace, ids: [id = ""] }: Place): Promise<number> {
  const { pid } = await client.tasks.get(backgroundContext({ namespace }), { containerId: id, execId: "" });
  const status = await Bun.file(`/proc/${pid}/status`).text();
  const shim = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]);
  expect((await shims(daemon)).map((one) => one.pid)).toContain(shim);
  return shim;
}

/** Makes calls of somebody who has to do with some of the places, and lists of all namespaces. */
class Caller {
  readonly #world: World;
  readonly #places: readonly Place[];
  readonly #namespaces: readonly (readonly [string, readonly Place[]])[];
  #round = 0;

  constructor(world: World, places: readonly Place[]) {
    this.#world = world;
    this.#places = places;
    this.#namespaces = [...Map.groupBy(world.places, ({ namespace }) => namespace)];
  }

  /** Times calls for a while. */
  async callFor(ms: number): Promise<Samples> {
    const samples = new Samples();
    const end = performance.now() + ms;
    for (let round = 0; round < FEWEST_ROUNDS || performance.now() < end; round += 1) await this.#call(samples);
    return samples;
  }

  async #call(samples: Samples): Promise<void> {
    const { client } = this.#world;
    const round = this.#round;
    this.#round += 1;
    const { namespace, ids } = this.#places[round % this.#places.length] ?? { namespace: "", ids: [] };
    const id = ids[round % ids.length] ?? "";
    const context = backgroundContext({ namespace });
    await execAndKill(client, samples, { namespace, id, round });
    for (let times = 0; times < 2; times += 1) {
      await samples.time("get", () => client.tasks.get(context, { containerId: id, execId: "" }));
      await samples.time("version", () => client.version(context));
    }
    const [listed = "", those = []] = this.#namespaces[round % this.#namespaces.length] ?? [];
    await samples.time("list", async () => {
      const states = await client.tasks.list(backgroundContext({ namespace: listed }));
      expect(states.map(({ containerId, status }) => `${containerId} ${status}`).toSorted()).toEqual(
        those.flatMap((place) => place.ids.map((one) => `${one} running`)).toSorted(),
      );
    });
    if (round % MAKING_EACH === 0) await this.#make(samples, namespace);
  }

  async #make(samples: Samples, namespace: string): Promise<void> {
    const { clones, isolated } = this.#world;
    const of = clones.get(namespace);
    if (of === undefined) throw new Error(`no container to clone in ${namespace}`);
    const id = `made${this.#round}`;
    await of.make(id, isolated ? { labels: ISOLATED } : {});
    await samples.time("create", async () => of.create(id));
    await samples.time("start", async () => of.start(id));
    expect(await of.kill(id)).toBe(137);
    await samples.time("delete", async () => of.delete(id));
    await of.remove(id);
  }
}

function signalAll(pids: readonly number[], signal: "SIGSTOP" | "SIGCONT"): void {
  for (const pid of pids) process.kill(pid, signal);
}

for (const kind of ["isolated", "shared"] as const) {
  test(
    `F31: ${STOPPED} of ${SHIMS} ${kind} shims are stopped, and nobody else feels it`,
    async () => {
      const share = LANE_MS / 2;
      const end = performance.now() + share * 0.85;
      await using world = await worldOf(kind, share * 0.35);
      const { places } = world;
      const caller = new Caller(world, places.slice(STOPPED));
      await caller.callFor(0); // loads what calls need
      const stopped = await Promise.all(places.slice(0, STOPPED).map(async (place) => shimOf(world, place)));
      const first = new Samples();
      const hit = new Set(places.slice(0, STOPPED).map(({ namespace }) => namespace));
      const lists = async (what: string): Promise<void> => {
        for (const namespace of hit)
          await first.time(what, async () => world.client.tasks.list(backgroundContext({ namespace })));
      };
      const beside = async (): Promise<Samples> => {
        signalAll(stopped, "SIGSTOP");
        try {
          // These find out; what they are held up by is looked at by itself.
          await lists("first list");
          return await caller.callFor(PHASE_MS);
        } finally {
          signalAll(stopped, "SIGCONT");
        }
      };
      const usual = async (): Promise<Samples> => {
        await lists("usual list");
        return caller.callFor(PHASE_MS);
      };
      const cycles: Cycle[] = [];
      // By turns one situation comes first, so that a machine that becomes slower does not speak for one of them.
      while (cycles.length < FEWEST_CYCLES || performance.now() < end) {
        if (cycles.length % 2 === 0) cycles.push({ usual: await usual(), beside: await beside() });
        else {
          const now = await beside();
          cycles.push({ usual: await usual(), beside: now });
        }
      }
      const all = (side: keyof Cycle): Samples => cycles.reduce((sum, cycle) => sum.merge(cycle[side]), new Samples());
      const comparisons = all("usual").names.map((what) =>
        compareP99(cycles, what, { factor: TOLERANCE, leastMs: LEAST_MS }),
      );
      const sizes = places.map(({ ids }) => ids.length).join(" ");
      process.stdout.write(`${kind}, containers ${sizes}, ${cycles.length} cycles\n  idle: ${String(all("usual"))}\n`);
      process.stdout.write(`  ${STOPPED} stopped: ${String(all("beside"))}; ${String(first)}\n`);
      process.stdout.write(`    ${told(comparisons)}\n`);
      expect(tooSlow(comparisons)).toEqual([]);
      // Nor do lists that meet a shim which has just been stopped wait for the limit.
      const middle = (what: string): number => quantile(first.of(what), 0.5);
      expect(middle("first list") - middle("usual list")).toBeLessThan(STATE_LIMIT_MS / 2);
      // They go on as if nothing had been.
      await new Caller(world, places).callFor(0);
    },
    LANE_MS + 500_000,
  );
}
