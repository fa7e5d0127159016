// The whole life cycle, for every way of putting Debian's and our client, daemon and shim together.
import { expect } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { dockerArchive } from "../harness/images.ts";
import { eventually } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";

const ALL: readonly CastName[] = ["peer", "ours", "our-daemon", "our-ctr", "our-shim", "their-shim"];

async function status(t: Stage, id: string): Promise<string> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return line?.trim().split(/\s+/)[2] ?? "gone";
}

async function pidOf(t: Stage, id: string): Promise<number> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return Number(line?.trim().split(/\s+/)[1]);
}

row("F28", "run --rm: output, error output and exit status", { casts: ALL }, async (t) => {
  const ran = await t.ctr("run", "--rm", await t.image(), t.id("a"), "sh", "-c", "echo out; echo err >&2; exit 42");
  expect(ran).toEqual({ code: 42, stdout: "out\n", stderr: "err\n" });
  expect(await t.must("tasks", "ls", "-q")).toBe("");
  expect(await t.must("containers", "ls", "-q")).toBe("");
});

row("F28", "a megabyte of output arrives whole", { casts: ALL }, async (t) => {
  const ran = await t.ctr("run", "--rm", await t.image(), t.id("a"), "sh", "-c", "seq 1 150000 | sed 's/$/ xxxxx/'");
  expect(ran.code).toBe(0);
  expect(ran.stdout.split("\n").length).toBe(150_001);
  expect(ran.stdout.endsWith("150000 xxxxx\n")).toBe(true);
});

row("F28", "standard input reaches the process, with its end", { casts: ALL }, async (t) => {
  const running = t.start("run", "--rm", await t.image(), t.id("a"), "sh", "-c", "echo ready; wc -l");
  // Debian's ctr loses the end of its input when that comes before the task has started.
  await eventually("the process to run", () => (running.stdout() === "ready\n" ? true : undefined));
  running.write("one\ntwo\n");
  running.closeInput();
  expect(await running.exited).toBe(0);
  expect(running.stdout()).toBe("ready\n2\n");
});

row("F28", "run with a terminal", { casts: ALL, covers: ["flag:ctr run --tty"] }, async (t) => {
  const ran = await t.ctrWith(
    { tty: true },
    "run",
    "--rm",
    "-t",
    await t.image(),
    t.id("a"),
    "sh",
    "-c",
    "tty; echo err >&2; exit 3",
  );
  // script(1) may pass the end of its own input on as a NUL, which the terminal echoes.
  const seen = ran.stdout.replaceAll("\r", "").replaceAll("^@", "");
  expect(seen).toMatch(/\/dev\/(pts\/0|console)\nerr\n$/);
  expect(ran.code).toBe(3);
});

row("F28", "a process killed by a signal: status 128 and the signal's number", { casts: ALL }, async (t) => {
  const id = t.id("k");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  expect((await t.ctr("tasks", "exec", "--exec-id", "e", id, "sh", "-c", "kill -USR1 $$")).code).toBe(128 + 10);
  const attached = t.ctr("tasks", "attach", id);
  await Bun.sleep(300);
  await t.must("tasks", "kill", "-s", "KILL", id);
  expect((await attached).code).toBe(128 + 9);
});

row(
  "F28",
  "a detached task, exec with and without a terminal, pause, resume, kill, delete",
  { casts: ALL },
  async (t) => {
    const id = t.id("d");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    expect(await status(t, id)).toBe("RUNNING");

    const ran = await t.ctrWith(
      { stdin: "in" },
      "tasks",
      "exec",
      "--exec-id",
      "e1",
      id,
      "sh",
      "-c",
      "cat; echo; echo err >&2; exit 5",
    );
    expect(ran).toEqual({ code: 5, stdout: "in\n", stderr: "err\n" });
    const terminal = await t.ctrWith(
      { tty: true },
      "tasks",
      "exec",
      "--exec-id",
      "e2",
      "-t",
      id,
      "sh",
      "-c",
      "tty; exit 6",
    );
    expect(terminal.stdout).toContain("/dev/pts/");
    expect(terminal.code).toBe(6);
    expect((await t.must("tasks", "ps", id)).split("\n").filter((line) => /^\d+/.test(line)).length).toBe(1);

    await t.must("tasks", "pause", id);
    expect(await status(t, id)).toBe("PAUSED");
    await t.must("tasks", "resume", id);
    expect(await status(t, id)).toBe("RUNNING");

    await t.must("tasks", "kill", "-s", "KILL", id);
    await eventually("the task to stop", async () => ((await status(t, id)) === "STOPPED" ? true : undefined));
    expect((await t.ctr("tasks", "delete", id)).code).toBeOneOf([0, 137]);
    await t.must("containers", "delete", id);
    expect(await t.must("containers", "ls", "-q")).toBe("");
  },
);

