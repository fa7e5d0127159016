// What becomes of a container when its shim dies: with an own shim for each and adoption off what the peer does, else another shim
// takes over and nobody sees a difference.
import { expect, test } from "bun:test";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { jsonAny, PROCESS_TYPE_URL } from "@stevedore/sdk/spec/any";
import { removeOfClients, settle, shims, taskLeftovers } from "../crash/leftovers.ts";
import { PHASES, PhaseWorld, type Victim } from "../crash/phases.ts";
import { mountsBelow, program } from "../harness/daemon.ts";
import { withClient } from "../harness/exits.ts";
import { IMAGE } from "../harness/images.ts";
import { eventually, exec, patience, type Running, start } from "../harness/process.ts";
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

/** A client of the events, once it has been told one. */
async function listen(t: Stage): Promise<Running> {
  const events = t.start("events");
  await eventually("the subscription", async () => {
    await t.must("namespaces", "label", t.namespace, `now=${Date.now()}`);
    return events.stdout().includes(" /namespaces/update ") ? true : undefined;
  });
  return events;
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
    const image = await t.image();
    const events = await listen(t);
    await t.must("run", "-d", "--null-io", image, id, "sleep", "1000");
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
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
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
    const events = await listen(t);
    // It ends when it is told to, after everything else here.
    const first = COUNT.replace("; exit", "; while [ ! -e /go ]; do sleep 0.02; done; exit");
    const run = t.start("run", image, id, "sh", "-c", `${first} 7`);
    await eventually("the first lines", () => (run.stdout().includes("\n3\n") ? true : undefined));
    const added = t.start("tasks", "exec", "--exec-id", "e", id, "sh", "-c", `${COUNT} 9`);
    await eventually("the exec's first lines", () => (added.stdout().includes("\n3\n") ? true : undefined));
    const before = await serving(t);
    await killShims(t);
    await eventually("another shim", async () => {
      const after = await serving(t);
      return after.length > 0 && after.every((pid) => !before.includes(pid)) ? true : undefined;
    });
    expect(await statusOf(t, id)).toBe("RUNNING");
    expect((await t.ctr("tasks", "exec", "--exec-id", "f", id, "sh", "-c", "echo new; exit 4")).code).toBe(4);
    const numbers = Array.from({ length: 300 }, (_, at) => String(at));
    expect(await added.exited).toBe(9);
    // The end of init may end this one before it has ended by itself.
    await t.ctr("tasks", "exec", "--exec-id", "go", id, "touch", "/go");
    expect(await run.exited).toBe(7);
    expect(run.stdout().trimEnd().split("\n")).toEqual([...numbers, "end"]);
    const lines = added.stdout().trimEnd().split("\n");
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
    await eventually("the exits", () => (exits().length >= 4 ? true : undefined));
    await Bun.sleep(200);
    expect(exits().filter((line) => line.includes('"exit_status":7')).length).toBe(1);
    expect(exits().length).toBe(4);
    expect(exits().at(-1)).toContain(`"id":"${id}"`);
    await events.stop();
    await t.ctr("tasks", "rm", id);
    await t.ctr("containers", "rm", id);
  },
);

/** Kills all shims and waits for their replacement. */
async function replaceShims(t: Stage): Promise<void> {
  const before = await serving(t);
  await killShims(t);
  await eventually("another shim", async () => {
    const after = await serving(t);
    return after.length > 0 && after.every((pid) => !before.includes(pid)) ? true : undefined;
  });
}

const OURS_ALONE = {
  casts: ["ours"],
  source: "docs/decisions/0111-adoption.md",
  ownDaemon: true,
} as const;

row("F31", "input and its end reach a container and an exec after their shim was killed", OURS_ALONE, async (t) => {
  const id = t.id("c");
  const script = (code: number): string => `echo ready; read x; echo got $x; cat; echo end; exit ${code}`;
  const run = t.start("run", await t.image(), id, "sh", "-c", script(6));
  await eventually("init", () => (run.stdout().includes("ready") ? true : undefined));
  const exec = t.start("tasks", "exec", "--exec-id", "e", id, "sh", "-c", script(5));
  await eventually("the exec", () => (exec.stdout().includes("ready") ? true : undefined));
  await replaceShims(t);
  for (const [client, code] of [
    [exec, 5],
    [run, 6],
  ] as const) {
    client.write("one\n");
    await eventually("its answer", () => (client.stdout().includes("got one") ? true : undefined));
    client.write("two\n");
    client.closeInput();
    expect(await client.exited).toBe(code);
    expect(client.stdout()).toBe("ready\ngot one\ntwo\nend\n");
  }
  await t.must("tasks", "rm", id).catch(() => undefined);
  await t.must("containers", "rm", id);
});

