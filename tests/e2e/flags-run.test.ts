// Flags of `ctr run` and `ctr containers create`, each by what it changes: in the process, on the host, or in the container's
// record. Cases with `source` are of flags that Debian's ctr 1.6 does not have.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const NEWER = { casts: ["ours", "our-ctr"], source: "containerd 2.3.4, ctr run --help" } as const;

async function pidOf(t: Stage, id: string): Promise<number> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return Number(line?.trim().split(/\s+/)[1]);
}

async function infoOf(t: Stage, id: string): Promise<unknown> {
  return JSON.parse(await t.must("containers", "info", id));
}

async function specOf(t: Stage, id: string): Promise<unknown> {
  return JSON.parse(await t.must("containers", "info", "--spec", id));
}

/** Creates a container with flags, and gives its spec. */
async function created(t: Stage, name: string, ...flags: string[]): Promise<unknown> {
  await t.must("containers", "create", ...flags, await t.image(), t.id(name), "true");
  return specOf(t, t.id(name));
}

/** What a shell in a container with these flags prints. */
async function inside(t: Stage, flags: readonly string[], script: string): Promise<string> {
  const ran = await t.ctr("run", "--rm", ...flags, await t.image(), t.id("c"), "sh", "-c", script);
  expect(ran).toMatchObject({ code: 0, stderr: "" });
  return ran.stdout;
}

row(
  "G15",
  "containers create: the process's environment, folder, terminal, root and mounts",
  {
    covers: [
      "flag:ctr containers create --env",
      "flag:ctr containers create --env-file",
      "flag:ctr containers create --cwd",
      "flag:ctr containers create --tty",
      "flag:ctr containers create --read-only",
      "flag:ctr containers create --mount",
      "flag:ctr containers create --annotation",
      "flag:ctr containers create --rootfs-propagation",
    ],
  },
  async (t) => {
    const file = t.path(t.id("env"));
    await writeFile(file, "FILED=yes\n");
    const plain = await created(t, "plain");
    expect(plain).not.toMatchObject({ process: { terminal: true } });
    expect(plain).not.toMatchObject({ root: { readonly: true } });
    const mount = "type=bind,src=/tmp,dst=/there,options=rbind:ro";
    const flags = ["--env", "COLOR=red", "--env-file", file, "--cwd", "/tmp", "--tty", "--read-only", "--mount", mount];
    const spec = await created(t, "c", ...flags, "--annotation", "who=me", "--rootfs-propagation", "shared");
    expect(spec).toMatchObject({
      process: { cwd: "/tmp", terminal: true },
      root: { readonly: true },
      annotations: { who: "me" },
      linux: { rootfsPropagation: "shared" },
    });
    const text = JSON.stringify(spec);
    for (const variable of ["COLOR=red", "FILED=yes", "TERM=xterm"]) expect(text).toContain(JSON.stringify(variable));
    expect(text).toMatch(/\{[^{}]*"destination":"\/there"[^{}]*"options":\["rbind","ro"\][^{}]*\}/);
  },
);

