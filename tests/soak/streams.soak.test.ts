// Streams that stay open for as long as the lane runs, with traffic beside them: nothing is lost and memory stays.
import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LANE_MS, settle, shims, taskLeftovers } from "../crash/leftovers.ts";
import { Daemon, type Maker } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { eventually } from "../harness/process.ts";

/** The lane ends within its minutes: this much is for the beginning and the end. */
const REST_MS = 20_000;
/** What the containers and daemons of a busy machine may take besides. */
const LIMIT_MS = 300_000;
/** Growth that a garbage collector's moods explain, MiB of memory of its own. */
const DAEMON_GROWTH_MIB = 48;
const SHIM_GROWTH_MIB = 24;
/** Streams of each kind. */
const STREAMS = 4;

/** Private memory of a process in MiB: what is its alone, so that files mapped by others do not count. */
async function privateMib(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  const of = (key: string): number => Number(RegExp(`^${key}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return (of("Private_Clean") + of("Private_Dirty")) / 1024;
}

test(
  "N05 O03: streams of events and waits stay open under traffic, lose nothing and hold memory",
  async () => {
    const end = performance.now() + Math.max(10_000, LANE_MS - REST_MS);
    const namespace = `stvsoak${process.pid}-${Date.now()}`;
    await using daemon = await Daemon.start({ maker: "ours" });
    daemon.use(namespace);
    const must = async (who: Maker, ...args: string[]): Promise<string> => {
      const ran = await daemon.ctr(who, namespace, args, { timeoutMs: 60_000 });
      if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
      return ran.stdout;
    };
    const archive = join(daemon.dir, "image.tar");
    await writeFile(archive, await ociArchive());
    await must("ours", "images", "import", archive);

    // A task that outlives the lane, with clients of both kinds that wait for its end (Tasks.Wait), one for its output.
    await must("ours", "run", "-d", IMAGE, "waited", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done");
    const makers: readonly Maker[] = Array.from({ length: STREAMS }, (_, index) =>
      index % 2 === 0 ? "ours" : "debian",
    );
    const waiters = makers.map((maker) => daemon.startCtr(maker, namespace, ["tasks", "attach", "waited"]));
    const listeners = makers.map((maker) => daemon.startCtr(maker, namespace, ["events"]));

    // Each event is counted by its container's name; the first ones are repeated until all streams are there.
    let counter = 0;
    const label = async (): Promise<string> => {
      counter += 1;
      const value = `tick-${counter}-end`;
      await must("ours", "containers", "label", "waited", `tick=${value}`);
      return value;
    };
    await eventually(
      "all event streams to be open",
      async () => {
        const value = await label();
        await Bun.sleep(100);
        return listeners.every((one) => one.stdout().includes(value)) ? true : undefined;
      },
      30_000,
    );

    const told: string[] = [];
    let rounds = 0;
    let memory: { readonly daemon: number; readonly shim: number } | undefined;
    const measure = async (): Promise<{ daemon: number; shim: number }> => {
      const all = await Promise.all((await shims(daemon)).map(async ({ pid }) => privateMib(pid)));
      if (all.length === 0) throw new Error("there is no shim");
      return { daemon: await privateMib(daemon.pid), shim: all.reduce((sum, one) => sum + one, 0) };
    };
    const warmUntil = performance.now() + (end - performance.now()) / 4;
    do {
      rounds += 1;
      const id = `c${rounds}`;
      told.push(await label());
      await must(rounds % 4 === 0 ? "debian" : "ours", "run", "--rm", IMAGE, id, "true");
      await must("ours", "tasks", "exec", "--exec-id", `e${rounds}`, "waited", "echo", "out");
      const bytes = String(rounds).padEnd(200_000, "x");
      const ingested = await daemon.ctr("ours", namespace, ["content", "ingest", `r${rounds}`], { stdin: bytes });
      expect(ingested.stderr).toBe("");
      await must("ours", "content", "rm", `sha256:${createHash("sha256").update(bytes).digest("hex")}`);
      if (rounds % 20 === 0) await must("ours", "images", "import", archive);
      // What caches and the collector take, they have taken in the first quarter.
      if (memory === undefined && performance.now() > warmUntil) memory = await measure();
    } while (performance.now() < end);

    const after = await measure();
    const before = memory ?? after;
    const megabytes = (value: number): string => value.toFixed(1);
    process.stdout.write(
      `${rounds} rounds; MiB of the daemon ${megabytes(before.daemon)} -> ${megabytes(after.daemon)}, of the shims ${megabytes(before.shim)} -> ${megabytes(after.shim)}\n`,
    );
    for (const one of [...waiters, ...listeners]) expect(await Promise.race([one.exited, "open"])).toBe("open");
    const lastId = `c${rounds}`;
    for (const one of listeners) {
      await eventually(
        "the last event",
        () => (one.stdout().includes(`/tasks/delete {"container_id":"${lastId}"`) ? true : undefined),
        10_000,
      );
      const seen = Seen.in(one.stdout());
      expect(told.filter((value) => seen.times(value) !== 1)).toEqual([]);
      const lost: string[] = [];
      for (let round = 1; round <= rounds; round += 1) {
        for (const topic of ["create", "start", "exit", "delete"])
          if (seen.times(`/tasks/${topic} c${round}`) !== 1) lost.push(`/tasks/${topic} of c${round}`);
        if (seen.times(`/tasks/exec-started waited e${round}`) !== 1) lost.push(`exec ${round}`);
      }
      expect(lost).toEqual([]);
    }
    expect(after.daemon - before.daemon).toBeLessThan(DAEMON_GROWTH_MIB);
    expect(after.shim - before.shim).toBeLessThan(SHIM_GROWTH_MIB);

    await must("ours", "tasks", "kill", "-s", "SIGTERM", "waited");
    expect(await Promise.all(waiters.map((one) => one.exited))).toEqual(waiters.map(() => 7));
    for (const one of listeners) await one.stop("SIGKILL");
    await daemon.clear(namespace);
    expect(await settle(() => taskLeftovers(daemon, namespace))).toEqual([]);
  },
  LANE_MS + LIMIT_MS,
);

/**
 * What `ctr events` printed, counted in one pass (an hour has tens of thousands of lines): a task event by
 * `topic container [exec]`, a label that a round set by its value.
 */
class Seen {
  readonly #times = new Map<string, number>();

  static in(text: string): Seen {
    const seen = new Seen();
    for (const line of text.split("\n")) {
      const topic = / (\/tasks\/[a-z-]+) /.exec(line)?.[1];
      const container = /"container_id":"([^"]*)"/.exec(line)?.[1];
      if (topic !== undefined && container !== undefined) {
        const exec = topic.startsWith("/tasks/exec-") ? /"exec_id":"([^"]*)"/.exec(line)?.[1] : undefined;
        seen.#add([topic, container, ...(exec === undefined ? [] : [exec])].join(" "));
      }
      for (const [tick] of line.matchAll(/tick-\d+-end/g)) seen.#add(tick);
    }
    return seen;
  }

  times(what: string): number {
    return this.#times.get(what) ?? 0;
  }

  #add(what: string): void {
    this.#times.set(what, this.times(what) + 1);
  }
}
