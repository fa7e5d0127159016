// The daemon is killed again and again while clients go on making and removing containers, so that each new one recovers under
// load. (tests/crash has the long forms: what was acknowledged on a full disk, and named phases of a container's life.)
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { randomFrom, removeOfClients, SEED, settle, taskLeftovers } from "../crash/leftovers.ts";
import { eventually, type Result } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const KILLS = 8;
const WORKERS = 3;
/** A daemon is killed after so many of its clients' commands at most, and this much later at most. */
const MOST_COMMANDS = 12;
const LATER_MS = 300;
/** A client's command; one that finds no daemon waits for the next. */
const COMMAND_MS = 60_000;
/** One of so many containers is kept. */
const KEEP = 3;

/** What clients know of a container: whatever else happened to it, the daemon has said so. */
class Clients {
  readonly kept = new Set<string>();
  made = 0;
  done = 0;
  over = false;
  readonly refusals: string[] = [];
  readonly #t: Stage;
  readonly #image: string;

  constructor(t: Stage, image: string) {
    this.#t = t;
    this.#image = image;
  }

  async #ctr(...args: string[]): Promise<Result> {
    const ran = await this.#t.ctrWith({ timeoutMs: COMMAND_MS }, ...args);
    this.done += 1;
    return ran;
  }

  /** Makes and removes containers one after the other until it is over. */
  async work(): Promise<void> {
    while (!this.over) await this.#life(this.#t.id(`c${++this.made}`), this.made % KEEP === 0);
  }

  /** A container's life by a client that tries again what a daemon's end has cut off. */
  async #life(id: string, keep: boolean): Promise<void> {
    const ran = await this.#ctr("run", "-d", "--null-io", this.#image, id, "sleep", "1000");
    if (ran.code === 0 && keep) {
      this.kept.add(id);
      return;
    }
    // Also what was cut off in the middle: nobody knows how far it came. A snapshot is made before its container, which may never have come.
    for (const command of [
      ["tasks", "rm", "--force"],
      ["containers", "rm"],
      ["snapshots", "rm"],
    ]) {
      for (;;) {
        const removed = await this.#ctr(...command, id);
        if (removed.code === 0 || removed.stderr.includes("not found")) break;
        this.refusals.push(`${command.join(" ")} ${id}: ${removed.stderr.trim()}`);
      }
    }
  }
}

/** Removes what clients of a killed daemon could not: their leases, which would end by themselves in a day. */
async function removeLeases(t: Stage): Promise<void> {
  for (const lease of (await t.must("leases", "ls", "-q")).split("\n").filter((line) => line !== ""))
    await t.must("leases", "rm", "--sync", lease);
}

/** What the daemon's log has about the containers that something was left of. */
async function tell(t: Stage, left: readonly string[], refusals: readonly string[]): Promise<void> {
  const ids = new Set(left.flatMap((line) => /\S+-c\d+$/.exec(line)?.[0].split("/").at(-1) ?? []));
  const about = (line: string): boolean =>
    [...ids].some((id) => RegExp(`${id}\\b`).test(line)) || line.includes("starting ");
  const told = [...(await t.daemon.log).split("\n"), "--- refusals", ...refusals].filter(about);
  for (const line of left) {
    const path = /^cgroup (.*)$/.exec(line)?.[1];
    if (path !== undefined) told.push(`${path}: ${await readFile(join(path, "cgroup.procs"), "utf8").catch(String)}`);
  }
  process.stderr.write(`${told.join("\n").slice(-20_000)}\n`);
}

row(
  "R06",
  "a loop of kills of the daemon during a load of creates and deletes: the state is consistent afterwards",
  {
    casts: ["ours", "our-daemon", "their-shim"],
    // The peer leaves shims, runtime states and cgroups of the creates that its kill cuts off.
    source: "Stevedore's own: docs/decisions/0198-creates-cut-off.md",
    ownDaemon: true,
    config: { ours: '[debug]\n  level = "debug"\n' },
    timeoutMs: 300_000,
  },
  async (t) => {
    const random = randomFrom(SEED);
    const image = await t.image();
    const clients = new Clients(t, image);
    const load = Promise.all(Array.from({ length: WORKERS }, () => clients.work()));
    for (let kills = 0; kills < KILLS; kills += 1) {
      const until = clients.done + 1 + Math.floor(random() * MOST_COMMANDS);
      await eventually("the clients to work", () => (clients.done >= until ? true : undefined), COMMAND_MS);
      await Bun.sleep(random() * LATER_MS);
      await t.daemon.stop("SIGKILL");
      await t.daemon.launch();
    }
    clients.over = true;
    await load;
    process.stdout.write(`${clients.made} containers over ${KILLS} kills, ${clients.kept.size} kept [${t.castName}]\n`);

    // Everything that was acknowledged is so, and nothing is there that was not.
    const lines = async (...args: string[]): Promise<string[]> =>
      (await t.must(...args)).split("\n").filter((line) => line !== "");
    const kept = [...clients.kept].toSorted();
    expect((await lines("containers", "ls", "-q")).toSorted()).toEqual(kept);
    const named = async (what: RegExp, ...args: string[]): Promise<string[]> =>
      (await lines(...args)).filter((line) => what.test(line.trimEnd())).map((line) => line.split(/\s+/)[0] ?? "");
    expect((await named(/\s\d+\s+RUNNING$/, "tasks", "ls")).toSorted()).toEqual(kept);
    expect((await named(/\bActive\b/, "snapshots", "ls")).toSorted()).toEqual(kept);
    expect(await t.must("images", "check")).toMatch(RegExp(`^${image}\\s.*\\bcomplete\\b`, "m"));
    // What is kept is reached, ends, and nothing is left.
    for (const id of kept) {
      const said = await t.ctr("tasks", "exec", "--exec-id", "after", id, "sh", "-c", "echo here; exit 5");
      expect(said).toEqual({ code: 5, stdout: "here\n", stderr: "" });
    }
    for (const id of kept) {
      await t.ctr("tasks", "rm", "--force", id);
      await t.must("containers", "rm", id);
    }
    expect(await lines("tasks", "ls", "-q")).toEqual([]);
    const left = await settle(() => taskLeftovers(t.daemon, t.namespace));
    if (left.length > 0) await tell(t, left, clients.refusals);
    expect(left).toEqual([]);
    expect((await lines("snapshots", "ls")).filter((line) => /\bActive\b/.test(line))).toEqual([]);
    await removeLeases(t);
    await removeOfClients(t.daemon);
  },
);