row(
  "G15",
  "containers create: namespaces, limits, privileges and devices",
  {
    covers: [
      "flag:ctr containers create --net-host",
      "flag:ctr containers create --with-ns",
      "flag:ctr containers create --memory-limit",
      "flag:ctr containers create --cpu-quota",
      "flag:ctr containers create --cpu-period",
      "flag:ctr containers create --cap-add",
      "flag:ctr containers create --cap-drop",
      "flag:ctr containers create --allow-new-privs",
      "flag:ctr containers create --device",
      "flag:ctr containers create --apparmor-profile",
      "flag:ctr containers create --rdt-class",
    ],
  },
  async (t) => {
    const plain = await created(t, "plain");
    expect(plain).toMatchObject({ process: { noNewPrivileges: true } });
    expect(JSON.stringify(plain)).toContain('{"type":"network"}');
    const limits = ["--memory-limit", "67108864", "--cpu-quota", "20000", "--cpu-period", "50000"];
    const privileges = ["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN", "--allow-new-privs"];
    const more = ["--with-ns", "ipc:/proc/1/ns/ipc", "--device", "/dev/full", "--apparmor-profile", "mine"];
    const spec = await created(t, "c", "--net-host", ...limits, ...privileges, ...more, "--rdt-class", "slow");
    expect(spec).toMatchObject({
      process: { apparmorProfile: "mine" },
      linux: {
        resources: { memory: { limit: 67_108_864 }, cpu: { quota: 20_000, period: 50_000 } },
        devices: [{ path: "/dev/full", type: "c", major: 1, minor: 7 }],
        intelRdt: { closID: "slow" },
      },
    });
    const text = JSON.stringify(spec);
    expect(text).not.toContain('{"type":"network"}');
    expect(text).toContain('{"type":"ipc","path":"/proc/1/ns/ipc"}');
    expect(text).toContain("CAP_NET_ADMIN");
    expect(text).not.toContain("CAP_CHOWN");
    expect(spec).not.toMatchObject({ process: { noNewPrivileges: true } });
  },
);

row(
  "G15",
  "containers create: privileged, seccomp, and a profile from a file",
  {
    covers: [
      "flag:ctr containers create --privileged",
      "flag:ctr containers create --seccomp",
      "flag:ctr containers create --seccomp-profile",
    ],
  },
  async (t) => {
    const all = JSON.stringify(await created(t, "all", "--privileged"));
    expect(all).toContain("CAP_SYS_ADMIN");
    expect(all).toContain('"/dev/full"');
    expect(all).not.toContain("/proc/kcore");
    expect(await created(t, "plain")).not.toHaveProperty("linux.seccomp");
    expect(await created(t, "usual", "--seccomp")).toHaveProperty("linux.seccomp.defaultAction", "SCMP_ACT_ERRNO");
    const profile = t.path(t.id("profile"));
    await writeFile(
      profile,
      '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}',
    );
    expect(await created(t, "own", "--seccomp", "--seccomp-profile", profile)).toMatchObject({
      linux: {
        seccomp: { defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_ERRNO" }] },
      },
    });
    const refused = await t.ctr("run", "--rm", "--seccomp-profile", profile, await t.image(), t.id("c"), "true");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("seccomp must be set to true");
  },
);

row(
  "G15",
  "containers create: runtime, its configuration, and the snapshot beneath",
  {
    covers: [
      "flag:ctr containers create --runtime",
      "flag:ctr containers create --runtime-config-path",
      "flag:ctr containers create --snapshotter",
      "flag:ctr containers create --snapshotter-label",
      "flag:ctr containers create --rootfs",
      "flag:ctr containers create --config",
      "flag:ctr containers delete --keep-snapshot",
    ],
  },
  async (t) => {
    const image = await t.image();
    await t.must("images", "rm", image);
    const label = ["--snapshotter-label", "containerd.io/snapshot/x=y"];
    const flags = ["--runtime", "io.example.other.v7", "--runtime-config-path", "/etc/other.toml", ...label];
    // The layers are unpacked for the other snapshotter by hand, as run does by itself.
    const again = t.path(t.id("again.tar"));
    await t.image({ name: "docker.io/library/again:1" });
    await t.must("images", "export", again, "docker.io/library/again:1");
    await t.must("images", "import", "--snapshotter", "native", again);
    const id = t.id("c");
    await t.must("containers", "create", "--snapshotter", "native", ...flags, "docker.io/library/again:1", id, "true");
    const info = await infoOf(t, id);
    expect(info).toMatchObject({ Snapshotter: "native", SnapshotKey: id, Runtime: { Name: "io.example.other.v7" } });
    expect(JSON.stringify(info)).toContain("runtimeoptions.v1.Options");
    expect(JSON.stringify(info)).toContain(Buffer.from("\u0012\u000f/etc/other.toml").toString("base64").slice(0, 20));
    const snapshot: unknown = JSON.parse(await t.must("snapshots", "--snapshotter", "native", "info", id));
    expect(snapshot).toHaveProperty(["Labels", "containerd.io/snapshot/x"], "y");
    await t.must("containers", "rm", "--keep-snapshot", id);
    expect(await t.must("snapshots", "--snapshotter", "native", "ls")).toContain(`${id} `);
    await t.must("snapshots", "--snapshotter", "native", "rm", id);

    const folder = t.path(t.id("rootfs"));
    await mkdir(folder);
    await t.must("containers", "create", "--rootfs", folder, t.id("rooted"), "true");
    expect(await specOf(t, t.id("rooted"))).toMatchObject({ root: { path: folder } });
    const written = t.path(t.id("spec.json"));
    await writeFile(written, '{"ociVersion":"1.0.2","process":{"args":["by","hand"],"cwd":"/"},"root":{"path":"r"}}');
    await t.must("containers", "create", "--config", written, t.id("configured"));
    expect(await specOf(t, t.id("configured"))).toMatchObject({ process: { args: ["by", "hand"] } });
  },
);

row(
  "G15",
  "containers create: user, host name and runc's options",
  {
    ...NEWER,
    covers: [
      "flag:ctr containers create --user",
      "flag:ctr containers create --hostname",
      "flag:ctr containers create --runc-binary",
      "flag:ctr containers create --runc-root",
      "flag:ctr containers create --runc-systemd-cgroup",
    ],
  },
  async (t) => {
    const runc = ["--runc-binary", "/opt/other-runc", "--runc-root", "/run/other-root", "--runc-systemd-cgroup"];
    const spec = await created(t, "c", "--user", "1000:1001", "--hostname", "boxed", ...runc);
    expect(spec).toMatchObject({ process: { user: { uid: 1000, gid: 1001 } }, hostname: "boxed" });
    const plain = JSON.stringify(
      await (async () => {
        await created(t, "plain");
        return infoOf(t, t.id("plain"));
      })(),
    );
    const value = /"value":"([^"]*)"/.exec(JSON.stringify(await infoOf(t, t.id("c"))))?.[1] ?? "";
    const options = Buffer.from(value, "base64");
    for (const text of ["/opt/other-runc", "/run/other-root"]) {
      expect(options.includes(text)).toBe(true);
      expect(Buffer.from(/"value":"([^"]*)"/.exec(plain)?.[1] ?? "", "base64").includes(text)).toBe(false);
    }
    // Field 9, systemd_cgroup, is true.
    expect(options.includes(Buffer.from([0x48, 0x01]))).toBe(true);
  },
);

