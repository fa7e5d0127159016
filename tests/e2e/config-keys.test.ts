// Keys of the configuration, each by what it changes. Cases for "ours" alone are of keys that Debian's containerd 1.6 does not
// have; containerd 2.3.4's configuration (its defaults, as `config default` prints them) decides there.
import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backgroundContext } from "@stevedore/base";
import { connectClient } from "@stevedore/sdk/connect";
import { type Maker, mountsBelow, processesNaming, program } from "../harness/daemon.ts";
import { eventually, exec, start } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

const both = (text: string): { readonly ours: string; readonly debian: string } => ({ ours: text, debian: text });
const ENDS = ["peer", "ours"] as const;

async function pidOf(t: Stage, id: string): Promise<number> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return Number(line?.trim().split(/\s+/)[1]);
}

/** The shim of a container: its process's parent. */
async function shimOf(t: Stage, id: string): Promise<number> {
  const status = await readFile(`/proc/${await pidOf(t, id)}/status`, "utf8");
  return Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]);
}

async function environmentOf(pid: number): Promise<string[]> {
  return (await readFile(`/proc/${pid}/environ`, "utf8")).split("\0");
}

/** Starts the daemon again with other lines in its configuration. */
async function reconfigure(t: Stage, from: string, to: string): Promise<void> {
  await t.daemon.stop();
  const text = await readFile(t.daemon.configPath, "utf8");
  expect(text).toContain(from);
  await writeFile(t.daemon.configPath, text.replace(from, to));
  await t.daemon.launch();
}

