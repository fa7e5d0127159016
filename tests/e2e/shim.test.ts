// `ctr shim`: what a person does to a shim past its daemon. Clients look for sockets in /run/containerd/s, whatever the daemon's state
// folder is, so ours is told to have them there; containerd 1.6 always has.
import { expect } from "bun:test";
import { writeFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { connectClient } from "@stevedore/sdk/connect";
import { program } from "../harness/daemon.ts";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const SOCKETS = `[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "/run/containerd/s"
`;
const CONFIG = { ours: SOCKETS, debian: "" };

async function shim(t: Stage, id: string, ...args: string[]) {
  return t.ctr("shim", "--id", id, ...args);
}

async function taskOf(t: Stage, id: string): Promise<{ pid: number; status: string }> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid = "0", status = "gone"] = line?.trim().split(/\s+/) ?? [];
  return { pid: Number(pid), status };
}

/** A task that is created and not started, which no command of ctr leaves behind. */
async function createTask(t: Stage, id: string, ...command: string[]): Promise<void> {
  await t.must("containers", "create", await t.image(), id, ...command);
  await using client = connectClient({ address: t.daemon.address });
  const context = { signal: AbortSignal.timeout(20_000), namespace: t.namespace };
  const rootfs = await client.snapshotter("").mounts(context, id);
  const io = { stdin: "", stdout: "", stderr: "", terminal: false };
  await client.tasks.create(context, { containerId: id, rootfs, io, runtimePath: "" });
}

/** Flags of `shim state`. containerd 1.6's client takes the shim's id for the task's; its shims speak version 2 of the API only. */
function ofTask(t: Stage, id: string): readonly string[] {
  if (t.cast.client === "debian") return [];
  return ["--task-id", id, ...(t.cast.shim === "debian" ? ["--api-version", "2"] : [])];
}

/** A shim whose last task was deleted past its daemon is nobody's: it is told to end. containerd 1.6's client cannot. */
async function endShim(t: Stage, id: string): Promise<void> {
  const version = t.cast.shim === "debian" ? "2" : "3";
  const ctr = [program("ours", "ctr"), "--address", t.daemon.address, "-n", t.namespace];
  await exec([...ctr, "shim", "--id", id, "shutdown", "--api-version", version]);
}

row(
  "G36",
  "shim state is the task's, for each of the containers that share a shim",
  {
    covers: [
      "cmd:ctr shim state",
      "flag:ctr shim --id",
      "flag:ctr shim state --task-id",
      "flag:ctr shim state --api-version",
    ],
    config: CONFIG,
    casts: ["peer", "ours", "our-daemon", "our-ctr", "our-shim", "their-shim"],
  },
  async (t) => {
    for (const name of ["a", "b"]) await t.must("run", "-d", await t.image(), t.id(name), "sleep", "1000");
    for (const name of ["a", "b"]) {
      const id = t.id(name);
      const { pid } = await taskOf(t, id);
      const asked = await shim(t, id, "state", ...ofTask(t, id));
      expect(asked).toMatchObject({ code: 0, stderr: "" });
      expect(JSON.parse(asked.stdout)).toMatchObject({ id, pid, status: 2 });
    }
    if (t.cast.client === "ours") {
      const unknown = await shim(t, t.id("a"), "state", ...ofTask(t, t.id("none")));
      expect(unknown.code).toBe(1);
      expect(unknown.stderr).toContain("not found");
    }
    const nobody = await shim(t, t.id("none"), "state");
    expect(nobody.code).toBe(1);
    expect(nobody.stderr).toContain("fail to connect to container");
  },
);

