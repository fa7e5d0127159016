// What becomes of a container when its shim dies: with an own shim for each and adoption off what the peer does, else another shim
// takes over and nobody sees a difference.
import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { shims } from "../crash/leftovers.ts";
import { PHASES, PhaseWorld, type Victim } from "../crash/phases.ts";
import { mountsBelow } from "../harness/daemon.ts";
import { eventually } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";

const ALL: readonly CastName[] = ["peer", "ours", "our-daemon", "our-ctr", "our-shim", "their-shim"];

/** The peer's way: one shim per container, and what is left of a dead one is cleaned up. */
const PEERS_WAY = {
  ours: '[plugins."io.containerd.shim.v1.manager".stevedore]\n  isolated = true\n  adopt = false\n',
};

async function statusOf(t: Stage, id: string): Promise<string> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return line?.trim().split(/\s+/)[2] ?? "gone";
}

/** Shims that serve, without the calls that start and delete them. */
async function serving(t: Stage): Promise<number[]> {
  const found = (await shims(t.daemon)).filter(
    ({ command }) => command.includes(t.namespace) || command.includes(" -socket "),
  );
  return found.filter(({ command }) => !/ (start|delete)$/.test(command)).map(({ pid }) => pid);
}

async function killShims(t: Stage): Promise<void> {
  for (const pid of await serving(t)) process.kill(pid, "SIGKILL");
}

row("F23", "each container has a shim of its own", { casts: ALL, config: PEERS_WAY }, async (t) => {
  const image = await t.image();
  const ids = [t.id("a"), t.id("b"), t.id("c")];
  for (const id of ids) await t.must("run", "-d", image, id, "sleep", "1000");
  expect((await serving(t)).length).toBe(3);
  for (const id of ids) await t.must("tasks", "rm", "--force", id);
  await eventually("the shims to end", async () => ((await serving(t)).length === 0 ? true : undefined));
});

row(
  "F27",
  "after the end of a shim its delete command is called: mounts and the runtime's state are gone",
  { casts: ALL, config: PEERS_WAY },
  async (t) => {
    const id = t.id("c");
    const events = t.start("events");
    await Bun.sleep(400);
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    const state = join("/run/containerd/runc", t.namespace);
    const mounts = async (): Promise<string[]> => (await mountsBelow(t.daemon.dir)).filter((one) => one.includes(id));
    expect(await readdir(state)).toEqual([id]);
    expect((await mounts()).length).toBeGreaterThan(0);
    await killShims(t);
    await eventually("the clean-up", async () => ((await statusOf(t, id)) === "gone" ? true : undefined));
    await eventually("mounts and state to go", async () =>
      (await readdir(state)).length + (await mounts()).length === 0 ? true : undefined,
    );
    const told = await eventually("the events", () => {
      const topics = ["/tasks/exit", "/tasks/delete"].filter((topic) => events.stdout().includes(` ${topic} `));
      return topics.length === 2 ? events.stdout() : undefined;
    });
    expect(told).toContain('"exit_status":137');
    await events.stop();
    await t.must("containers", "rm", id);
  },
);

row(
  "F31",
  "a container outlives its daemon, and ends with its shim",
  { casts: ALL, config: PEERS_WAY, ownDaemon: true },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    await t.daemon.stop("SIGKILL");
    await t.daemon.launch();
    await eventually("the task", async () => ((await statusOf(t, id)) === "RUNNING" ? true : undefined));
    await killShims(t);
    await eventually("the clean-up", async () => ((await statusOf(t, id)) === "gone" ? true : undefined));
    await t.must("containers", "rm", id);
  },
);

const COUNT = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.005; done; echo end; exit";

row(
  "F31",
  "another shim takes over from one that is killed: attached output, waits, execs and exit codes go on",
  {
    casts: ["ours", "our-daemon"],
    source: "docs/decisions/0111-adoption.md",
    covers: ["rpc:stevedore.shim.v1.Adoption/Adopt"],
    ownDaemon: true,
  },
  async (t) => {
    const image = await t.image();
    const id = t.id("c");
    const events = t.start("events");
    await Bun.sleep(400);
    const run = t.start("run", image, id, "sh", "-c", `${COUNT} 7`);
    await eventually("the first lines", () => (run.stdout().includes("\n3\n") ? true : undefined));
    const exec = t.start("tasks", "exec", "--exec-id", "e", id, "sh", "-c", `${COUNT} 9`);
    await eventually("the exec's first lines", () => (exec.stdout().includes("\n3\n") ? true : undefined));
    const before = await serving(t);
    await killShims(t);
    await eventually("another shim", async () => {
      const after = await serving(t);
      return after.length > 0 && after.every((pid) => !before.includes(pid)) ? true : undefined;
    });
    expect(await statusOf(t, id)).toBe("RUNNING");
    expect((await t.ctr("tasks", "exec", "--exec-id", "f", id, "sh", "-c", "echo new; exit 4")).code).toBe(4);
    const numbers = Array.from({ length: 300 }, (_, at) => String(at));
    expect(await run.exited).toBe(7);
    expect(run.stdout().trimEnd().split("\n")).toEqual([...numbers, "end"]);
    // The end of init ends the exec when that is a moment slower.
    const code = await exec.exited;
    expect([9, 137]).toContain(code);
    const lines = exec.stdout().trimEnd().split("\n");
    expect(lines.filter((line) => line !== "end").map(Number)).toEqual(
      lines
        .filter((line) => line !== "end")
        .map(Number)
        .toSorted((a, b) => a - b),
    );
    expect(lines.length).toBeGreaterThan(200);
    const exits = (): string[] =>
      events
        .stdout()
        .split("\n")
        .filter((line) => line.includes(" /tasks/exit "));
    await eventually("the exits", () => (exits().length >= 3 ? true : undefined));
    await Bun.sleep(200);
    expect(exits().filter((line) => line.includes('"exit_status":7')).length).toBe(1);
    expect(exits().length).toBe(3);
    expect(exits().at(-1)).toContain(`"id":"${id}"`);
    await events.stop();
    await t.ctr("tasks", "rm", id);
    await t.ctr("containers", "rm", id);
  },
);

/** Who is struck at each phase in the normal run; the crash lane strikes everybody everywhere. */
const STRUCK: Readonly<Record<(typeof PHASES)[number], Victim>> = {
  "create.before": "shim",
  "create.after": "both",
  "start.before": "stop",
  "start.after": "shim",
  "exec.before": "daemon",
  "exec.after": "shim",
  output: "all",
  exit: "shim",
  "delete.before": "keeper",
  "delete.after": "both",
};

test("F31: nothing is lost or left when somebody dies at any phase of a container's life", async () => {
  await using world = await PhaseWorld.start();
  for (const phase of PHASES) await world.scenario(phase, STRUCK[phase]);
}, 180_000);

test("F31: the keeper alone knows exits where the kernel keeps none", async () => {
  await using world = await PhaseWorld.start({ oldKernel: true });
  await world.scenario("exit", "shim");
  await world.scenario("exit", "both");
}, 60_000);