test("A06: a version that is not known yet is refused, with the one that is", async () => {
  // @covers config:version
  // Debian's containerd 1.6 takes any number; containerd 2.3.4 decides.
  const dir = await mkdtemp(join(tmpdir(), "stv-keys-"));
  try {
    const path = join(dir, "config.toml");
    const dump = async (text: string) => {
      await writeFile(path, text);
      return exec([program("ours", "containerd"), "--config", path, "config", "dump"]);
    };
    const newer = await dump("version = 99\n");
    expect(newer.code).toBe(1);
    expect(newer.stderr).toContain("expected containerd config version equal to or less than `4`, got `99`");
    // By its version the same text means one thing or another.
    const section = '[plugins.opt]\n path = "/other"\n';
    expect((await dump(`version = 1\n${section}`)).stdout).toContain('path = "/other"');
    expect((await dump(`version = 3\n${section}`)).code).toBe(1);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

row(
  "A23",
  "the folder for temporary files is made, and shims are told of it",
  { casts: ENDS, covers: ["config:temp"], config: both('temp = "@dir@/tmp"\n') },
  async (t) => {
    expect((await stat(t.path("tmp"))).isDirectory()).toBe(true);
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    expect(await environmentOf(await shimOf(t, id))).toContain(`TMPDIR=${t.path("tmp")}`);
  },
);

row(
  "A26 A24",
  "keys that change nothing are named when the daemon starts",
  {
    casts: ["ours"],
    source: "containerd 2.3.4: tls_common_name is for Windows, classes are for pods",
    covers: ["config:plugins.io.containerd.server.v1.grpc-tcp.tls_common_name"],
    config: {
      ours: '[grpc]\n  tcp_tls_common_name = "name"\n[plugins."io.containerd.service.v1.tasks-service"]\n  blockio_config_file = "/none"\n',
    },
  },
  async (t) => {
    const log = await t.daemon.log;
    expect(log).toMatch(/level=warning msg="[^\n]*blockio_config_file\\" has no effect/);
    expect(log).toMatch(/level=warning msg="[^\n]*tls_common_name\\" has no effect/);
  },
);

const SCHEDULER = '[plugins."io.containerd.gc.v1.scheduler"]\n';
/** No collection but the one that the case is about. */
const RARELY = "pause_threshold = 0.0001\n";

async function blobs(t: Stage): Promise<number> {
  return (await t.must("content", "ls", "-q")).split("\n").filter((line) => line !== "").length;
}

async function collected(t: Stage, withinMs = 5_000): Promise<void> {
  await eventually("a collection", async () => ((await blobs(t)) === 0 ? true : undefined), withinMs);
}

row(
  "A29",
  "a collection comes after the start-up delay",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.gc.v1.scheduler.startup_delay"],
    config: both(`${SCHEDULER}${RARELY}deletion_threshold = 1000000\nmutation_threshold = 0\nstartup_delay = "0s"\n`),
  },
  async (t) => {
    const image = await t.image();
    await t.must("images", "rm", image);
    await reconfigure(t, 'startup_delay = "0s"', 'startup_delay = "1h"');
    await Bun.sleep(1_000);
    expect(await blobs(t)).toBeGreaterThan(0);
    await reconfigure(t, 'startup_delay = "1h"', 'startup_delay = "200ms"');
    await collected(t);
  },
);

row(
  "A29",
  "a collection that is due waits for the schedule's delay",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.gc.v1.scheduler.schedule_delay"],
    config: both(
      `${SCHEDULER}${RARELY}deletion_threshold = 1\nmutation_threshold = 0\nstartup_delay = "0s"\nschedule_delay = "2500ms"\n`,
    ),
  },
  async (t) => {
    const image = await t.image();
    const started = performance.now();
    await t.must("images", "rm", image);
    // The import's own lease may have asked for one already, which then comes a little earlier.
    await collected(t, 8_000);
    expect(performance.now() - started).toBeGreaterThan(800);
  },
);

row(
  "A29",
  "a number of changes starts a collection, though nothing was deleted",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.gc.v1.scheduler.mutation_threshold"],
    config: both(`${SCHEDULER}${RARELY}deletion_threshold = 1000000\nmutation_threshold = 60\nstartup_delay = "0s"\n`),
  },
  async (t) => {
    // Nothing refers to it.
    const file = t.path(t.id("blob"));
    await writeFile(file, "nobody's");
    const put = await t.ctrWith({ stdin: "nobody's" }, "content", "ingest", t.id("ref"));
    expect(put.code).toBe(0);
    await Bun.sleep(500);
    expect(await blobs(t)).toBe(1);
    for (let times = 0; times < 60; times += 1) await t.must("namespaces", "label", t.namespace, `a=${times}`);
    await collected(t);
  },
);

row(
  "A29",
  "collections take at most the configured part of the time",
  {
    casts: ENDS,
    covers: ["config:plugins.io.containerd.gc.v1.scheduler.pause_threshold"],
    config: both(
      `${SCHEDULER}pause_threshold = 0.0001\ndeletion_threshold = 0\nmutation_threshold = 0\nstartup_delay = "0s"\n`,
    ),
  },
  async (t) => {
    // The first deletion starts the first collection; at one part in 10,000 the next comes after 50 s.
    const remove = async (): Promise<void> => {
      await t.must("images", "import", archive);
      await t.must("images", "rm", image);
    };
    const image = await t.image();
    const archive = t.path(t.id("again.tar"));
    await t.must("images", "export", archive, image);
    await t.must("images", "rm", "--sync", image);
    await remove();
    await Bun.sleep(1_500);
    expect(await blobs(t)).toBeGreaterThan(0);
    await reconfigure(t, "pause_threshold = 0.0001", "pause_threshold = 0.5");
    await remove();
    await remove();
    await collected(t);
  },
);

/** What strace sees of some calls of a daemon and its children while `work` goes on. */
async function traced(t: Stage, calls: string, work: () => Promise<unknown>): Promise<string> {
  const out = t.path("trace");
  const tracer = start(["strace", "-f", "-qq", "-e", `trace=${calls}`, "-o", out, "-p", String(t.daemon.pid)]);
  await eventually("strace to hold the daemon", async () => {
    const status = await readFile(`/proc/${t.daemon.pid}/status`, "utf8");
    return /^TracerPid:\s+[1-9]/m.test(status) ? true : undefined;
  });
  try {
    await work();
  } finally {
    await tracer.stop();
  }
  return readFile(out, "utf8");
}