row(
  "G36",
  "shim start starts a created task, and shim delete deletes a stopped one with its exit status",
  {
    covers: ["cmd:ctr shim start", "cmd:ctr shim delete"],
    config: CONFIG,
    casts: ["peer", "ours", "our-daemon", "our-ctr", "our-shim", "their-shim"],
  },
  async (t) => {
    const id = t.id("c");
    await createTask(t, id, "ls", "/nowhere");
    expect((await taskOf(t, id)).status).toBe("CREATED");
    expect(await shim(t, id, "start", id)).toMatchObject({ code: 0, stdout: "", stderr: "" });
    await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
    const again = await shim(t, id, "start", id);
    expect(again.code).toBe(1);
    expect(again.stderr).toContain("cannot start a stopped process");
    const deleted = await shim(t, id, "delete", id);
    expect(deleted).toMatchObject({ code: 0, stdout: "container deleted and returned exit status 1\n" });
    const gone = await shim(t, id, "delete", id);
    expect(gone.code).toBe(1);
    // The daemon was not asked, and is told when it asks.
    await t.ctr("tasks", "rm", id);
    expect((await taskOf(t, id)).status).toBe("gone");
    await endShim(t, id);
  },
);

row(
  "G36",
  "shim exec runs a process in the task's container",
  {
    covers: [
      "cmd:ctr shim exec",
      "flag:ctr shim exec --spec",
      "flag:ctr shim exec --env",
      "flag:ctr shim exec --cwd",
      "flag:ctr shim exec --attach",
      "flag:ctr shim exec --stdout",
      "flag:ctr shim exec --stderr",
      "flag:ctr shim exec --stdin",
    ],
    config: CONFIG,
    // The peer's client sends the exec's id as the container's, which no shim knows.
    casts: ["ours", "our-ctr"],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    const spec = t.path("process.json");
    const process = {
      args: ["sh", "-c", "cat; pwd; echo $WORD; echo oops >&2"],
      cwd: "/",
      env: ["PATH=/bin"],
      user: { uid: 0, gid: 0 },
    };
    await writeFile(spec, JSON.stringify(process));
    const fifos = ["stdin", "stdout", "stderr"].flatMap((name) => [`--${name}`, t.path(`${t.id("exec")}-${name}`)]);
    const ran = await t.ctrWith(
      { stdin: "given\n" },
      "shim",
      "--id",
      id,
      "exec",
      "--spec",
      spec,
      "--cwd",
      "/tmp",
      "--env",
      "WORD=said",
      "--attach",
      ...fifos,
      "e1",
    );
    expect(ran).toMatchObject({ code: 0, stderr: "oops\n" });
    expect(ran.stdout).toMatch(/^exec running with pid \d+\n/);
    expect(ran.stdout.split("\n").slice(1)).toEqual(["given", "/tmp", "said", ""]);
    const nameless = await shim(t, id, "exec", "--spec", spec);
    expect(nameless).toMatchObject({ code: 1, stderr: "ctr: exec id must be provided\n" });
  },
);

