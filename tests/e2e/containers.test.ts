import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const columns = (text: string): string[] => (text.split("\n")[0] ?? "").trim().split(/\s+/);

async function taskOf(t: Stage, id: string): Promise<{ pid: number; status: string }> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid = "0", status = "gone"] = line?.trim().split(/\s+/) ?? [];
  return { pid: Number(pid), status };
}

async function kill(t: Stage, id: string): Promise<void> {
  await t.must("tasks", "kill", "-s", "KILL", id);
  await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
}

async function removeFifos(exec: string): Promise<void> {
  for (const folder of await readdir("/run/containerd/fifo")) {
    for (const name of await readdir(`/run/containerd/fifo/${folder}`)) {
      if (name.startsWith(`${exec}-`)) await rm(`/run/containerd/fifo/${folder}/${name}`);
    }
  }
}

const bundleOf = (t: Stage, id: string): string =>
  `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`;

row(
  "G18",
  "create makes a container and no task; start makes the task",
  {
    covers: [
      "cmd:ctr containers create",
      "cmd:ctr tasks start",
      "flag:ctr tasks start --detach",
      "rpc:containerd.services.containers.v1.Containers/Create",
    ],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("containers", "create", await t.image(), id, "sleep", "1000");
    expect(await t.must("containers", "ls", "-q")).toBe(`${id}\n`);
    expect(await t.must("tasks", "ls", "-q")).toBe("");
    await t.must("tasks", "start", "-d", id);
    expect((await taskOf(t, id)).status).toBe("RUNNING");
  },
);

row("F32", "a container's task can be started again after it was deleted", {}, async (t) => {
  const id = t.id("c");
  // No "sh -c": the peer takes the -c for its own flag, --config.
  await t.must("containers", "create", await t.image(), id, "ls", "/nowhere");
  for (let times = 0; times < 2; times += 1) {
    const ran = await t.ctr("tasks", "start", id);
    expect(ran).toMatchObject({ code: 1, stderr: "ls: /nowhere: No such file or directory\n" });
  }
});

row("G16", "a container without an image shows a dash", {}, async (t) => {
  await mkdir(t.path(t.id("rootfs")));
  await t.must("containers", "create", "--rootfs", t.path(t.id("rootfs")), t.id("c"), "true");
  const listed = await t.must("containers", "ls");
  expect(columns(listed)).toEqual(["CONTAINER", "IMAGE", "RUNTIME"]);
  expect(listed).toMatch(new RegExp(`^${t.id("c")}\\s+-\\s+io.containerd.runc.v2`, "m"));
});

row(
  "G19",
  "info is JSON with ID, Labels, Image, Runtime, SnapshotKey, Snapshotter and Spec",
  {
    covers: [
      "cmd:ctr containers info",
      "flag:ctr containers info --spec",
      "flag:ctr containers create --label",
      "rpc:containerd.services.containers.v1.Containers/Get",
    ],
  },
  async (t) => {
    const image = await t.image();
    const id = t.id("c");
    await t.must("containers", "create", "--label", "a=b", image, id, "echo", "x");
    const info: unknown = JSON.parse(await t.must("containers", "info", id));
    expect(info).toMatchObject({
      ID: id,
      Image: image,
      SnapshotKey: id,
      Snapshotter: "overlayfs",
      Runtime: { Name: "io.containerd.runc.v2" },
      Labels: { a: "b" },
    });
    expect(info).toHaveProperty("Spec.process.args", ["echo", "x"]);
    const spec: unknown = JSON.parse(await t.must("containers", "info", "--spec", id));
    expect(spec).toHaveProperty("process.args", ["echo", "x"]);
    expect(spec).toHaveProperty("linux.cgroupsPath", `/${t.namespace}/${id}`);
  },
);

