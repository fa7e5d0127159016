// Keys of the configuration by what they do, in files of version 1 and of today.
import { expect } from "bun:test";
import { mkdir, readdir, readFile, rmdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { classified } from "@stevedore/base";
import { schedCoreCookie } from "@stevedore/os/process";
import { Content, WriteAction } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { Kind, Snapshots } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createGrpcServer } from "@stevedore/wire/grpc/server";
import { createClient, Router } from "@stevedore/wire/rpc/index";
import { Daemon, program } from "../harness/daemon.ts";
import { digestOf } from "../harness/images.ts";
import { eventually, exec, start } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

const ENDS = ["peer", "ours"] as const;

const containerd = async (t: Stage, ...args: string[]) => exec([program(t.cast.daemon, "containerd"), ...args]);

async function taskOf(t: Stage, id: string): Promise<{ pid: number; status: string }> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid = "0", status = "gone"] = line?.trim().split(/\s+/) ?? [];
  return { pid: Number(pid), status };
}

/** A file as it was written for containerd 1.0: no version, plugins by their ids. CRI and what cannot work here are off. */
const oldFile = (linux: string): string => `oom_score = 0
disabled_plugins = ["cri", "aufs", "btrfs", "zfs", "devmapper"]
[grpc]
  address = "@dir@/c.sock"
[plugins.opt]
  path = "@dir@/opt"
[plugins.linux]
${linux}`;

const forBoth = (text: string): { readonly ours: string; readonly debian: string } => ({ ours: text, debian: text });