row(
  "F28",
  "attach follows a running task and gets its exit status",
  { casts: ALL, covers: ["cmd:ctr tasks attach"] },
  async (t) => {
    const id = t.id("at");
    await t.must(
      "run",
      "-d",
      await t.image(),
      id,
      "sh",
      "-c",
      // Well after the exec that lets it go has ended: its client would else find no task.
      "while [ ! -e /go ]; do sleep 0.1; done; sleep 1; echo late; exit 9",
    );
    const attached = t.ctr("tasks", "attach", id);
    await Bun.sleep(300);
    await t.must("tasks", "exec", "--exec-id", "go", id, "touch", "/go");
    const result = await attached;
    expect(result.code).toBe(9);
    expect(result.stdout).toContain("late\n");
  },
);

row(
  "F28",
  "events of a run, in order",
  { casts: ALL, covers: ["cmd:ctr events", "rpc:containerd.services.events.v1.Events/Subscribe"] },
  async (t) => {
    const image = await t.image();
    const listening = t.start("events");
    await Bun.sleep(400);
    await t.must("run", "--rm", image, t.id("ev"), "true");
    const all = (): string[] =>
      listening
        .stdout()
        .split("\n")
        .filter((line) => line.includes(t.namespace))
        .map((line) => /\s(\/(?:tasks|containers)\/\S+)/.exec(line)?.[1])
        .filter((topic) => topic !== undefined);
    await eventually("both delete events", () =>
      all().filter((topic) => topic.endsWith("/delete")).length === 2 ? true : undefined,
    );
    await listening.stop();
    // The tasks' events come from the shim, the containers' from the daemon: each in its own order.
    expect(all().filter((topic) => topic.startsWith("/tasks/"))).toEqual([
      "/tasks/create",
      "/tasks/start",
      "/tasks/exit",
      "/tasks/delete",
    ]);
    expect(all().filter((topic) => topic.startsWith("/containers/"))).toEqual([
      "/containers/create",
      "/containers/delete",
    ]);
  },
);

row("F28", "the image came as a docker-archive", { casts: ALL, covers: ["cmd:ctr images import"] }, async (t) => {
  const file = t.path("docker.tar");
  await writeFile(file, await dockerArchive({ name: "docker.io/library/archived:1" }));
  await t.must("images", "import", file);
  const ran = await t.ctr("run", "--rm", "docker.io/library/archived:1", t.id("a"), "echo", "hi");
  expect(ran).toMatchObject({ code: 0, stdout: "hi\n" });
});

row("F19", "the container's parent is the shim, and the shim is no child of the daemon", { casts: ALL }, async (t) => {
  const id = t.id("p");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const parentOf = async (pid: number): Promise<number> =>
    Number(/^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]);
  const shim = await parentOf(await pidOf(t, id));
  expect(await readFile(`/proc/${shim}/cmdline`, "utf8")).toContain("containerd-shim-runc-v2");
  expect(await parentOf(shim)).not.toBe(t.daemon.pid);
});

row(
  "F20",
  "the task outlives a restart of the daemon, and its exit status is read after it",
  { casts: ALL, ownDaemon: true },
  async (t) => {
    const id = t.id("r");
    await t.must(
      "run",
      "-d",
      await t.image(),
      id,
      "sh",
      "-c",
      "while [ ! -e /go ]; do sleep 0.1; done; sleep 1; exit 11",
    );
    const pid = await pidOf(t, id);
    await t.daemon.stop();
    await t.daemon.launch();
    expect(await pidOf(t, id)).toBe(pid);
    const deleted = t.ctr("tasks", "attach", id);
    await Bun.sleep(300);
    await t.must("tasks", "exec", "--exec-id", "go", id, "touch", "/go");
    expect((await deleted).code).toBe(11);
    expect(await status(t, id)).toBeOneOf(["STOPPED", "gone"]);
  },
);

row("F22", "orphans of the container are reaped: no zombies while it runs nor after", { casts: ALL }, async (t) => {
  const id = t.id("z");
  await t.must("run", "-d", await t.image(), id, "sh", "-c", "(sleep 0.2 & sleep 0.1 &) ; exec sleep 1000");
  const exec = await t.ctr("tasks", "exec", "--exec-id", "bg", id, "sh", "-c", "sleep 0.3 >/dev/null 2>&1 & exit 0");
  expect(exec.code).toBe(0);
  await Bun.sleep(700);
  const shim = Number(/^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${await pidOf(t, id)}/status`, "utf8"))?.[1]);
  const children = (await readFile(`/proc/${shim}/task/${shim}/children`, "utf8"))
    .trim()
    .split(/\s+/)
    .filter((one) => one !== "");
  for (const child of children) expect(await readFile(`/proc/${child}/status`, "utf8")).not.toContain("zombie");
});