/** A runc that notes how it was called. */
async function notingRunc(t: Stage): Promise<{ readonly path: string; readonly calls: () => Promise<string> }> {
  const [path, log] = [t.path(t.id("runc")), t.path(t.id("runc-calls"))];
  await writeFile(path, `#!/bin/sh\necho "$*" >>${log}\nexec runc "$@"\n`, { mode: 0o755 });
  return { path, calls: async () => readFile(log, "utf8").catch(() => "") };
}

row(
  "G15",
  "run: the runtime's binary, root and cgroup manager, and no pivot_root",
  {
    covers: [
      "cmd:ctr run",
      "flag:ctr run --runc-binary",
      "flag:ctr run --runc-root",
      "flag:ctr run --runc-systemd-cgroup",
      "flag:ctr run --no-pivot",
    ],
  },
  async (t) => {
    const runc = await notingRunc(t);
    const [root, id] = [t.path(t.id("root")), t.id("c")];
    // With no-pivot 1.6's client forgets the other options.
    const pivot = t.cast.client === "ours" ? ["--no-pivot"] : [];
    const flags = ["--runc-binary", runc.path, "--runc-root", root, ...pivot];
    await t.must("run", "-d", "--null-io", ...flags, await t.image(), id, "sleep", "1000");
    expect(await readdir(`${root}/${t.namespace}`)).toEqual([id]);
    if (t.cast.client === "ours") expect(await runc.calls()).toMatch(/create .*--no-pivot/);
    expect(await runc.calls()).not.toContain("--systemd-cgroup");
    await t.must("tasks", "rm", "-f", id).catch(() => undefined);
    // Without systemd it fails, and says so; with it this goes on.
    const flags2 = ["--runc-binary", runc.path, "--runc-systemd-cgroup", "--cgroup", `system.slice:stv:${t.id("d")}`];
    await t.ctr("run", "--rm", ...flags2, await t.image(), t.id("d"), "true");
    expect(await runc.calls()).toContain("--systemd-cgroup");
  },
);

