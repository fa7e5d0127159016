// 10,000 failed execs, attaches and resizes leave nothing in the daemon, the shim and the keeper; fewer when the lane's time is too short.
import { expect, test } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, connectClient } from "@stevedore/sdk";
import { shimDebugSockets } from "@stevedore/sdk/local/shim-sockets";
import { LANE_MS } from "../crash/leftovers.ts";
import { Clones } from "../harness/clones.ts";
import { Daemon, processesNaming } from "../harness/daemon.ts";
import { eachOf } from "../harness/gate.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { execAndKill, Samples } from "../scale/figures.ts";
import { failOften, quiet } from "./failed-execs.ts";
import { type Held, heldAfterCollection, heldBy, lastHalf, slope } from "./held.ts";

const MOST = 10_000;
/** Rounds between looks at the clock; beside so many that fail, a few execs run well: what is kept of an end must go too. */
const STEP = 48;
const GOOD = 12;
const WORKERS = 8;
/** Events that a daemon keeps in memory for those who read them. */
const KEPT_EVENTS = 1_100;
/** So often the processes are looked at, of the whole run. */
const LOOKS = 24;

/**
 * What a figure may grow by in the last half of the rounds: by so much a round, the smallest leak that could be meant, or by so much in
 * all, which an allocator keeps or gives back as it likes; after few rounds that is all that can be said.
 */
interface Growth {
  readonly each: number;
  readonly inAll: number;
}

const GROWTH = {
  descriptors: { each: 0.001, inAll: 2 },
  threads: { each: 0.001, inAll: 2 },
  kibibytes: { each: 0.25, inAll: 6_144 },
  heapKib: { each: 0.1, inAll: 1_024 },
  objects: { each: 0.5, inAll: 5_000 },
} as const satisfies Readonly<Record<keyof Held, Growth>>;

const FIGURES = [
  "descriptors",
  "threads",
  "kibibytes",
  "heapKib",
  "objects",
] as const satisfies readonly (keyof Held)[];

/** Who is looked at. */
const WHO = ["daemon", "shim", "keeper"] as const;

type Look = { readonly at: number } & Readonly<Record<(typeof WHO)[number], Held>>;

test(
  "F34: ten thousand failed execs, attaches and resizes leave no descriptor, thread, object or memory",
  async () => {
    // A daemon that says debug serves its collector, and so do its shims.
    const config = '[debug]\n  level = "debug"\n  address = "@dir@/debug.sock"\n';
    await using daemon = await Daemon.start({ maker: "ours", config });
    const namespace = `stvscale${process.pid}`;
    const archive = join(daemon.dir, "image.tar");
    await writeFile(archive, await ociArchive());
    const must = async (...args: string[]): Promise<string> => {
      const ran = await daemon.ctr("ours", namespace, args, { timeoutMs: 60_000 });
      if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
      return ran.stdout;
    };
    await must("images", "import", archive);
    await must("containers", "create", IMAGE, "pattern", "sleep", "100000");
    await using client = connectClient({ address: daemon.address });
    const clones = await Clones.of(client, namespace, "pattern");
    await clones.make("c");
    await clones.create("c");
    await clones.start("c");
    const init = /^c\s+(\d+)/m.exec(await must("tasks", "ls"))?.[1] ?? "";
    const shim = Number(/^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${init}/status`, "utf8"))?.[1]);
    const keeper = (await processesNaming(daemon.dir)).find(({ command }) => command.includes(" keeper "))?.pid ?? 0;
    const name = { id: "c", address: join(daemon.state, "s/shim"), daemonAddress: daemon.address, namespace };
    const sockets = shimDebugSockets(name);
    const exists = await Promise.all(
      sockets.map(async (path) =>
        Bun.file(path)
          .stat()
          .catch(() => undefined),
      ),
    );
    const shimDebug = sockets.find((_, index) => exists[index] !== undefined) ?? "";

    const look = async (at: number): Promise<Look> => {
      const held = {
        at,
        daemon: await heldAfterCollection(daemon.pid, join(daemon.dir, "debug.sock")),
        shim: await heldAfterCollection(shim, shimDebug),
        keeper: await heldBy(keeper),
      };
      process.stdout.write(`${JSON.stringify(held)}\n`);
      return held;
    };
    // The daemon has the last thousand events in memory, which are to be there when the first look is taken.
    const event = { typeUrl: "stevedore.test/filler", value: new Uint8Array(64) };
    await eachOf(KEPT_EVENTS, WORKERS, async () =>
      client.events.publish(backgroundContext({ namespace }), "/stevedore/filler", event),
    );
    const began = performance.now();
    const looks = [await look(0)];
    const samples = new Samples();
    let done = 0;
    /** The part of the run that is over, by rounds or by time. */
    const over = (): number => Math.max(done / MOST, (performance.now() - began) / (LANE_MS * 0.9));
    while (over() < 1) {
      await failOften({ address: daemon.address, namespace, containerId: "c", rounds: STEP, prefix: `f${done}-` });
      await eachOf(GOOD, WORKERS, async (index) =>
        execAndKill(client, samples, { namespace, id: "c", round: done + index }),
      );
      done += STEP;
      if (over() >= looks.length / LOOKS) looks.push(await look(done));
    }
    const last = await look(done);
    looks.push(last);

    const half = lastHalf(looks);
    const rounds = done - (half[0]?.at ?? 0);
    const grown: string[] = [];
    const told: string[] = [];
    for (const who of WHO) {
      for (const figure of FIGURES) {
        const points = half.flatMap((one) => {
          const value = one[who][figure];
          return value === undefined ? [] : [{ at: one.at, value }];
        });
        if (points.length === 0) continue;
        const each = slope(points);
        const { each: mayEach, inAll } = GROWTH[figure];
        const line = `${who} ${figure} ${(each * 1_000).toFixed(1)} for each 1,000 rounds`;
        told.push(line);
        if (each > Math.max(mayEach, inAll / rounds)) grown.push(line);
      }
    }
    process.stdout.write(`${done} rounds; in the last ${rounds}: ${told.join(", ")}\n`);
    expect(grown).toEqual([]);
    // When all is quiet, no more descriptors and threads than before the last half.
    const before = half[0] ?? last;
    await quiet(daemon.pid, before.daemon);
    await quiet(shim, before.shim);
    await quiet(keeper, before.keeper);
    expect(await must("tasks", "exec", "--exec-id", "last", "c", "echo", "still there")).toBe("still there\n");
    await clones.kill("c");
    await clones.delete("c");
    await clones.remove("c");
  },
  LANE_MS + 300_000,
);