row(
  "G29",
  "delete takes the snapshot too; what runs is refused",
  { covers: ["cmd:ctr containers delete", "rpc:containerd.services.containers.v1.Containers/Delete"] },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    const refused = await t.ctr("containers", "rm", id);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("cannot delete a non stopped container");
    await kill(t, id);
    await t.ctr("tasks", "rm", id);
    expect(await t.must("snapshots", "ls")).toContain(`${id} `);
    await t.must("containers", "rm", id);
    expect(await t.must("snapshots", "ls")).not.toContain(`${id} `);
    const missing = await t.ctr("containers", "rm", id);
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("not found");
  },
);

row(
  "G36",
  "container labels",
  { covers: ["cmd:ctr containers label", "rpc:containerd.services.containers.v1.Containers/Update"] },
  async (t) => {
    const id = t.id("c");
    await t.must("containers", "create", await t.image(), id, "true");
    await t.must("containers", "label", id, "x=1");
    expect(JSON.parse(await t.must("containers", "info", id))).toHaveProperty("Labels.x", "1");
  },
);

row(
  "G17",
  "tasks ls: TASK, PID, STATUS, through created, running, paused and stopped",
  {
    covers: [
      "cmd:ctr tasks list",
      "flag:ctr tasks list --quiet",
      "cmd:ctr tasks pause",
      "cmd:ctr tasks resume",
      "rpc:containerd.services.tasks.v1.Tasks/Pause",
      "rpc:containerd.services.tasks.v1.Tasks/Resume",
      "rpc:containerd.services.tasks.v1.Tasks/List",
    ],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    expect(columns(await t.must("tasks", "ls"))).toEqual(["TASK", "PID", "STATUS"]);
    await t.must("tasks", "pause", id);
    expect((await taskOf(t, id)).status).toBe("PAUSED");
    await t.must("tasks", "resume", id);
    expect((await taskOf(t, id)).status).toBe("RUNNING");
    await kill(t, id);
    expect((await taskOf(t, id)).status).toBe("STOPPED");
  },
);

row(
  "F12",
  "a stopped task stays listed until it is deleted, and deleting tells its status",
  { covers: ["cmd:ctr tasks delete", "rpc:containerd.services.tasks.v1.Tasks/Delete"] },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sh", "-c", "exit 12");
    await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
    expect(await t.must("containers", "ls", "-q")).toBe(`${id}\n`);
    await t.ctr("tasks", "delete", id);
    expect(await t.must("tasks", "ls", "-q")).toBe("");
  },
);

row(
  "G21",
  "tasks ps lists the host's pids",
  { covers: ["cmd:ctr tasks ps", "rpc:containerd.services.tasks.v1.Tasks/ListPids"] },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sh", "-c", "sleep 1000 & exec sleep 1000");
    const listed = await eventually("both processes", async () => {
      const text = await t.must("tasks", "ps", id);
      return text.split("\n").filter((line) => /^\d/.test(line)).length === 2 ? text : undefined;
    });
    expect(columns(listed)).toEqual(["PID", "INFO"]);
    expect(listed).toMatch(new RegExp(`^${(await taskOf(t, id)).pid}\\s`, "m"));
  },
);

row(
  "G23",
  "an exec id is used once at a time; an exec in a stopped task is refused",
  {
    covers: [
      "cmd:ctr tasks exec",
      "flag:ctr tasks exec --exec-id",
      "flag:ctr tasks exec --detach",
      "rpc:containerd.services.tasks.v1.Tasks/Exec",
    ],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    await t.must("tasks", "exec", "-d", "--exec-id", "one", id, "sleep", "1000");
    const second = await t.ctr("tasks", "exec", "--exec-id", "one", id, "true");
    expect(second.code).toBe(1);
    expect(second.stderr).toContain("already exists");
    await kill(t, id);
    expect((await t.ctr("tasks", "exec", "--exec-id", "two", id, "true")).code).toBe(1);
    // Debian's ctr leaves the FIFOs of a detached exec behind.
    if (t.cast.client === "debian") await removeFifos("one");
  },
);