row(
  "G15",
  "run: labels, annotations, runtime and snapshotter of the container",
  {
    covers: [
      "flag:ctr run --label",
      "flag:ctr run --annotation",
      "flag:ctr run --runtime",
      "flag:ctr run --snapshotter",
      "flag:ctr run --snapshotter-label",
      "flag:ctr run --detach",
    ],
  },
  async (t) => {
    const shim = t.path("bin/containerd-shim-other-v1");
    await writeFile(shim, `#!/bin/sh\nexec ${t.path("bin/containerd-shim-runc-v2")} "$@"\n`, { mode: 0o755 });
    const id = t.id("c");
    const flags = ["--label", "a=b", "--annotation", "who=me", "--runtime", "io.containerd.other.v1"];
    const below = ["--snapshotter", "native", "--snapshotter-label", "containerd.io/snapshot/x=y"];
    await t.must("run", "-d", "--null-io", ...flags, ...below, await t.image(), id, "sleep", "1000");
    expect(await infoOf(t, id)).toMatchObject({
      Labels: { a: "b" },
      Runtime: { Name: "io.containerd.other.v1" },
      Snapshotter: "native",
      Spec: { annotations: { who: "me" } },
    });
    const snapshot: unknown = JSON.parse(await t.must("snapshots", "--snapshotter", "native", "info", id));
    expect(snapshot).toMatchObject({ Kind: "Active", Labels: { "containerd.io/snapshot/x": "y" } });
    const mounts = await readFile("/proc/self/mountinfo", "utf8");
    expect(mounts).toMatch(RegExp(`snapshotter\\.v1\\.native/snapshots/\\d+ ${t.daemon.state}/[^ ]*/${id}/rootfs `));
  },
);

row(
  "G15",
  "run: privileges of the process",
  {
    covers: [
      "flag:ctr run --allow-new-privs",
      "flag:ctr run --seccomp",
      "flag:ctr run --seccomp-profile",
      "flag:ctr run --device",
      "flag:ctr run --rootfs-propagation",
    ],
  },
  async (t) => {
    const status = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t\\n'";
    expect(await inside(t, [], status)).toBe("NoNewPrivs:1Seccomp:0");
    expect(await inside(t, ["--allow-new-privs"], status)).toBe("NoNewPrivs:0Seccomp:0");
    expect(await inside(t, ["--seccomp"], status)).toBe("NoNewPrivs:1Seccomp:2");
    const profile = t.path(t.id("profile"));
    await writeFile(
      profile,
      '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}',
    );
    expect(await inside(t, ["--seccomp", "--seccomp-profile", profile], "mkdir /x 2>&1; touch /y && echo made")).toBe(
      "mkdir: can't create directory '/x': Operation not permitted\nmade\n",
    );
    const node = t.path("node");
    if (!existsSync(node)) await exec(["mknod", node, "c", "1", "5"], { env: { PATH: "/usr/bin:/bin" } });
    expect(await inside(t, ["--device", node], `head -c 3 ${node} | wc -c`)).toBe("3\n");
    await t.must("run", "--rootfs-propagation", "shared", await t.image(), t.id("p"), "true");
    expect(await specOf(t, t.id("p"))).toMatchObject({ linux: { rootfsPropagation: "shared" } });
  },
);