row("F31", "a terminal goes on after its shim was killed: output, input and size", OURS_ALONE, async (t) => {
  const id = t.id("c");
  const script = "echo ready; read x; echo got-$x; stty size; exit 6";
  const args = ["run", "-t", await t.image(), id, "sh", "-c", script];
  const ctr = [program("ours", "ctr"), "--address", t.daemon.address, "--namespace", t.namespace, ...args];
  const line = ctr.map((word) => `'${word}'`).join(" ");
  const client = start(["script", "-qec", `stty cols 91 rows 17; ${line}`, "/dev/null"]);
  await eventually("the terminal", () => (client.stdout().includes("ready") ? true : undefined));
  const pid = RegExp(`^${id}\\s+(\\d+)`, "m").exec(await t.must("tasks", "ls"))?.[1] ?? "";
  await eventually("its size to be set", async () => {
    const size = await exec(["sh", "-c", `stty size </proc/${pid}/fd/0`]);
    return size.stdout === "17 91\n" ? true : undefined;
  });
  await replaceShims(t);
  client.write("hello\n");
  await eventually("the answer", () => (client.stdout().includes("got-hello") ? true : undefined));
  expect(await client.exited).toBe(6);
  expect(client.stdout()).toContain("17 91");
  expect(await t.daemon.log).toContain("terminal: at most what the dead shim had read and not yet handed on");
  await t.ctr("tasks", "rm", id);
  await t.must("containers", "rm", id);
});

/** For longer than a shim of containerd tries to tell an event. */
const OUTAGE_MS = 17_000;

row(
  "F20",
  "an exit while there is no daemon is told to the next one, however long that takes",
  OURS_ALONE,
  async (t) => {
    const id = t.id("c");
    await t.must(
      "run",
      "-d",
      "--null-io",
      await t.image(),
      id,
      "sh",
      "-c",
      "while [ ! -e /go ]; do sleep 0.1; done; exit 7",
    );
    await t.must("tasks", "exec", "--exec-id", "go", id, "sh", "-c", "(sleep 1; touch /go) >/dev/null 2>&1 &");
    await t.daemon.stop("SIGKILL");
    await Bun.sleep(OUTAGE_MS);
    await t.daemon.launch();
    await eventually("the exit", async () => {
      const told = await t.must("events", "--since", "1h", "--no-follow", `namespace=="${t.namespace}"`);
      const exits = told.split("\n").filter((line) => line.includes(" /tasks/exit ") && line.includes(`"id":"${id}"`));
      if (exits.length > 1) throw new Error(`told more than once: ${exits.join("\n")}`);
      return exits[0]?.includes('"exit_status":7') === true ? true : undefined;
    });
    expect((await t.ctr("tasks", "rm", id)).stderr).toContain("exit code 7");
    await t.must("containers", "rm", id);
  },
);

/** Kills of the shim, each at another moment of a resize. */
const RESIZES = 8;