row(
  "A32",
  "without no_sync each change is synced, with it none is",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, plugin io.containerd.metadata.v1.bolt",
    covers: ["config:plugins.io.containerd.metadata.v1.bolt.no_sync"],
    config: { ours: '[plugins."io.containerd.metadata.v1.bolt"]\n  no_sync = false\n' },
  },
  async (t) => {
    const change = async (): Promise<string> =>
      traced(t, "fsync,fdatasync", async () => t.must("namespaces", "label", t.namespace, "a=b"));
    await t.must("namespaces", "label", t.namespace, "first=1");
    expect(await change()).toContain("sync(");
    await reconfigure(t, "no_sync = false", "no_sync = true");
    expect(await change()).not.toContain("sync(");
  },
);

row(
  "A36",
  "sync_fs has every layer synced after it was unpacked",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, plugin io.containerd.service.v1.diff-service",
    covers: ["config:plugins.io.containerd.service.v1.diff-service.sync_fs"],
    config: { ours: '[plugins."io.containerd.service.v1.diff-service"]\n  sync_fs = false\n' },
  },
  async (t) => {
    // A snapshot's commit has a sync of its own; what counts is that of the layer.
    const syncs = async (name: string): Promise<number> => {
      const image = { name: `docker.io/library/${name}:1`, layers: [tar([{ path: name, data: name }])], bare: true };
      return (await traced(t, "syncfs", async () => t.image(image))).split("syncfs(").length - 1;
    };
    const usual = await syncs("not-synced");
    await reconfigure(t, "sync_fs = false", "sync_fs = true");
    expect(await syncs("synced")).toBe(usual + 1);
  },
);

row(
  "A24 A25",
  "messages beyond the configured sizes are refused, each way",
  {
    casts: ENDS,
    covers: [
      "config:plugins.io.containerd.server.v1.grpc.max_recv_message_size",
      "config:plugins.io.containerd.server.v1.grpc.max_send_message_size",
    ],
    config: both("[grpc]\n  max_recv_message_size = 160000\n  max_send_message_size = 60000\n"),
  },
  async (t) => {
    const create = async (id: string, ...lengths: number[]) =>
      t.ctr(
        "containers",
        "create",
        ...lengths.flatMap((length, index) => ["--env", `E${index}=${"x".repeat(length)}`]),
        "--rootfs",
        t.daemon.dir,
        id,
        "true",
      );
    const large = await create(t.id("a"), 100_000, 100_000);
    expect(large.code).toBe(1);
    expect(large.stderr).toMatch(/grpc: received message larger than max \(\d+ vs\. 160000\)/);
    // It is made, only its answer is too large to be sent.
    const made = await create(t.id("b"), 100_000);
    expect(made.stderr).toMatch(/grpc: trying to send message larger than max \(\d+ vs\. 60000\)/);
    const shown = await t.ctr("containers", "info", t.id("b"));
    expect(shown.stderr).toMatch(/grpc: trying to send message larger than max \(\d+ vs\. 60000\)/);
    await t.must("containers", "rm", t.id("b")).catch(() => undefined);
    await reconfigure(t, "max_send_message_size = 60000", "max_send_message_size = 600000");
    expect((await t.ctr("containers", "rm", t.id("b"))).code).toBe(0);
  },
);