row(
  "G15",
  "run: profiles and classes are in the spec, for the runtime to refuse or to use",
  { covers: ["flag:ctr run --apparmor-profile", "flag:ctr run --rdt-class"] },
  async (t) => {
    for (const [flag, path, name] of [
      ["--apparmor-profile", "process.apparmorProfile", "stv-no-such-profile"],
      ["--rdt-class", "linux.intelRdt.closID", "stv-no-such-class"],
    ] as const) {
      const id = t.id(name);
      await t.ctr("run", flag, name, await t.image(), id, "true");
      expect(await specOf(t, id)).toHaveProperty(path, name);
    }
  },
);

row(
  "G15",
  "run: cgroup and processor time",
  {
    covers: [
      "flag:ctr run --cgroup",
      "flag:ctr run --cpu-shares",
      "flag:ctr run --cpu-quota",
      "flag:ctr run --cpu-period",
    ],
  },
  async (t) => {
    const id = t.id("c");
    const flags = ["--cpu-shares", "512", "--cpu-quota", "20000", "--cpu-period", "50000"];
    const cgroup = `/${t.namespace}/sub-${id}`;
    await t.must("run", "-d", "--null-io", "--cgroup", cgroup, ...flags, await t.image(), id, "sleep", "1000");
    const pid = await pidOf(t, id);
    const groups = await readFile(`/proc/${pid}/cgroup`, "utf8");
    expect(groups).toContain(`:${cgroup}\n`);
    const line = groups.split("\n").find((one) => /:(cpu|cpu,cpuacct):/.test(one));
    if (line !== undefined) {
      const folder = `/sys/fs/cgroup/cpu${cgroup}`;
      const read = async (name: string): Promise<string> => (await readFile(`${folder}/${name}`, "utf8")).trim();
      expect([await read("cpu.shares"), await read("cpu.cfs_quota_us"), await read("cpu.cfs_period_us")]).toEqual([
        "512",
        "20000",
        "50000",
      ]);
    } else {
      expect((await readFile(`/sys/fs/cgroup${cgroup}/cpu.max`, "utf8")).trim()).toBe("20000 50000");
      expect((await readFile(`/sys/fs/cgroup${cgroup}/cpu.weight`, "utf8")).trim()).not.toBe("100");
    }
  },
);

row(
  "G15",
  "run: processors, memory nodes and open files",
  {
    ...NEWER,
    covers: ["flag:ctr run --cpuset-cpus", "flag:ctr run --cpuset-mems", "flag:ctr run --rlimit-nofile"],
  },
  async (t) => {
    const show = "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status | tr -d '\\t\\n'; ulimit -Sn; ulimit -Hn";
    const flags = ["--cpuset-cpus", "0", "--cpuset-mems", "0", "--rlimit-nofile", "123:456"];
    expect(await inside(t, flags, show)).toBe("Cpus_allowed_list:0Mems_allowed_list:0123\n456\n");
  },
);

row(
  "G15",
  "run: a runtime's own configuration file is in the container's record",
  { covers: ["flag:ctr run --runtime-config-path"] },
  async (t) => {
    // There is no such runtime; the container stays.
    const id = t.id("c");
    const flags = ["--runtime", "io.example.other.v7", "--runtime-config-path", "/etc/other.toml"];
    expect((await t.ctr("run", ...flags, await t.image(), id, "true")).code).toBe(1);
    const text = JSON.stringify(await infoOf(t, id));
    expect(text).toContain("runtimeoptions.v1.Options");
    expect(text).toContain(Buffer.from("\u0012\u000f/etc/other.toml").toString("base64").slice(0, 20));
  },
);

row("F26", "run: FIFOs in a folder of one's own", { covers: ["flag:ctr run --fifo-dir"] }, async (t) => {
  const folder = t.path(t.id("fifos"));
  await mkdir(folder);
  const running = t.start("run", "--fifo-dir", folder, await t.image(), t.id("c"), "sleep", "1000");
  const found = await eventually("the FIFOs", async () => {
    const listed = await exec(["find", folder, "-type", "p"], { env: { PATH: "/usr/bin:/bin" } });
    return listed.stdout.includes("-stdout") ? listed.stdout : undefined;
  });
  expect(found).toContain(`${t.id("c")}-stdin`);
  await eventually("the task", async () => ((await pidOf(t, t.id("c"))) > 0 ? true : undefined));
  await t.must("tasks", "kill", "-s", "KILL", t.id("c"));
  expect(await running.exited).toBe(137);
});