row(
  "F31",
  "a window resize that is answered has its effect, though the shim is killed in that moment",
  OURS_ALONE,
  async (t) => {
    const id = t.id("c");
    const out = t.path(t.id("out"));
    expect((await exec(["mkfifo", out])).code).toBe(0);
    const reader = start(["cat", out]);
    const run = t.start("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    expect(await run.exited).toBe(0);
    await withClient(t, async (client) => {
      const context = { signal: AbortSignal.timeout(60_000), namespace: t.namespace };
      const of = { containerId: id, execId: "tty" };
      const script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
      const process = {
        args: ["sh", "-c", script],
        cwd: "/",
        env: ["PATH=/bin"],
        user: { uid: 0, gid: 0 },
        terminal: true,
      };
      const spec = jsonAny(PROCESS_TYPE_URL, process);
      await client.tasks.exec(context, { ...of, io: { stdin: "", stdout: out, stderr: "", terminal: true }, spec });
      const { pid } = await client.tasks.start(context, of);
      await eventually("the terminal", () => (reader.stdout().includes("ready") ? true : undefined));
      for (let round = 1; round <= RESIZES; round += 1) {
        const told = client.tasks.resizePty(context, of, { width: 80 + round, height: 20 + round });
        await Bun.sleep((round - 1) / 2);
        await killShims(t);
        await told;
        const size = await exec(["sh", "-c", `stty size </proc/${pid}/fd/0`]);
        expect(size.stdout).toBe(`${20 + round} ${80 + round}\n`);
        // The process itself is told, too, and what it says comes by the next shim.
        await eventually("its word", () =>
          reader.stdout().includes(`${20 + round} ${80 + round}`) ? true : undefined,
        );
      }
      await client.tasks.kill(context, of, { number: 9, all: false });
      expect((await client.tasks.wait(context, of)).exitStatus).toBe(137);
      await client.tasks.delete(context, of);
    });
    await reader.stop();
    await t.must("tasks", "rm", "--force", id);
    await t.must("containers", "rm", id);
  },
);

row("F31", "a log file is written on after the shim was killed, without a gap", OURS_ALONE, async (t) => {
  const id = t.id("c");
  const log = t.path("c.log");
  await t.must("run", "-d", "--log-uri", `file://${log}`, await t.image(), id, "sh", "-c", `${COUNT} 3`);
  await eventually("the first lines", async () => (await readFile(log, "utf8")).includes("\n3\n") || undefined);
  await replaceShims(t);
  await eventually("its end", async () => ((await statusOf(t, id)) === "STOPPED" ? true : undefined));
  expect((await t.ctr("tasks", "rm", id)).stderr).toContain("exit code 3");
  const lines = (await readFile(log, "utf8")).trimEnd().split("\n");
  expect(lines.at(-1)).toBe("end");
  // At most what the killed shim held is missing; nothing comes twice or out of order.
  const numbers = lines.slice(0, -1).map(Number);
  expect(numbers).toEqual([...new Set(numbers)].toSorted((a, b) => a - b));
  expect(numbers.length).toBeGreaterThan(290);
  await t.must("containers", "rm", id);
});

/** A runc that fails every delete. */
const STUBBORN = `#!/bin/sh
case " $* " in *" delete "*) echo "no" >&2; exit 1 ;; esac
exec RUNC "$@"
`;

row("F30", "a delete succeeds though the runtime fails it: what is left is written down", OURS_ALONE, async (t) => {
  const id = t.id("c");
  const runc = Bun.which("runc") ?? "runc";
  await writeFile(t.path("bin/runc"), STUBBORN.replace("RUNC", runc), { mode: 0o755 });
  await t.must("run", "-d", await t.image(), id, "sh", "-c", "sleep 1000 & sleep 1000");
  await t.must("tasks", "rm", "--force", id);
  await t.must("containers", "rm", id);
  expect(await statusOf(t, id)).toBe("gone");
  const abandoned: unknown = JSON.parse((await readFile(join(t.daemon.state, "abandoned.jsonl"), "utf8")).trim());
  expect(abandoned).toMatchObject({ id, what: "the runtime's state" });
  expect(await t.daemon.log).toContain("abandoned");
  await exec([runc, "--root", join("/run/containerd/runc", t.namespace), "delete", "--force", id]);
});

row(
  "F30",
  "a stopped shim does not keep its task from being deleted",
  { ...OURS_ALONE, timeoutMs: 90_000 },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    for (const pid of await serving(t)) process.kill(pid, "SIGSTOP");
    const removed = await t.ctrWith({ timeoutMs: 60_000 }, "tasks", "rm", "--force", id);
    expect(removed.code).toBe(0);
    await t.must("containers", "rm", id);
    expect(await t.daemon.log).toContain("killing a shim that does not answer");
  },
);

/** How long a list waits for a shim: longer than anything here takes by itself. One list is waited for this long, so it is no more than a slow machine needs. */
const STATE_LIMIT_MS = Math.min(patience(8_000), 60_000);