for (const maker of ["debian", "ours"] as const satisfies readonly Maker[]) {
  test(`A24 A25: sockets are where the file says, and whose it says, unless a flag says otherwise [${maker}]`, async () => {
    // @covers config:plugins.io.containerd.server.v1.grpc.address, config:plugins.io.containerd.server.v1.grpc.uid
    // @covers config:plugins.io.containerd.server.v1.ttrpc.address, config:plugins.io.containerd.server.v1.ttrpc.uid
    // @covers flag:containerd --address, flag:containerd --log-level
    const dir = await mkdtemp(join(tmpdir(), "stv-keys-"));
    try {
      const path = join(dir, "config.toml");
      const disabled =
        maker === "debian"
          ? 'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper"]\n[plugins."io.containerd.internal.v1.opt"]\n  path = "' +
            `${dir}/opt"\n`
          : "";
      await writeFile(
        path,
        `version = 2\nroot = "${dir}/r"\nstate = "${dir}/s"\n${disabled}[grpc]\n  address = "${dir}/file.sock"\n  uid = 7\n` +
          `[ttrpc]\n  address = "${dir}/other.ttrpc"\n  uid = 8\n`,
      );
      const once = async (flags: readonly string[], look: (log: () => string) => Promise<void>): Promise<void> => {
        const daemon = start([program(maker, "containerd"), "--config", path, ...flags]);
        try {
          await look(daemon.stderr);
        } finally {
          const status = await daemon.stop();
          // The peer may answer a signal that comes while it starts with 1.
          if (maker === "ours") expect(status).toBe(0);
        }
      };
      const found = async (name: string) =>
        eventually(`the socket ${name}`, async () => stat(join(dir, name)).catch(() => undefined));
      await once([], async (log) => {
        await eventually("the daemon to run", () => (log().includes("successfully booted") ? true : undefined));
        expect((await found("file.sock")).uid).toBe(7);
        expect((await found("other.ttrpc")).uid).toBe(8);
        expect(log()).toContain("level=info");
      });
      await once(["--address", join(dir, "flag.sock"), "--log-level", "error"], async (log) => {
        expect((await found("flag.sock")).isSocket()).toBe(true);
        await eventually("it to answer", async () => {
          const asked = await exec([program(maker, "ctr"), "--address", join(dir, "flag.sock"), "version"]);
          return asked.code === 0 ? true : undefined;
        });
        expect(log()).not.toContain("level=info");
      });
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });

  test(`A01: --version tells the program and its version [${maker}]`, async () => {
    // @covers flag:containerd --version
    const long = await exec([program(maker, "containerd"), "--version"]);
    expect(long.code).toBe(0);
    expect(long.stdout).toMatch(/^containerd \S+ v?\d+\.\d+\.\d+\S*/);
    expect((await exec([program(maker, "containerd"), "-v"])).stdout).toBe(long.stdout);
  });
}

row(
  "O02",
  "environment and sockets of shims are as configured",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, plugin io.containerd.shim.v1.manager",
    covers: [
      "config:plugins.io.containerd.shim.v1.manager.env",
      "config:plugins.io.containerd.shim.v1.manager.socket_dir",
    ],
    config: {
      ours: '[plugins."io.containerd.shim.v1.manager"]\n  env = ["COLOUR=blue"]\n  socket_dir = "@dir@/shims"\n',
    },
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    expect(await environmentOf(await shimOf(t, id))).toContain("COLOUR=blue");
    expect((await readdir(t.path("shims"))).length).toBeGreaterThan(0);
  },
);