row(
  "A04",
  "without --config the file is /etc/containerd/config.toml, for config dump and for the daemon",
  { casts: ENDS, covers: ["cmd:containerd config dump"] },
  async (t) => {
    const dir = t.path(t.id("etc"));
    await mkdir(dir);
    await writeFile(
      `${dir}/config.toml`,
      `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[debug]
  level = "debug"
[plugins."io.containerd.internal.v1.opt"]
  path = "${dir}/marker"
`,
    );
    // A mount namespace in which /etc/containerd is our folder, also where the machine has none.
    const inside = [
      "unshare",
      "--mount",
      "--propagation",
      "private",
      "sh",
      "-ec",
      `mount -t tmpfs tmpfs /mnt; mkdir /mnt/u /mnt/w
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /etc
mkdir -p /etc/containerd; cp ${dir}/config.toml /etc/containerd/config.toml; exec "$@"`,
      "sh",
      program(t.cast.daemon, "containerd"),
    ];
    const dumped = await exec([...inside, "config", "dump"]);
    expect(dumped).toMatchObject({ code: 0 });
    expect(dumped.stdout).toMatch(new RegExp(`path = ["']${dir}/marker["']`));
    expect(dumped.stdout).toMatch(/level = ["']debug["']/);
    const address = `${dir}/c.sock`;
    const running = start([...inside, "--root", `${dir}/root`, "--state", `${dir}/state`, "--address", address], {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    });
    try {
      await eventually("the daemon to run", () =>
        running.stderr().includes("containerd successfully booted") ? true : undefined,
      );
      expect(running.stderr()).toContain("level=debug");
      const version = await exec([program(t.cast.client, "ctr"), "--address", address, "version"]);
      expect(version.code).toBe(0);
    } finally {
      await running.stop();
    }
  },
);

row(
  "A10",
  "a file of version 1 with [plugins.linux]: the container is run by runc",
  { casts: ENDS, wholeConfig: forBoth(oldFile('  runtime = "runc"\n')) },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", await t.image(), id, "sleep", "1000");
    const listed = await exec(["runc", "--root", `/run/containerd/runc/${t.namespace}`, "list", "-q"], {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    });
    expect(listed.stdout.trim()).toBe(id);
  },
);

row(
  "A10",
  "typographic quotes, as the section is printed in places, are refused with the line they are on",
  { casts: ENDS },
  async (t) => {
    const file = t.path(t.id("printed.toml"));
    await writeFile(file, "[plugins]\n  [plugins.linux]\n    runtime = “runc”\n");
    for (const args of [["config", "dump"], []]) {
      const refused = await containerd(t, "--config", file, ...args);
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain(file);
      expect(refused.stderr).toMatch(/line 3, column 15|\(3, 15\)/);
      // The peer shows the quote alone; ours says what to write instead.
      expect(refused.stderr).toMatch(t.cast.daemon === "debian" ? /“/ : /typographic quotes, use "/);
    }
  },
);

row(
  "A11",
  "shim_debug: the shim is started in debug, and what it logs is in the daemon's log",
  {
    casts: ENDS,
    wholeConfig: {
      ours: oldFile("  shim_debug = true\n"),
      debian: oldFile(
        `  shim = "${join(program("debian", "containerd"), "../containerd-shim")}"\n  shim_debug = true\n`,
      ),
    },
  },
  async (t) => {
    const id = t.id("c");
    // The peer's key is of its first runtime, which no longer exists: ours has its effect on the shims there are.
    const runtime = t.cast.daemon === "debian" ? ["--runtime", "io.containerd.runtime.v1.linux"] : [];
    await t.must("run", "-d", ...runtime, await t.image(), id, "sleep", "1000");
    const { pid } = await taskOf(t, id);
    const shim = /^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1];
    expect((await readFile(`/proc/${shim}/cmdline`, "utf8")).split("\0")).toContain("-debug");
    if (t.cast.daemon === "ours") {
      const log = await eventually("a line of the shim", async () => {
        const text = await t.daemon.log;
        return /level=debug msg=\S+.* runtime=io.containerd.runc.v2/.test(text) ? text : undefined;
      });
      expect(log).not.toMatch(/level=debug msg="loading plugin/);
    }
    await t.must("tasks", "kill", "-s", "KILL", id);
    await eventually("the task to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
    await t.ctr("tasks", "rm", id);
  },
);

row(
  "A13",
  "a changed key has its effect after a restart, and tasks go on with their pids",
  { casts: ENDS, ownDaemon: true },
  async (t) => {
    const [a, b] = [t.id("a"), t.id("b")];
    const image = await t.image();
    for (const id of [a, b]) await t.must("run", "-d", image, id, "sleep", "1000");
    const before = await t.must("tasks", "ls");
    expect(await t.daemon.log).not.toContain("level=debug");
    await writeFile(t.daemon.configPath, `${await readFile(t.daemon.configPath, "utf8")}\n[debug]\n level = "debug"\n`);
    // The running daemon keeps to what it has read.
    await t.must("version");
    expect(await t.daemon.log).not.toContain("level=debug");
    await t.daemon.stop();
    await t.daemon.launch();
    const sorted = (text: string): string[] => text.split("\n").toSorted();
    expect(sorted(await t.must("tasks", "ls"))).toEqual(sorted(before));
    expect(await t.daemon.log).toContain("level=debug");
  },
);

row(
  "A25",
  "an empty ttrpc address is the gRPC socket's with .ttrpc behind it",
  { casts: ENDS, config: forBoth('[ttrpc]\n address = ""\n') },
  async (t) => {
    const found = await stat(`${t.daemon.address}.ttrpc`);
    expect(found.isSocket()).toBe(true);
    expect([found.uid, found.gid]).toEqual([0, 0]);
  },
);

const ownTtrpc = (more: string): string => `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
[ttrpc]
  address = "@dir@/other.ttrpc"
${more}`;

row(
  "A25",
  "the ttrpc socket's address and owner; shims send their events there",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.server.v1.ttrpc.address"],
    wholeConfig: forBoth(ownTtrpc("  uid = 12\n  gid = 13\n")),
  },
  async (t) => {
    const found = await stat(t.path("other.ttrpc"));
    expect([found.isSocket(), found.uid, found.gid]).toEqual([true, 12, 13]);
    expect((await stat(t.daemon.address)).uid).toBe(0);
    expect(await readdir(t.daemon.dir)).not.toContain("c.sock.ttrpc");
    const events = t.start("events");
    await Bun.sleep(300);
    await t.must("run", "--rm", await t.image(), t.id("c"), "true");
    await eventually("the shim's event", () => (events.stdout().includes("/tasks/exit") ? true : undefined));
    await events.stop();
  },
);

const CGROUPS = { ours: `/stvA27o${process.pid}`, debian: `/stvA27d${process.pid}` } as const;

row(
  "A27",
  "the daemon puts itself into the configured cgroup",
  {
    casts: ENDS,
    covers: ["config:cgroup.path"],
    config: {
      ours: `[cgroup]\n path = "${CGROUPS.ours}"\n`,
      debian: `[cgroup]\n path = "${CGROUPS.debian}"\n`,
    },
  },
  async (t) => {
    const path = CGROUPS[t.cast.daemon];
    const lines = (await readFile(`/proc/${t.daemon.pid}/cgroup`, "utf8")).trim().split("\n");
    const joined = lines.filter((line) => line.endsWith(`:${path}`)).map((line) => line.split(":")[1] ?? "");
    const unified = lines.length === 1;
    if (unified) expect(joined).toEqual([""]);
    else for (const controller of ["memory", "pids"]) expect(joined.join()).toContain(controller);
    // Containers are where their own specification says, not below the daemon.
    const inside = await t.must("run", "--rm", await t.image(), t.id("c"), "cat", "/proc/self/cgroup");
    expect(inside).not.toContain(path);
    await t.daemon.clear(t.namespace);
    await t.daemon.stop();
    const top = "/sys/fs/cgroup";
    for (const folder of ["", ...(await readdir(top))]) await rmdir(join(top, folder, path)).catch(() => undefined);
  },
);

const TOOL = tar([
  { path: "bin/", type: "dir" },
  { path: "bin/tool", data: "#!/bin/sh\necho tool\n", mode: 0o755 },
  { path: "lib/", type: "dir" },
  { path: "lib/libtool.so", data: "lib", mode: 0o644 },
  { path: "etc/", type: "dir" },
  { path: "etc/not", data: "no", mode: 0o644 },
]);

const optFile = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/managed"
`;

row(
  "A31",
  "ctr install puts an image's programs below the opt path, where the daemon finds them",
  {
    casts: ["peer", "ours", "our-daemon", "our-ctr"],
    covers: ["config:plugins.io.containerd.internal.v1.opt.path", "cmd:ctr install"],
    wholeConfig: forBoth(optFile),
  },
  async (t) => {
    const shim = program(t.cast.shim, "containerd-shim-runc-v2");
    const image = await t.image({
      name: "docker.io/library/tools:1",
      bare: true,
      layers: [
        TOOL,
        tar([{ path: "bin/containerd-shim-opted-v2", data: `#!/bin/sh\nexec ${shim} "$@"\n`, mode: 0o755 }]),
      ],
    });
    await t.must("install", image);
    const managed = t.path("managed");
    expect((await readdir(`${managed}/bin`)).toSorted()).toEqual(["containerd-shim-opted-v2", "tool"]);
    expect((await exec([`${managed}/bin/tool`])).stdout).toBe("tool\n");
    expect(await readdir(managed)).not.toContain("etc");
    for (const folder of ["", "bin"]) expect((await stat(join(managed, folder))).mode & 0o777).toBe(0o711);
    // A second time what is there is kept, unless it may be replaced.
    const again = await t.ctr("install", image);
    expect(again.code).toBe(1);
    expect(again.stderr).toContain(`cannot replace bin/tool in ${managed}`);
    await t.must("install", "--replace", "--libs", image);
    expect(await readdir(`${managed}/lib`)).toEqual(["libtool.so"]);
    // The daemon that was running already starts a shim that was installed.
    const run = await t.ctr(
      "run",
      "--rm",
      "--runtime",
      "io.containerd.opted.v2",
      await t.image(),
      t.id("c"),
      "echo",
      "ok",
    );
    expect(run).toEqual({ code: 0, stdout: "ok\n", stderr: "" });
  },
);