row(
  "F31",
  "beside stopped shims lists tell what was last known, and containers of other shims feel nothing",
  {
    ...OURS_ALONE,
    covers: ["rpc:stevedore.shim.v1.Overview/States"],
    config: { ours: `[timeouts]\n  "io.containerd.timeout.task.state" = "${STATE_LIMIT_MS}ms"\n` },
    timeoutMs: 120_000,
  },
  async (t) => {
    const image = await t.image();
    const run = async (name: string, ...flags: string[]): Promise<string> => {
      const id = t.id(name);
      await t.must("run", "-d", "--null-io", ...flags, image, id, "sleep", "1000");
      return id;
    };
    // Two in one shim, and one by itself.
    const stopped = [
      await run("shared1"),
      await run("shared2"),
      await run("alone", "--label", "stevedore.isolated=true"),
    ];
    const pids = await serving(t);
    const quiet = await run("quiet", "--label", "stevedore.isolated=true");
    for (const pid of pids) process.kill(pid, "SIGSTOP");
    try {
      const all = [...stopped, quiet].toSorted();
      const listed = async (): Promise<string[]> =>
        (await t.must("tasks", "ls"))
          .split("\n")
          .flatMap((line) => (line.includes(" RUNNING") ? [line.split(" ")[0] ?? ""] : []))
          .toSorted();
      const began = performance.now();
      // The namespace's shared shim is stopped, and nobody has found out yet: a new container gets another one.
      const early = await run("early");
      stopped.push(early);
      all.push(early);
      all.sort();
      expect(await listed()).toEqual(all); // this one finds out, and does not wait for the limit
      for (let round = 0; round < 3; round += 1) {
        expect(await listed()).toEqual(all);
        await t.must("version");
        expect(await t.must("tasks", "exec", "--exec-id", `e${round}`, quiet, "echo", "heard")).toBe("heard\n");
      }
      const late = await run("late");
      expect(await listed()).toEqual([...all, late].toSorted());
      await t.must("tasks", "kill", "-s", "KILL", quiet);
      await eventually("the quiet one to stop", async () =>
        (await statusOf(t, quiet)) === "STOPPED" ? true : undefined,
      );
      expect(performance.now() - began).toBeLessThan(STATE_LIMIT_MS * 2);
      stopped.push(late);
    } finally {
      for (const pid of pids) process.kill(pid, "SIGCONT");
    }
    for (const id of [...stopped, quiet]) {
      await t.must("tasks", "rm", "--force", id);
      await t.must("containers", "rm", id);
    }
    expect(await t.daemon.log).not.toContain("killing a shim");
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

test(
  "F31: nothing is lost or left when somebody dies at any phase of a container's life",
  async () => {
    await using world = await PhaseWorld.start();
    for (const phase of PHASES) await world.scenario(phase, STRUCK[phase]);
  },
  patience(300_000),
);

test(
  "F30: a delete that its shim ends after its daemon was killed leaves nothing with the next one",
  async () => {
    await using world = await PhaseWorld.start();
    const id = "v";
    await world.must("run", "-d", IMAGE, id, "sleep", "1000");
    await world.must("tasks", "kill", "-s", "KILL", id);
    await eventually("it to stop", async () => ((await world.statusOf(id)) === "STOPPED" ? true : undefined));
    await world.close(id, "delete.before");
    const client = world.begin("tasks", "rm", id);
    await world.reached(id, "delete.before");
    await world.daemon.stop("SIGKILL");
    await client.exited;
    await world.daemon.launch();
    // The shim still has the task when the new daemon looks.
    expect(await world.statusOf(id)).toBe("STOPPED");
    await world.openAll();
    expect(await settle(() => taskLeftovers(world.daemon, world.namespace))).toEqual([]);
    expect(await world.statusOf(id)).toBe("gone");
    await world.must("containers", "rm", id);
    await removeOfClients(world.daemon);
  },
  patience(60_000),
);

test(
  "F31: the keeper alone knows exits where the kernel keeps none",
  async () => {
    await using world = await PhaseWorld.start({ oldKernel: true });
    await world.scenario("exit", "shim");
    await world.scenario("exit", "both");
  },
  patience(120_000),
);
