// Processes beside the first: every option of theirs, output that goes to files, clients that come and go, and what is left of those that fail.
import { expect } from "bun:test";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { Tasks } from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createClient } from "@stevedore/wire/rpc/index";
import { eventually, exec, start } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";
import { failOften, quiet } from "../soak/failed-execs.ts";
import { heldBy } from "../soak/held.ts";

const ENDS: readonly CastName[] = ["peer", "ours", "our-shim", "their-shim"];

const PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/** A process of the test image's root that runs a script, with more or other fields. */
function processOf(script: string, more: object = {}): { typeUrl: string; value: Uint8Array } {
  const usual = { args: ["sh", "-c", script], cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } };
  return { typeUrl: PROCESS, value: Buffer.from(JSON.stringify({ ...usual, ...more })) };
}

interface Ran {
  readonly status: number;
  readonly output: string;
}

/** Runs one process in a container through the API, its output to a file. @throws what exec or start is refused with; the exec is gone then too */
async function execute(t: Stage, containerId: string, spec: ReturnType<typeof processOf>, execId = "e"): Promise<Ran> {
  const transport = createGrpcTransport({ address: t.daemon.address });
  const tasks = createClient(Tasks, transport);
  const call = { timeoutMs: 30_000, metadata: { "containerd-namespace": t.namespace } };
  const file = t.path(t.id(`${execId}-output`));
  await writeFile(file, "");
  try {
    await tasks.exec({ containerId, execId, stdout: `file://${file}`, stderr: `file://${file}`, spec }, call);
    let status: number;
    try {
      const ended = tasks.wait({ containerId, execId }, call);
      ended.catch(() => undefined);
      await tasks.start({ containerId, execId }, call);
      status = (await ended).exitStatus;
    } finally {
      // A shim copies what was written until the process is deleted: output is whole then.
      await tasks.deleteProcess({ containerId, execId }, call);
    }
    return { status, output: await readFile(file, "utf8") };
  } finally {
    await transport.close();
  }
}

async function running(t: Stage, ...command: string[]): Promise<string> {
  const id = t.id("c");
  await t.must("run", "-d", "--null-io", await t.image(), id, ...(command.length === 0 ? ["sleep", "1000"] : command));
  return id;
}

async function pidOf(t: Stage, id: string): Promise<number> {
  return Number(RegExp(`^${id}\\s+(\\d+)`, "m").exec(await t.must("tasks", "ls"))?.[1]);
}