row(
  "D07",
  "snapshotters keep their files where they are told",
  {
    casts: ENDS,
    covers: [
      "config:plugins.io.containerd.snapshotter.v1.native.root_path",
      "config:plugins.io.containerd.snapshotter.v1.overlayfs.root_path",
      "config:plugins.io.containerd.snapshotter.v1.overlayfs.upperdir_label",
    ],
    config: both(
      '[plugins."io.containerd.snapshotter.v1.native"]\n  root_path = "@dir@/natives"\n' +
        '[plugins."io.containerd.snapshotter.v1.overlayfs"]\n  root_path = "@dir@/overlays"\n  upperdir_label = true\n',
    ),
  },
  async (t) => {
    const mounts = await t.must("snapshots", "--snapshotter", "native", "prepare", "--target", "/x", t.id("n"));
    expect(mounts).toContain(` ${t.path("natives/snapshots/")}`);
    expect((await readdir(t.path("natives/snapshots"))).length).toBe(1);
    await t.must("snapshots", "prepare", t.id("o"));
    expect((await readdir(t.path("overlays/snapshots"))).length).toBe(1);
    const info: unknown = JSON.parse(await t.must("snapshots", "info", t.id("o")));
    expect(info).toHaveProperty(["Labels", "containerd.io/snapshot/overlay.upperdir"]);
    expect(JSON.stringify(info)).toContain(t.path("overlays/snapshots/"));
    for (const [snapshotter, key] of [
      ["native", t.id("n")],
      ["overlayfs", t.id("o")],
    ] as const)
      await t.must("snapshots", "--snapshotter", snapshotter, "rm", key);
  },
);

row(
  "D07",
  "overlayfs: mount options for every mount, and a slow chown is told to clients",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, plugin io.containerd.snapshotter.v1.overlayfs",
    covers: [
      "config:plugins.io.containerd.snapshotter.v1.overlayfs.mount_options",
      "config:plugins.io.containerd.snapshotter.v1.overlayfs.slow_chown",
    ],
    config: {
      ours: '[plugins."io.containerd.snapshotter.v1.overlayfs"]\n  mount_options = ["redirect_dir=off"]\n  slow_chown = false\n',
    },
  },
  async (t) => {
    const capabilities = async (): Promise<string> =>
      /Capabilities:\s+(.*)/.exec(await t.must("plugins", "ls", "--detailed", "id==overlayfs"))?.[1] ?? "";
    const mount = await t.must("snapshots", "prepare", "--target", "/x", t.id("p"), await baseOf(t));
    expect(mount).toMatch(/^mount -t overlay overlay \/x -o \S*redirect_dir=off/);
    await t.must("snapshots", "rm", t.id("p"));
    expect(await capabilities()).toContain("only-remap-ids");
    await reconfigure(t, "slow_chown = false", "slow_chown = true");
    expect(await capabilities()).not.toContain("only-remap-ids");
  },
);

row(
  "D07",
  "overlayfs: with sync_remove a removed snapshot's files are gone with the answer",
  {
    casts: ["ours"],
    source: "containerd 2.3.4, plugin io.containerd.snapshotter.v1.overlayfs",
    covers: ["config:plugins.io.containerd.snapshotter.v1.overlayfs.sync_remove"],
    config: { ours: '[plugins."io.containerd.snapshotter.v1.overlayfs"]\n  sync_remove = true\n' },
  },
  async (t) => {
    const many = Array.from({ length: 3_000 }, (_, index) => ({ path: `f${index}`, data: "x" }));
    const image = await t.image({ name: "docker.io/library/many:1", layers: [tar(many)], bare: true });
    const folder = join(t.daemon.root, "io.containerd.snapshotter.v1.overlayfs/snapshots");
    expect(await readdir(folder)).toHaveLength(1);
    await t.must("images", "rm", "--sync", image);
    expect(await readdir(folder)).toEqual([]);
  },
);

/** The topmost snapshot of an image of one layer. */
async function baseOf(t: Stage): Promise<string> {
  await t.image({ name: "docker.io/library/base:1", layers: [tar([{ path: "x", data: "x" }])], bare: true });
  return /^(sha256:\S+)\s+Committed/m.exec(await t.must("snapshots", "ls"))?.[1] ?? "";
}

const TIMEOUT = (name: string, value: string): string => `[timeouts]\n  "io.containerd.timeout.${name}" = "${value}"\n`;