/** Writes a blob into a namespace and again, without sending its bytes, into another. @returns what the second commit told */
async function shared(t: Stage): Promise<{ readonly refused: string; readonly offset: bigint }> {
  const data = Buffer.from(t.id("the blob"));
  const [expected, total] = [digestOf(data), BigInt(data.byteLength)];
  const transport = createGrpcTransport({ address: t.daemon.address });
  const content = createClient(Content, transport);
  t.daemon.use(t.id("b"));
  const write = async (namespace: string, bytes: Uint8Array): Promise<bigint> => {
    let offset = -1n;
    const requests = async function* () {
      const common = { ref: "r", expected, total };
      // Asking where the write stands is all that a client does which finds that nothing is left to send.
      if (bytes.byteLength === 0) yield { ...common, action: WriteAction.STAT };
      else yield { ...common, action: WriteAction.WRITE, data: bytes };
      yield { ...common, action: WriteAction.COMMIT, offset: total };
    };
    const options = { timeoutMs: 10_000, metadata: { "containerd-namespace": namespace } };
    for await (const answer of content.write(requests(), options)) if (answer.offset > offset) offset = answer.offset;
    return offset;
  };
  try {
    expect(await write(t.namespace, data)).toBe(total);
    let refused = "";
    const offset = await write(t.id("b"), new Uint8Array()).catch((error: unknown) => {
      refused = String(error);
      return -1n;
    });
    if (refused !== "") await content.abort({ ref: "r" }, { metadata: { "containerd-namespace": t.id("b") } });
    const listed = await t.daemon.ctr(t.cast.client, t.id("b"), ["content", "ls", "-q"]);
    expect(listed.stdout.includes(expected)).toBe(refused === "");
    return { refused, offset: offset === total ? offset : -1n };
  } finally {
    await transport.close();
  }
}