async function shimOf(t: Stage, id: string): Promise<number> {
  return Number(/^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${await pidOf(t, id)}/status`, "utf8"))?.[1]);
}

row("G23", "an exec's user, groups, folder and environment", { casts: ENDS }, async (t) => {
  const id = await running(t);
  const script = "id -u; id -g; id -G; pwd; echo $COLOR";
  const { status, output } = await execute(
    t,
    id,
    processOf(script, {
      user: { uid: 1000, gid: 1001, additionalGids: [7, 8] },
      cwd: "/tmp",
      env: ["PATH=/bin", "COLOR=green"],
    }),
  );
  expect(output.split("\n")).toEqual(["1000", "1001", "1001 7 8", "/tmp", "green", ""]);
  expect(status).toBe(0);
});

row("G23", "an exec's capabilities, limits and no_new_privs", { casts: ENDS }, async (t) => {
  const id = await running(t);
  const one = ["CAP_NET_RAW"];
  const look = "grep -E '^(Cap|NoNew)' /proc/self/status | tr -d '\\t '; grep core /proc/self/limits | tr -s ' '";
  const capabilities = { bounding: one, effective: one, inheritable: one, permitted: one, ambient: one };
  // Not of open files: runc's Go runtime may raise that one's soft limit after runc has set it.
  const rlimits = [{ type: "RLIMIT_CORE", soft: 333, hard: 444 }];
  const given = await execute(t, id, processOf(look, { capabilities, rlimits, noNewPrivileges: true }));
  const bit = "0000000000002000";
  const sets = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map((set) => `Cap${set}:${bit}`);
  expect(given.output.split("\n")).toEqual([...sets, "NoNewPrivs:1", "Max core file size 333 444 bytes ", ""]);
  const none = await execute(t, id, processOf(look, { capabilities: {} }));
  expect(none.output).toContain("CapEff:0000000000000000\n");
  expect(none.output).toContain("NoNewPrivs:0\n");
});

row(
  "G23",
  "an exec's labels of security modules reach the runtime, whose refusal is told",
  { casts: ENDS },
  async (t) => {
    const id = await running(t);
    const enabled = async (path: string): Promise<boolean> =>
      (await readFile(path, "utf8").catch(() => "N")).startsWith("Y");
    if (!(await enabled("/sys/module/apparmor/parameters/enabled")))
      await expect(execute(t, id, processOf("true", { apparmorProfile: "mine" }))).rejects.toThrow(/apparmor/i);
    await expect(execute(t, id, processOf("true", { selinuxLabel: "a:b:c:d" }))).rejects.toThrow(/selinux/i);
    // Nothing is left of what was refused: the id is free, and the container takes the next.
    expect(await execute(t, id, processOf("echo fine"))).toEqual({ status: 0, output: "fine\n" });
  },
);

row("G23", "an exec with a terminal begins with the size it asks for", { casts: ENDS }, async (t) => {
  const id = await running(t);
  const transport = createGrpcTransport({ address: t.daemon.address });
  try {
    const tasks = createClient(Tasks, transport);
    const call = { timeoutMs: 30_000, metadata: { "containerd-namespace": t.namespace } };
    const out = t.path(t.id("size"));
    expect(await exec(["mkfifo", out])).toMatchObject({ code: 0 });
    const reader = start(["cat", out]);
    const of = { containerId: id, execId: "tty" };
    const spec = processOf("stty size", { terminal: true, consoleSize: { height: 41, width: 101 } });
    await tasks.exec({ ...of, terminal: true, stdout: out, spec }, call);
    await tasks.start(of, call);
    expect(await tasks.wait(of, call)).toMatchObject({ exitStatus: 0 });
    await tasks.deleteProcess(of, call);
    await eventually("the size", () => (reader.stdout().trim() === "41 101" ? true : undefined));
    await reader.stop();
  } finally {
    await transport.close();
  }
});

row(
  "F26",
  "clients attach and leave, also over a restart of the daemon, and the shim holds no more for it",
  {
    casts: ["peer", "ours"],
    ownDaemon: true,
    timeoutMs: 180_000,
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sh", "-c", "while :; do echo tick; sleep 0.1; done");
    const shim = await shimOf(t, id);
    const visit = async (): Promise<void> => {
      const client = t.start("tasks", "attach", id);
      await eventually("output", () => (client.stdout().includes("tick\n") ? true : undefined));
      await client.stop("SIGKILL");
    };
    await visit();
    const before = await heldBy(shim);
    for (let count = 0; count < 5; count += 1) await visit();
    await t.daemon.stop("SIGKILL");
    await t.daemon.launch();
    await eventually("the task", async () =>
      (await t.ctr("tasks", "ls")).stdout.includes("RUNNING") ? true : undefined,
    );
    await visit();
    // Two at once share the stream: between them they see it.
    const [one, two] = [t.start("tasks", "attach", id), t.start("tasks", "attach", id)];
    await eventually("output for one of two", () =>
      `${one.stdout()}${two.stdout()}`.includes("tick\n") ? true : undefined,
    );
    await one.stop("SIGKILL");
    await eventually("output for the other", async () => {
      const length = two.stdout().length;
      await Bun.sleep(300);
      return two.stdout().length > length ? true : undefined;
    });
    await two.stop("SIGKILL");
    const after = await eventually("the shim to hold what it did", async () => {
      const now = await heldBy(shim);
      return now.descriptors <= before.descriptors ? now : undefined;
    });
    expect(after.descriptors).toBeLessThanOrEqual(before.descriptors);
    await t.must("tasks", "rm", "--force", id);
    await t.must("containers", "rm", id);
  },
);

row(
  "F26",
  "an exec's output to a file goes on over a restart of the daemon",
  { casts: ["peer", "ours"], ownDaemon: true },
  async (t) => {
    const id = await running(t);
    const file = t.path("lines");
    const loop = 'i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo "line $i"; sleep 0.1; done';
    await t.must("tasks", "exec", "-d", "--exec-id", "log", "--log-uri", `file://${file}`, id, "sh", "-c", loop);
    await eventually("the first line", async () =>
      (await readFile(file, "utf8").catch(() => "")) === "" ? undefined : true,
    );
    await t.daemon.stop("SIGKILL");
    await t.daemon.launch();
    await eventually(
      "the last line",
      async () => ((await readFile(file, "utf8")).endsWith("line 40\n") ? true : undefined),
      30_000,
    );
    const lines = (await readFile(file, "utf8")).trim().split("\n");
    expect(lines).toEqual(Array.from({ length: 40 }, (_, index) => `line ${index + 1}`));
    await eventually("the exec to end", async () =>
      (await t.ctr("tasks", "delete", "--exec-id", "log", id)).code === 0 ? true : undefined,
    );
  },
);