row(
  "G23",
  "exec in a folder, as a user",
  { covers: ["flag:ctr tasks exec --cwd", "flag:ctr tasks exec --user"] },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    expect(
      await t.must(
        "tasks",
        "exec",
        "--exec-id",
        "e",
        "--cwd",
        "/tmp",
        "--user",
        "1000:1001",
        id,
        "sh",
        "-c",
        "pwd; id -u; id -g",
      ),
    ).toBe("/tmp\n1000\n1001\n");
  },
);

row(
  "G27",
  "kill sends TERM by default, or the signal asked for, to init or to all",
  {
    covers: [
      "cmd:ctr tasks kill",
      "flag:ctr tasks kill --signal",
      "flag:ctr tasks kill --all",
      "rpc:containerd.services.tasks.v1.Tasks/Kill",
    ],
  },
  async (t) => {
    const id = t.id("c");
    await t.must(
      "run",
      "-d",
      await t.image(),
      id,
      "sh",
      "-c",
      "trap 'exit 21' TERM; trap 'exit 22' USR1; touch /ready; while :; do sleep 0.1; done",
    );
    await eventually("the trap", async () =>
      (await t.ctr("tasks", "exec", "--exec-id", "r", id, "test", "-e", "/ready")).code === 0 ? true : undefined,
    );
    const attached = t.ctr("tasks", "attach", id);
    await Bun.sleep(200);
    await t.must("tasks", "kill", id);
    expect((await attached).code).toBe(21);
    await t.ctr("tasks", "rm", id);
    const missing = await t.ctr("tasks", "kill", t.id("nobody"));
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain("not found");
  },
);

row("F18", "no runc process stays beside a running container", {}, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const found: string[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const command = (await readFile(`/proc/${entry}/cmdline`, "utf8").catch(() => "")).split("\0");
    if (command[0]?.endsWith("runc") === true && command.includes(id)) found.push(command.join(" "));
  }
  expect(found).toEqual([]);
});

row("A14", "the bundle holds config.json and the root file system", {}, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const bundle = bundleOf(t, id);
  const names = await readdir(bundle);
  for (const name of ["config.json", "init.pid", "rootfs", "work"]) expect(names).toContain(name);
  expect(await readdir(`${bundle}/rootfs`)).toContain("bin");
  expect(Number(await readFile(`${bundle}/init.pid`, "utf8"))).toBe((await taskOf(t, id)).pid);
  const config: unknown = JSON.parse(await readFile(`${bundle}/config.json`, "utf8"));
  expect(config).toHaveProperty("process.args", ["sleep", "1000"]);
  expect(await readlink(`${bundle}/work`)).toBe(`${t.daemon.root}/io.containerd.runtime.v2.task/${t.namespace}/${id}`);
  await kill(t, id);
  await t.ctr("tasks", "rm", id);
  expect(existsSync(bundle)).toBe(false);
});

row("D07", "a running container's root is an overlay of its layers", {}, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const mount =
    (await readFile("/proc/self/mountinfo", "utf8"))
      .split("\n")
      .find((line) => line.includes(`${bundleOf(t, id)}/rootfs`)) ?? "";
  expect(mount).toContain(" - overlay overlay ");
  expect(mount).toContain("/io.containerd.snapshotter.v1.overlayfs/snapshots/");
  expect(mount).toMatch(/upperdir=[^,]*\/fs,workdir=[^,]*\/work/);
});

row(
  "W8",
  "a host folder is mounted and what is written there stays",
  { covers: ["flag:ctr run --mount"] },
  async (t) => {
    const host = t.path(t.id("host"));
    await mkdir(host);
    await writeFile(`${host}/in`, "from the host\n");
    const mount = `type=bind,src=${host},dst=/hostdir,options=rbind:rw`;
    expect(
      await t.must(
        "run",
        "--rm",
        "--mount",
        mount,
        await t.image(),
        t.id("c"),
        "sh",
        "-c",
        "cat /hostdir/in; echo inside >/hostdir/out",
      ),
    ).toBe("from the host\n");
    expect(await readFile(`${host}/out`, "utf8")).toBe("inside\n");
  },
);