const sharing = (policy: string): string =>
  `[plugins."io.containerd.metadata.v1.bolt"]\n  content_sharing_policy = "${policy}"\n`;
// @covers config:plugins.io.containerd.metadata.v1.bolt.content_sharing_policy
const SHARING = ["config:plugins.io.containerd.metadata.v1.bolt.content_sharing_policy"];

row(
  "A32",
  "shared: a namespace gets a blob of another one without sending it",
  { casts: ENDS, covers: SHARING, config: forBoth(sharing("shared")) },
  async (t) => {
    const { refused, offset } = await shared(t);
    expect(refused).toBe("");
    expect(offset).toBeGreaterThan(0n);
  },
);

row(
  "A32",
  "isolated: a namespace proves that it has the bytes",
  { casts: ENDS, covers: SHARING, config: forBoth(sharing("isolated")) },
  async (t) => {
    expect((await shared(t)).refused).not.toBe("");
  },
);

row(
  "A32",
  "another policy keeps the daemon from starting its metadata store",
  { casts: ENDS, config: forBoth("") },
  async (t) => {
    const other = await Daemon.prepare({ maker: t.cast.daemon, config: sharing("sometimes") });
    try {
      // The socket answers or not; nothing that needs the store does.
      await other.launch().catch(() => undefined);
      const log = await other.log;
      expect(log).toMatch(/sometimes/);
    } finally {
      await other.close();
    }
  },
);