row(
  "G36",
  "shim shutdown ends a shim without containers, and no other",
  {
    covers: ["cmd:ctr shim shutdown", "flag:ctr shim --shim-address", "flag:ctr shim shutdown --api-version"],
    casts: ["ours", "our-ctr"],
    ownDaemon: true,
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    const bundle = `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`;
    const address = t.cast.daemon === "ours" ? "bootstrap.json" : "address";
    const text = await Bun.file(`${bundle}/${address}`).text();
    const socket = /unix:\/\/[^"\s]+/.exec(text)?.[0] ?? "";
    const version = ["--api-version", t.cast.shim === "ours" ? "3" : "2"];
    const at = async (...args: string[]) => t.ctr("shim", "--shim-address", socket, ...args);
    expect((await at("shutdown", ...version)).code).toBe(0);
    const state = await at("state", "--task-id", id, ...version);
    expect(JSON.parse(state.stdout)).toMatchObject({ id, status: 2 });
    await t.must("tasks", "kill", "-s", "KILL", id);
    await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
    expect((await at("delete", id)).stdout).toContain("exit status 137");
    expect((await at("shutdown", ...version)).code).toBe(0);
    await eventually("the shim to end", async () =>
      (await at("state", "--task-id", id, ...version)).stderr.includes("fail to connect") ? true : undefined,
    );
  },
);

row(
  "G36",
  "shim exec --tty gives the process a terminal",
  { covers: ["flag:ctr shim exec --tty"], config: CONFIG, casts: ["ours"] },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    const spec = t.path("terminal.json");
    // It lives on for a moment: a client gives a terminal its size once the process runs.
    const command = "test -t 1 && echo a terminal || echo none; sleep 1";
    const user = { uid: 0, gid: 0 };
    await writeFile(spec, JSON.stringify({ args: ["sh", "-c", command], cwd: "/", env: ["PATH=/bin"], user }));
    const run = async (name: string, ...flags: string[]): Promise<string> => {
      const command = ["exec", ...flags, "--spec", spec, "--attach", "--stdout", t.path(`${t.id(name)}-stdout`), name];
      const ran = await t.ctrWith({ tty: flags.length > 0 }, "shim", "--id", id, ...command);
      return ran.stdout;
    };
    expect(await run("plain")).toMatch(/^none\r?$/m);
    expect(await run("tty", "--tty")).toMatch(/^a terminal\r?$/m);
  },
);

const DEBUG = `[debug]
  level = "debug"
`;

row(
  "G36",
  "shim pprof fetches profiles from a shim of a daemon that says debug",
  {
    covers: [
      "cmd:ctr shim pprof block",
      "cmd:ctr shim pprof goroutines",
      "cmd:ctr shim pprof heap",
      "cmd:ctr shim pprof profile",
      "cmd:ctr shim pprof threadcreate",
      "cmd:ctr shim pprof trace",
      "flag:ctr shim pprof heap --debug",
      "flag:ctr shim pprof profile --seconds",
    ],
    config: { ours: `${DEBUG}${SOCKETS}` },
    source: "containerd 2.3.4, cmd/ctr/commands/shim/pprof.go: 1.6 has neither the command nor the socket",
    casts: ["ours"],
  },
  async (t) => {
    for (const name of ["a", "b"]) await t.must("run", "-d", await t.image(), t.id(name), "sleep", "1000");
    for (const name of ["a", "b"]) {
      const text = await shim(t, t.id(name), "pprof", "heap", "--debug", "1");
      expect(text).toMatchObject({ code: 0, stderr: "" });
      expect(text.stdout).toStartWith("heap profile: ");
    }
    const id = t.id("b");
    const saved = t.path("cpu");
    const command = [`exec "$@" >${saved}`, "sh", program("ours", "ctr")];
    const profiled = Bun.spawnSync([
      "sh",
      "-c",
      ...command,
      "--address",
      t.daemon.address,
      "-n",
      t.namespace,
      "shim",
      "--id",
      id,
      "pprof",
      "profile",
      "--seconds",
      "1s",
    ]);
    expect(profiled.exitCode).toBe(0);
    expect(gunzipSync(await Bun.file(saved).bytes()).includes("cpu")).toBe(true);
    for (const kind of ["block", "goroutines", "threadcreate", "trace"]) {
      const timed = kind === "trace" ? ["--seconds", "1s"] : ["--debug", "1"];
      const got = await shim(t, id, "pprof", kind, ...timed);
      expect(got.code).toBe(1);
      expect(got.stderr).toContain("is not implemented: ");
    }
    expect(await t.ctr("shim", "pprof", "heap")).toMatchObject({
      code: 1,
      stderr: "ctr: container id must be provided\n",
    });
  },
);

row("G36", "a shim without debug has no debug socket", { config: CONFIG, casts: ["ours", "our-ctr"] }, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const asked = await shim(t, id, "pprof", "heap");
  expect(asked.code).toBe(1);
  expect(asked.stderr).toContain("debug socket /run/containerd/s/");
});