/** Milliseconds that something takes. */
async function took(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

row(
  "A28",
  "a question for the state of a task whose shim does not answer takes the state time-out",
  {
    casts: ENDS,
    covers: ["config:timeouts.io.containerd.timeout.task.state"],
    config: both(TIMEOUT("task.state", "4s")),
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    const shim = await shimOf(t, id);
    process.kill(shim, "SIGSTOP");
    try {
      // A list of ours gives it up sooner (0195).
      await using client = connectClient({ address: t.daemon.address });
      const ref = { containerId: id, execId: "" };
      const ms = await took(async () =>
        client.tasks.get(backgroundContext({ namespace: t.namespace }), ref).catch(() => undefined),
      );
      expect(ms).toBeGreaterThan(3_500);
      expect(ms).toBeLessThan(8_000);
    } finally {
      process.kill(shim, "SIGCONT");
    }
  },
);

row(
  "A28",
  "a shim that does not answer a daemon that has just started is waited for by the load time-out",
  {
    casts: ["ours"],
    // The peer waits as long before it serves at all, and then kills the shim.
    source: "containerd 2.3.4, runtime/v2 shim loading",
    covers: ["config:timeouts.io.containerd.timeout.shim.load"],
    config: { ours: `${TIMEOUT("shim.load", "300ms")}  "io.containerd.timeout.task.state" = "300ms"\n` },
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    const shim = await shimOf(t, id);
    await t.daemon.stop();
    process.kill(shim, "SIGSTOP");
    try {
      await t.daemon.launch();
      expect(await took(async () => t.ctr("tasks", "ls"))).toBeLessThan(3_000);
    } finally {
      process.kill(shim, "SIGCONT");
    }
    await eventually("the task", async () =>
      (await t.ctr("tasks", "ls", "-q")).stdout === `${id}\n` ? true : undefined,
    );
  },
);

row(
  "A28",
  "the clean-up after a shim that died is given up after its time-out",
  {
    casts: ENDS,
    covers: ["config:timeouts.io.containerd.timeout.shim.cleanup"],
    config: both(TIMEOUT("shim.cleanup", "500ms")),
  },
  async (t) => {
    const id = t.id("c");
    const shim = t.path("bin/containerd-shim-slow-v1");
    const wait = t.path("bin/slow-delete");
    await writeFile(wait, "#!/bin/sh\nwhile :; do sleep 0.2; done\n", { mode: 0o755 });
    const slow = `for word; do if [ "$word" = delete ]; then exec ${wait}; fi; done\nexec ${program(t.cast.shim, "containerd-shim-runc-v2")} "$@"\n`;
    await writeFile(shim, `#!/bin/sh\n${slow}`, { mode: 0o755 });
    await t.must("run", "-d", "--null-io", "--runtime", "io.containerd.slow.v1", await t.image(), id, "sleep", "1000");
    const pid = await pidOf(t, id);
    process.kill(await shimOf(t, id), "SIGKILL");
    const ms = await took(async () =>
      eventually("the task to be gone", async () =>
        (await t.ctr("tasks", "ls", "-q")).stdout === "" ? true : undefined,
      ),
    );
    expect(ms).toBeLessThan(4_000);
    // What the shim's delete would have done.
    process.kill(pid, "SIGKILL");
    await exec(["runc", "--root", `/run/containerd/runc/${t.namespace}`, "delete", "--force", id], {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    });
    for (const point of await mountsBelow(t.daemon.state)) await exec(["umount", "-l", point]);
    for (const left of await processesNaming(wait)) process.kill(left.pid, "SIGKILL");
  },
);

row(
  "A28",
  "a shim that does not answer is left out of the metrics after the time-out for statistics",
  {
    casts: ["ours", "our-daemon"],
    source: "containerd 2.3.4, config dump: 1.6 has no such key",
    covers: ["config:timeouts.io.containerd.timeout.metrics.shimstats"],
    config: { ours: TIMEOUT("metrics.shimstats", "400ms") },
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    expect(await t.must("tasks", "metrics", id)).toContain(id);
    const shim = await shimOf(t, id);
    process.kill(shim, "SIGSTOP");
    try {
      await using client = connectClient({ address: t.daemon.address });
      const context = backgroundContext({ namespace: t.namespace });
      const ms = await took(async () => expect(await client.tasks.metrics(context, [])).toEqual([]));
      expect(ms).toBeGreaterThan(350);
      expect(ms).toBeLessThan(8_000);
    } finally {
      process.kill(shim, "SIGCONT");
    }
    expect(await t.must("tasks", "metrics", id)).toContain(id);
  },
);

row(
  "A28",
  "a second daemon waits for the first one's metadata as long as it is told",
  {
    casts: ENDS,
    covers: ["config:timeouts.io.containerd.timeout.bolt.open"],
    config: both(TIMEOUT("bolt.open", "15s")),
  },
  async (t) => {
    const other = t.path("second");
    const folders = ["--root", t.daemon.root, "--state", `${other}-state`, "--address", `${other}.sock`];
    const second = start([program(t.cast.daemon, "containerd"), "--config", t.daemon.configPath, ...folders], {
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    });
    try {
      await Bun.sleep(1_500);
      expect(existsSync(`${other}.sock`)).toBe(false);
      await t.daemon.stop();
      await eventually("the second one to answer", async () => {
        const asked = await exec([program(t.cast.client, "ctr"), "--address", `${other}.sock`, "version"]);
        return asked.code === 0 ? true : undefined;
      });
    } finally {
      await second.stop();
    }
  },
);

/** Between a shim's socket and its daemon: passes all on but what follows the word Shutdown. */
const SWALLOWER = `const net = require("node:net");
const [, , real, own] = process.argv;
net.createServer((client) => {
  const shim = net.connect(real);
  let deaf = false;
  client.on("data", (bytes) => {
    deaf ||= bytes.includes("Shutdown");
    if (!deaf) shim.write(bytes);
  });
  shim.on("data", (bytes) => client.write(bytes));
  for (const [one, other] of [[client, shim], [shim, client]]) one.on("close", () => other.destroy()).on("error", () => other.destroy());
}).listen(own);
`;

row(
  "A28",
  "a shim that does not end when it is told to holds the deletion up for the shutdown time-out",
  {
    // Debian's shim serves one container and is told to end after it.
    casts: ["peer", "their-shim"],
    covers: ["config:timeouts.io.containerd.timeout.shim.shutdown"],
    config: both(TIMEOUT("shim.shutdown", "6s")),
  },
  async (t) => {
    const [wrapper, relay, own] = [t.path("bin/containerd-shim-deaf-v1"), t.path("relay.cjs"), t.path("relay.sock")];
    await writeFile(relay, SWALLOWER);
    const real = program("debian", "containerd-shim-runc-v2");
    await writeFile(
      wrapper,
      `#!/bin/sh
last=
for last; do :; done
[ "$last" = start ] || exec ${real} "$@"
address=$(${real} "$@") || exit 1
${process.execPath} ${relay} "\${address#unix://}" ${own} >/dev/null 2>&1 </dev/null &
while ! [ -S ${own} ]; do sleep 0.05; done
echo unix://${own}
`,
      { mode: 0o755 },
    );
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", "--runtime", "io.containerd.deaf.v1", await t.image(), id, "sleep", "1000");
    const shim = await shimOf(t, id);
    await t.must("tasks", "kill", "-s", "KILL", id);
    await eventually("the task to stop", async () =>
      (await t.must("tasks", "ls")).includes("STOPPED") ? true : undefined,
    );
    const ms = await took(async () => t.ctr("tasks", "rm", id));
    process.kill(shim, "SIGKILL");
    for (const left of await processesNaming(relay)) process.kill(left.pid, "SIGKILL");
    expect(ms).toBeGreaterThan(5_500);
    expect(ms).toBeLessThan(10_000);
  },
);