row("A34", "the task runtime's keys are shown by config dump", { casts: ENDS }, async (t) => {
  const file = t.path(t.id("task.toml"));
  await writeFile(
    file,
    'version = 2\n[plugins."io.containerd.runtime.v2.task"]\n platforms = ["linux/arm64"]\n sched_core = true\n',
  );
  const dumped = await containerd(t, "--config", file, "config", "dump");
  expect(dumped.code).toBe(0);
  expect(dumped.stdout).toMatch(/platforms = \[ ?["']linux\/arm64["'] ?\]/);
  // Since version 3 the shims' environment says it.
  expect(dumped.stdout).toMatch(
    t.cast.daemon === "debian" ? /sched_core = true/ : /env = \[ ?["']SCHED_CORE=1["'] ?\]/,
  );
});

const taskKeys = (keys: string): { readonly ours: string; readonly debian: string } => {
  const file = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
[plugins."io.containerd.runtime.v2.task"]
  ${keys}
`;
  return { ours: file, debian: file };
};

row(
  "A34",
  "platforms are what the runtime's plugin shows",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.runtime.v2.task.platforms"],
    wholeConfig: taskKeys('platforms = ["linux/arm64/v8", "linux/riscv64"]'),
  },
  async (t) => {
    expect(await t.must("plugins", "ls")).toMatch(
      /^io\.containerd\.runtime\.v2\s+task\s+linux\/arm64(\/v8)?,linux\/riscv64\s+ok/m,
    );
  },
);

/** Whether this machine can tell tasks apart by core: kernels without SMT refuse. */
function schedulesCores(): boolean {
  try {
    schedCoreCookie();
    return true;
  } catch {
    return false;
  }
}

row(
  "A34",
  "sched_core gives each container a cookie, or says that the machine has none",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.shim.v1.manager.env"],
    wholeConfig: taskKeys("sched_core = true"),
  },
  async (t) => {
    const id = t.id("c");
    const ran = await t.ctr("run", "-d", await t.image(), id, "sleep", "1000");
    if (!schedulesCores()) {
      expect(ran.code).toBe(1);
      expect(ran.stderr).toContain("enable sched core support");
      return;
    }
    expect(ran.code).toBe(0);
    await t.must("run", "-d", await t.image(), t.id("d"), "sleep", "1000");
    const cookies = [schedCoreCookie((await taskOf(t, id)).pid), schedCoreCookie((await taskOf(t, t.id("d"))).pid)];
    expect(cookies).not.toContain(0n);
    expect(cookies[0]).not.toBe(cookies[1] ?? 0n);
  },
);

row(
  "A35",
  "all keys of the first runtime are accepted, and containers run",
  {
    casts: ENDS,
    wholeConfig: forBoth(
      oldFile(
        '  shim = "containerd-shim"\n  runtime = "runc"\n  runtime_root = ""\n  no_shim = false\n  shim_debug = false\n',
      ),
    ),
  },
  async (t) => {
    expect(await t.must("run", "--rm", await t.image(), t.id("c"), "echo", "runs")).toBe("runs\n");
    // Ours says that the section is of the past.
    if (t.cast.daemon === "ours") expect(await t.daemon.log).toContain("runtime v1 has been removed");
  },
);

row(
  "A35",
  "the same keys in a file of version 2, by the plugin's whole name",
  {
    casts: ENDS,
    wholeConfig: forBoth(`version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
[plugins."io.containerd.runtime.v1.linux"]
  shim = "containerd-shim"
  runtime = "runc"
  runtime_root = ""
  no_shim = false
  shim_debug = false
`),
  },
  async (t) => {
    expect(await t.must("run", "--rm", await t.image(), t.id("c"), "echo", "runs")).toBe("runs\n");
    if (t.cast.daemon === "ours") expect(await t.daemon.log).toContain("runtime v1 has been removed");
  },
);

row("A25 A27 A31 A32 A34", "config default shows these keys with their defaults", { casts: ENDS }, async (t) => {
  const shown = await containerd(t, "config", "default");
  expect(shown).toMatchObject({ code: 0, stderr: "" });
  const text = shown.stdout.replaceAll("'", '"').replaceAll(/\[ (.*) \]/g, "[$1]");
  const section = (name: string): string[] => {
    const lines = text.split("\n").map((line) => line.trim());
    const at = lines.indexOf(`[${name}]`);
    const end = lines.findIndex((line, n) => n > at && line.startsWith("["));
    return at < 0 ? [] : lines.slice(at, end < 0 ? undefined : end + 1);
  };
  const plugin = (id: string): string[] => section(`plugins."io.containerd.${id}"`);
  const peer = t.cast.daemon === "debian";
  // Version 2 has the socket in a section of its own; its empty address stands for what today's version writes out.
  const ttrpc = peer ? section("ttrpc") : plugin("server.v1.ttrpc");
  const address = peer ? "" : "/run/containerd/containerd.sock.ttrpc";
  for (const line of [`address = "${address}"`, "uid = 0", "gid = 0"]) expect(ttrpc).toContain(line);
  expect(section("cgroup")).toContain('path = ""');
  expect(plugin("internal.v1.opt")).toContain('path = "/opt/containerd"');
  expect(plugin("metadata.v1.bolt")).toContain('content_sharing_policy = "shared"');
  expect(plugin("runtime.v2.task")).toContain('platforms = ["linux/amd64"]');
  // Since version 3 core scheduling is asked for in the shims' environment.
  if (peer) expect(plugin("runtime.v2.task")).toContain("sched_core = false");
  else expect(plugin("shim.v1.manager")).toContain("env = []");
});

/** A snapshotter in memory, as a plugin of another process serves one, and what it was asked. */
function farSnapshotter(source: string): { readonly router: Router; readonly asked: string[] } {
  const asked: string[] = [];
  const keys = new Map<string, Kind>();
  const mounts = [{ type: "bind", source, options: ["rbind", "rw"] }];
  const info = (key: string): { name: string; kind: Kind } => {
    const kind = keys.get(key);
    if (kind === undefined) throw classified("not-found", `snapshot ${key}: not found`);
    return { name: key, kind };
  };
  const say = (verb: string, name: string, key: string): void => {
    asked.push(`${verb} ${name} ${key.split("/").at(-1)}`);
  };
  const router = new Router().service(Snapshots, {
    prepare: async ({ snapshotter, key }) => {
      say("prepare", snapshotter, key);
      keys.set(key, Kind.ACTIVE);
      return { mounts };
    },
    mounts: async ({ snapshotter, key }) => {
      say("mounts", snapshotter, key);
      info(key);
      return { mounts };
    },
    stat: async ({ key }) => ({ info: info(key) }),
    usage: async () => ({ size: 0n, inodes: 0n }),
    remove: async ({ snapshotter, key }) => {
      say("remove", snapshotter, key);
      keys.delete(key);
      return {};
    },
    async *list() {
      yield { info: [...keys.keys()].map(info) };
    },
  });
  return { router, asked };
}

row("A39", "a proxy plugin: a snapshotter that another process serves", { casts: ENDS }, async (t) => {
  const address = t.path(t.id("far.sock"));
  const { router, asked } = farSnapshotter("/far/away");
  const server = createGrpcServer({ router });
  await server.serveUnix(address);
  try {
    await using daemon = await Daemon.start({
      maker: t.cast.daemon,
      config: `[proxy_plugins.far]\n  type = "snapshot"\n  address = "${address}"\n`,
    });
    const dumped = await containerd(t, "--config", daemon.configPath, "config", "dump");
    const table = /\[proxy_plugins\.["']?far["']?\]\s((?:(?!\s*\[).*\n)*)/.exec(dumped.stdout)?.[1] ?? "";
    expect(table).toMatch(/type = ["']snapshot["']/);
    expect(table.replaceAll("'", '"')).toContain(`address = "${address}"`);
    const [namespace, key] = [t.id("proxied"), t.id("key")];
    const ctr = async (...args: string[]) => daemon.ctr(t.cast.client, namespace, args);
    const far = async (...args: string[]) => ctr("snapshots", "--snapshotter", "far", ...args);
    expect((await ctr("plugins", "ls")).stdout).toMatch(/^io\.containerd\.snapshotter\.v1\s+far\s.*\sok/m);
    expect(await far("prepare", key)).toMatchObject({ code: 0, stderr: "" });
    expect((await far("ls")).stdout).toMatch(new RegExp(`^${key}\\s+Active`, "m"));
    expect((await far("mounts", "/target", key)).stdout).toContain("/far/away");
    expect((await far("rm", key)).code).toBe(0);
    expect((await far("ls")).stdout).not.toContain(key);
    // What the daemon does not remove at once it collects.
    expect((await ctr("leases", "create", "--id", key)).code).toBe(0);
    expect((await ctr("leases", "rm", "--sync", key)).code).toBe(0);
    await eventually("the removal", () => (asked.includes(`remove far ${key}`) ? true : undefined));
    expect(asked.slice(0, 2)).toEqual([`prepare far ${key}`, `mounts far ${key}`]);
  } finally {
    await server.stop();
  }
});