row(
  "G31",
  "a second container shares the first one's pid namespace",
  { covers: ["flag:ctr run --with-ns"] },
  async (t) => {
    const image = await t.image();
    await t.must("run", "-d", image, t.id("a"), "sleep", "1234");
    const { pid } = await taskOf(t, t.id("a"));
    expect(await t.must("run", "--rm", "--with-ns", `pid:/proc/${pid}/ns/pid`, image, t.id("b"), "ps")).toContain(
      "sleep 1234",
    );
  },
);

row("G22", "the host's network", { covers: ["flag:ctr run --net-host"] }, async (t) => {
  const inside = await t.must("run", "--rm", "--net-host", await t.image(), t.id("c"), "readlink", "/proc/self/ns/net");
  expect(inside.trim()).toBe(await readlink("/proc/self/ns/net"));
  const alone = await t.must("run", "--rm", await t.image(), t.id("d"), "readlink", "/proc/self/ns/net");
  expect(alone.trim()).not.toBe(inside.trim());
});

row(
  "G15",
  "environment, folder, read-only root and pid file",
  {
    covers: [
      "flag:ctr run --env",
      "flag:ctr run --cwd",
      "flag:ctr run --read-only",
      "flag:ctr run --pid-file",
      "flag:ctr run --env-file",
    ],
  },
  async (t) => {
    const image = await t.image();
    const [envFile, pidFile] = [t.path(t.id("env")), t.path(t.id("pid"))];
    await writeFile(envFile, "FILED=yes\n");
    const flags = ["--env", "COLOR=red", "--env-file", envFile, "--cwd", "/tmp", "--read-only", "--pid-file", pidFile];
    const ran = await t.ctr(
      "run",
      "--rm",
      ...flags,
      image,
      t.id("c"),
      "sh",
      "-c",
      "echo $COLOR $FILED; pwd; touch /x 2>&1",
    );
    expect(ran.stdout).toStartWith("red yes\n/tmp\n");
    expect(ran.stdout).toContain("Read-only file system");
    expect(Number(await readFile(pidFile, "utf8"))).toBeGreaterThan(1);
  },
);

row(
  "G15",
  "user and host name",
  { covers: ["flag:ctr run --user", "flag:ctr run --hostname"], casts: ["ours", "our-ctr"] },
  async (t) => {
    // Flags of ctr 2: its source decides, Debian's ctr does not know them.
    const ran = await t.ctr(
      "run",
      "--rm",
      "--user",
      "1000:1001",
      "--hostname",
      "boxed",
      await t.image(),
      t.id("c"),
      "sh",
      "-c",
      "id -u; id -g; hostname",
    );
    expect(ran).toEqual({ code: 0, stdout: "1000\n1001\nboxed\n", stderr: "" });
  },
);

row(
  "G15",
  "memory and cpu limits end up where they belong",
  { covers: ["flag:ctr run --memory-limit", "flag:ctr run --cpus"] },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--memory-limit", "67108864", "--cpus", "0.5", await t.image(), id, "sleep", "1000");
    expect(JSON.parse(await t.must("containers", "info", "--spec", id))).toMatchObject({
      linux: { resources: { memory: { limit: 67_108_864 }, cpu: { quota: 50_000, period: 100_000 } } },
    });
    const folder = `/sys/fs/cgroup/memory/${t.namespace}/${id}`;
    if (existsSync(folder)) expect(await readFile(`${folder}/memory.limit_in_bytes`, "utf8")).toBe("67108864\n");
  },
);