row("G15", "run: the spec is written to a file", { ...NEWER, covers: ["flag:ctr run --dump-config"] }, async (t) => {
  const file = t.path(t.id("dump.json"));
  expect(await inside(t, ["--dump-config", file], "echo ran")).toBe("ran\n");
  expect(JSON.parse(await readFile(file, "utf8"))).toMatchObject({ process: { args: ["sh", "-c", "echo ran"] } });
});

row(
  "G15",
  "run: privileged without the host's devices",
  { ...NEWER, covers: ["flag:ctr run --privileged-without-host-devices"] },
  async (t) => {
    const made = async (name: string, ...flags: string[]): Promise<string> => {
      // Whether it runs depends on what the machine lets us have; what is asked of the runtime does not.
      await t.ctr("run", "--privileged", ...flags, await t.image(), t.id(name), "true");
      return JSON.stringify(await specOf(t, t.id(name)));
    };
    expect(await made("all")).toContain('"path":"/dev/full"');
    expect(await made("few", "--privileged-without-host-devices")).not.toContain('"path":"/dev/full"');
    const refused = await t.ctr("run", "--privileged-without-host-devices", await t.image(), t.id("d"), "true");
    expect(refused.stderr).toContain("can't use 'privileged-without-host-devices' without 'privileged' specified");
  },
);

row(
  "F26",
  "tasks start: streams to nowhere, to a file, to FIFOs of one's own; the pid in a file",
  {
    covers: [
      "flag:ctr tasks start --null-io",
      "flag:ctr tasks start --log-uri",
      "flag:ctr tasks start --fifo-dir",
      "flag:ctr tasks start --pid-file",
      "flag:ctr tasks delete --force",
    ],
  },
  async (t) => {
    const image = await t.image();
    const make = async (name: string, ...args: string[]): Promise<string> => {
      await t.must("containers", "create", image, t.id(name), ...args);
      return t.id(name);
    };
    const quiet = await make("quiet", "echo", "unheard");
    expect(await t.ctr("tasks", "start", "--null-io", quiet)).toMatchObject({ code: 0, stdout: "" });

    const log = t.path(t.id("log"));
    await t.must("tasks", "start", "-d", "--log-uri", `file://${log}`, await make("logged", "echo", "kept"));
    await eventually("the line", async () =>
      (await readFile(log, "utf8").catch(() => "")) === "kept\n" ? true : undefined,
    );

    const [folder, pidFile] = [t.path(t.id("fifos")), t.path(t.id("pid"))];
    await mkdir(folder);
    const lasting = await make("lasting", "sleep", "1000");
    await t.must("tasks", "start", "-d", "--fifo-dir", folder, "--pid-file", pidFile, lasting);
    const found = await exec(["find", folder, "-type", "p"], { env: { PATH: "/usr/bin:/bin" } });
    expect(found.stdout).toContain(`${lasting}-stdout`);
    expect(Number(await readFile(pidFile, "utf8"))).toBe(await pidOf(t, lasting));
    // What runs is only deleted by force.
    expect((await t.ctr("tasks", "delete", lasting)).code).toBe(1);
    await t.ctr("tasks", "delete", "--force", lasting);
    expect(await t.must("tasks", "ls", "-q")).not.toContain(lasting);
  },
);

row("F26", "tasks start: no pivot_root", { ...NEWER, covers: ["flag:ctr tasks start --no-pivot"] }, async (t) => {
  const runc = await notingRunc(t);
  await t.must("containers", "create", "--runc-binary", runc.path, await t.image(), t.id("c"), "true");
  await t.must("tasks", "start", "--no-pivot", t.id("c"));
  expect(await runc.calls()).toMatch(/create .*--no-pivot/);
  await t.must("tasks", "start", t.id("c"));
  expect(await runc.calls()).toMatch(/create (?!.*--no-pivot)/);
});