row("F04", "an exec has three descriptors and nothing of the shim or the runtime", { casts: ENDS }, async (t) => {
  const id = await running(t);
  // The shell reads the folder by a descriptor of its own.
  const { output } = await execute(t, id, processOf("ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0"));
  expect(output).toBe("0 1 2 3 /dev/null\n");
});

const ROUNDS = 300;

row(
  "F34",
  "three hundred failed execs, attaches and resizes leave nothing in the shim and the daemon",
  {
    casts: ["ours"],
    source: "users.md: shims of containerd grow with failed execs",
    ownDaemon: true,
    timeoutMs: 400_000,
  },
  async (t) => {
    const id = await running(t);
    const shim = await shimOf(t, id);
    const of = { address: t.daemon.address, namespace: t.namespace, containerId: id };
    await failOften({ ...of, rounds: 60 });
    const before = { daemon: await heldBy(t.daemon.pid), shim: await heldBy(shim) };
    await failOften({ ...of, rounds: ROUNDS - 60 });
    const after = { daemon: await quiet(t.daemon.pid, before.daemon), shim: await quiet(shim, before.shim) };
    // What a collector's moods explain in so few rounds; 10,000 of them have the bound that counts.
    for (const who of ["daemon", "shim"] as const)
      expect(after[who].kibibytes - before[who].kibibytes).toBeLessThan(16 * 1024);
    const bundle = `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`;
    expect((await readdir(bundle)).filter((name) => /^(f\d|\.?none)/.test(name))).toEqual([]);
    expect(await execute(t, id, processOf("echo fine"))).toEqual({ status: 0, output: "fine\n" });
  },
);

row(
  "F26",
  "a program takes the output of a first process and of an exec, and is told whose it is",
  { casts: ENDS },
  async (t) => {
    const [logger, taken] = [t.path(t.id("logger")), t.path(t.id("taken"))];
    // Descriptors of a logger: 3 and 4 are the process's output and error output, 5 is closed when it is ready. It is told to end once they are closed.
    const script = `trap '' TERM
out=${taken}.$2
echo "$CONTAINER_NAMESPACE $CONTAINER_ID $*" >$out
cat <&3 >>$out 5>&- &
cat <&4 >$out.err 5>&- &
exec 5>&-
wait`;
    await writeFile(logger, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const uri = (tag: string): string => `binary://${logger}?tag=${tag}`;
    const id = t.id("c");
    const says = (word: string): string => `echo ${word}; echo ${word} to error >&2`;
    await t.must(
      "run",
      "-d",
      "--log-uri",
      uri("init"),
      await t.image(),
      id,
      "sh",
      "-c",
      `${says("first")}; sleep 1000`,
    );
    await t.must("tasks", "exec", "--exec-id", "e", "--log-uri", uri("exec"), id, "sh", "-c", says("second"));
    const holds = async (name: string, text: string): Promise<void> => {
      await eventually(`${name} to hold ${text}`, async () =>
        (await readFile(`${taken}.${name}`, "utf8").catch(() => "")) === text ? true : undefined,
      );
    };
    await holds("exec", `${t.namespace} e tag exec\nsecond\n`);
    await holds("exec.err", "second to error\n");
    await holds("init", `${t.namespace} ${id} tag init\nfirst\n`);
    await holds("init.err", "first to error\n");
  },
);