row(
  "G15",
  "capabilities: the default set, one more, one less, all",
  { covers: ["flag:ctr run --cap-add", "flag:ctr run --cap-drop", "flag:ctr run --privileged"] },
  async (t) => {
    const image = await t.image();
    const caps = async (name: string, ...flags: string[]): Promise<bigint> => {
      const text = await t.must("run", "--rm", ...flags, image, t.id(name), "grep", "CapEff", "/proc/self/status");
      return BigInt(`0x${text.trim().split(/\s+/)[1]}`);
    };
    const base = await caps("a");
    expect(base).toBe(0xa80425fbn);
    const NET_ADMIN = 1n << 12n;
    const CHOWN = 1n << 0n;
    expect(await caps("b", "--cap-add", "CAP_NET_ADMIN")).toBe(base | NET_ADMIN);
    expect(await caps("c", "--cap-drop", "CAP_CHOWN")).toBe(base & ~CHOWN);
  },
);

row("W11", "a hand-made spec on an exported root file system", { covers: ["flag:ctr run --config"] }, async (t) => {
  const rootfs = t.path(t.id("rootfs"));
  await mkdir(`${rootfs}/bin`, { recursive: true });
  for (const folder of ["proc", "dev", "sys"]) await mkdir(`${rootfs}/${folder}`);
  await exec(["cp", "/bin/busybox", `${rootfs}/bin/sh`]);
  const made = t.path(t.id("spec"));
  await mkdir(made);
  expect((await exec(["runc", "spec"], { cwd: made, env: { PATH: "/usr/sbin:/usr/bin:/bin" } })).code).toBe(0);
  const text = await readFile(`${made}/config.json`, "utf8");
  const spec = text
    .replace('"path": "rootfs"', `"path": ${JSON.stringify(rootfs)}`)
    .replace('"terminal": true', '"terminal": false')
    .replace(/"args": \[[^\]]*\]/, '"args": ["sh", "-c", "echo by hand"]')
    .replace(/\{\s*"type": "network"\s*\},\s*/, "");
  await writeFile(`${made}/config.json`, spec);
  const ran = await t.ctr("run", "--rm", "--config", `${made}/config.json`, t.id("c"));
  expect(ran).toEqual({ code: 0, stdout: "by hand\n", stderr: "" });
});

row("F26", "stdio to /dev/null with --null-io", { covers: ["flag:ctr run --null-io"] }, async (t) => {
  const ran = await t.ctr("run", "--rm", "--null-io", await t.image(), t.id("c"), "sh", "-c", "echo unheard; exit 3");
  expect(ran).toMatchObject({ code: 3, stdout: "" });
});

row("F26", "output to a file by --log-uri", { covers: ["flag:ctr run --log-uri"] }, async (t) => {
  const image = await t.image();
  // Debian's shim closes the file under its own copying now and then ("error copying stderr"); the question to it is whether it can.
  const attempts = t.cast.shim === "debian" ? 6 : 1;
  const written = async (attempt: number): Promise<true> => {
    const log = t.path(t.id(`log${attempt}`));
    const command = ["sh", "-c", "echo kept; echo err >&2"];
    await t.must("run", "-d", "--log-uri", `file://${log}`, image, t.id(`c${attempt}`), ...command);
    const probe = async (): Promise<true | undefined> =>
      (await readFile(log, "utf8").catch(() => "")).split("\n").sort().join() === ",err,kept" ? true : undefined;
    return eventually("both lines", probe, attempts === 1 ? 10_000 : 3_000);
  };
  for (let attempt = 1; ; attempt += 1) {
    try {
      await written(attempt);
      return;
    } catch (error) {
      if (attempt === attempts) throw error;
    }
  }
});

row(
  "G36",
  "tasks metrics as table and JSON",
  {
    covers: [
      "cmd:ctr tasks metrics",
      "flag:ctr tasks metrics --format",
      "rpc:containerd.services.tasks.v1.Tasks/Metrics",
    ],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    const table = await t.must("tasks", "metrics", id);
    expect(columns(table)).toEqual(["ID", "TIMESTAMP"]);
    expect(table).toContain(id);
    expect(table).toMatch(/^(memory|pids)\./m);
    const json: unknown = JSON.parse(await t.must("tasks", "metrics", "--format", "json", id));
    expect(json).toHaveProperty("pids.current");
  },
);