row(
  "G23",
  "tasks exec: a terminal, FIFOs of one's own, output to a file; an exec is killed and deleted by its id",
  {
    covers: [
      "flag:ctr tasks exec --tty",
      "flag:ctr tasks exec --fifo-dir",
      "flag:ctr tasks exec --log-uri",
      "flag:ctr tasks kill --exec-id",
      "flag:ctr tasks delete --exec-id",
    ],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    const seen = await t.ctrWith({ tty: true }, "tasks", "exec", "-t", "--exec-id", "tty", id, "tty");
    expect(seen.stdout).toMatch(/\/dev\/(pts\/\d|console)/);
    expect(await t.must("tasks", "exec", "--exec-id", "none", id, "sh", "-c", "tty || true")).toBe("not a tty\n");

    const folder = t.path(t.id("fifos"));
    await mkdir(folder);
    const held = t.start("tasks", "exec", "--exec-id", "held", "--fifo-dir", folder, id, "sleep", "1000");
    await eventually("the FIFOs", async () => {
      const listed = await exec(["find", folder, "-type", "p"], { env: { PATH: "/usr/bin:/bin" } });
      return listed.stdout.includes("held-stdout") ? true : undefined;
    });
    await eventually("the kill of the exec", async () =>
      (await t.ctr("tasks", "kill", "-s", "KILL", "--exec-id", "held", id)).code === 0 ? true : undefined,
    );
    expect(await held.exited).toBe(137);
    expect(await pidOf(t, id)).toBeGreaterThan(0);

    const log = t.path(t.id("log"));
    await t.must("tasks", "exec", "-d", "--exec-id", "logged", "--log-uri", `file://${log}`, id, "echo", "kept");
    await eventually("the line", async () =>
      (await readFile(log, "utf8").catch(() => "")) === "kept\n" ? true : undefined,
    );
    // Until it is deleted its id is taken.
    expect((await t.ctr("tasks", "exec", "--exec-id", "logged", id, "true")).code).toBe(1);
    await t.must("tasks", "delete", "--exec-id", "logged", id);
    expect(await t.must("tasks", "exec", "--exec-id", "logged", id, "echo", "again")).toBe("again\n");
  },
);

row("E03", "a namespace is removed with its cgroup", { covers: ["flag:ctr namespaces remove --cgroup"] }, async (t) => {
  const name = `${t.namespace}-gone`;
  const ctr = async (...args: string[]) => t.daemon.ctr(t.cast.client, name, args);
  await ctr("namespaces", "create", name);
  const made: string[] = [];
  // Of a hybrid machine's two kinds of hierarchies the peer sees to the first.
  for (const folder of ["", ...(await readdir("/sys/fs/cgroup"))].filter((one) => one !== "unified")) {
    if (!existsSync(`/sys/fs/cgroup/${folder}/cgroup.procs`)) continue;
    const path = `/sys/fs/cgroup/${folder}/${name}`;
    await mkdir(path);
    made.push(path);
  }
  expect(made.length).toBeGreaterThan(0);
  expect((await ctr("namespaces", "rm", "--cgroup", name)).code).toBe(0);
  expect(made.filter((path) => existsSync(path))).toEqual([]);
});

row(
  "G18",
  "containers create: flags that belong to the task are named",
  {
    ...NEWER,
    casts: ["ours"],
    covers: ["flag:ctr containers create --pid-file", "flag:ctr containers create --no-pivot"],
  },
  async (t) => {
    const flags = ["--pid-file", t.path(t.id("pid")), "--no-pivot"];
    const made = await t.ctr("containers", "create", ...flags, await t.image(), t.id("c"), "true");
    expect(made.code).toBe(0);
    for (const name of ["pid-file", "no-pivot"])
      expect(made.stderr).toMatch(RegExp(`level=warning msg="--${name} has no effect here`));
    await t.must("tasks", "start", "--pid-file", t.path(t.id("pid")), t.id("c"));
    expect(Number(await readFile(t.path(t.id("pid")), "utf8"))).toBeGreaterThan(1);
  },
);
