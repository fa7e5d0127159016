// The daemon as a program: configuration, sockets, logs, signals, and what it refuses. Cases with `source` have no live peer in Debian:
// containerd 2.3.4's surface (shared facts of configuration version 4) decides.
import { expect, test } from "bun:test";
import { chmod, chown, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Daemon, program } from "../harness/daemon.ts";
import { eventually, exec } from "../harness/process.ts";
import { row } from "../harness/row.ts";

async function scratch(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), "stv-daemon-"));
  return { path, [Symbol.asyncDispose]: async () => rm(path, { recursive: true, force: true }) };
}

const containerd = async (...args: string[]) => exec([program("ours", "containerd"), ...args]);

test("A05: the default configuration is complete, and a daemon starts with it", async () => {
  // @covers cmd:containerd config, cmd:containerd config default
  await using dir = await scratch();
  const { stdout, code } = await containerd("config", "default");
  expect(code).toBe(0);
  expect(stdout).toStartWith("version = 4\n");
  const path = join(dir.path, "config.toml");
  await writeFile(path, stdout);
  // Dumped again it is the same.
  const dumped = await containerd("--config", path, "config", "dump");
  expect([dumped.code, dumped.stdout]).toEqual([0, stdout]);
});

test("A06 A10 A35: a file of version 1 is read, and migrated", async () => {
  // @covers cmd:containerd config migrate, cmd:containerd config dump, flag:containerd --config
  await using dir = await scratch();
  const path = join(dir.path, "v1.toml");
  await writeFile(
    path,
    `subreaper = true
oom_score = 0
root = "${dir.path}/r"
state = "${dir.path}/s"
[grpc]
  address = "${dir.path}/c.sock"
  max_recv_message_size = 1000000
[debug]
  address = "${dir.path}/d.sock"
  level = "debug"
[plugins.linux]
  runtime = "runc"
  shim_debug = true
[plugins.opt]
  path = "/opt/other"
[plugins.scheduler]
  deletion_threshold = 7
[plugins.diff-service]
  default = ["walking"]
[plugins.cgroups]
  no_prometheus = true
`,
  );
  const dumped = await containerd("--config", path, "config", "dump");
  expect(dumped.code).toBe(0);
  expect(dumped.stdout).toContain("deletion_threshold = 7");
  expect(dumped.stdout).toContain('path = "/opt/other"');
  expect(dumped.stdout).toContain(`address = "${dir.path}/c.sock"`);
  expect(dumped.stdout).toContain("max_recv_message_size = 1000000");
  const migrated = await containerd("--config", path, "config", "migrate");
  expect(migrated.stdout).toContain("version = 4");
  expect(migrated.stdout).toContain('[plugins."io.containerd.gc.v1.scheduler"]');
  const again = join(dir.path, "v4.toml");
  await writeFile(again, migrated.stdout);
  expect((await containerd("--config", again, "config", "dump")).stdout).toBe(dumped.stdout);
});

test("A12: typographic quotes are refused with line and column", async () => {
  await using dir = await scratch();
  const path = join(dir.path, "config.toml");
  await writeFile(path, "[debug]\n level = “debug”\n");
  const ran = await containerd("--config", path, "--root", join(dir.path, "r"), "--state", join(dir.path, "s"));
  expect(ran.code).toBe(1);
  expect(ran.stderr).toContain(`${path}: line 2, column 10: `);
});

test("A23: unknown keys are refused, with their place and what was meant", async () => {
  await using dir = await scratch();
  const path = join(dir.path, "config.toml");
  await writeFile(path, 'version = 3\n\n[plugins."io.containerd.gc.v1.scheduler"]\n  pause_treshold = 0.1\n');
  const ran = await containerd("--config", path, "config", "dump");
  expect(ran.code).toBe(1);
  expect(ran.stderr).toContain(`${path}:4:3`);
  expect(ran.stderr).toContain('did you mean "pause_threshold"');
});

test("A23: imports are merged, later ones over earlier ones", async () => {
  // @covers config:imports
  await using dir = await scratch();
  await writeFile(join(dir.path, "a.toml"), 'version = 3\n[plugins."io.containerd.internal.v1.opt"]\n path = "/a"\n');
  await writeFile(join(dir.path, "b.toml"), 'version = 3\n[plugins."io.containerd.internal.v1.opt"]\n path = "/b"\n');
  const path = join(dir.path, "config.toml");
  await writeFile(path, `version = 3\nimports = ["${dir.path}/[ab].toml"]\n`);
  expect((await containerd("--config", path, "config", "dump")).stdout).toContain('path = "/b"');
});

row(
  "A23",
  "root and state are where the flags say, with the peer's modes",
  {
    casts: ["peer", "ours"],
    covers: ["flag:containerd --root", "flag:containerd --state", "config:root", "config:state"],
  },
  async (t) => {
    const mode = async (path: string): Promise<number> => (await stat(path)).mode & 0o777;
    expect(await mode(t.daemon.root)).toBe(0o700);
    expect(await mode(t.daemon.state)).toBe(0o711);
    expect(await mode(t.daemon.address)).toBe(0o660);
    expect(await mode(`${t.daemon.address}.ttrpc`)).toBe(0o660);
  },
);

row(
  "A23",
  "a disabled plugin is left out, and the rest starts",
  {
    casts: ["peer", "ours"],
    covers: ["config:disabled_plugins"],
    config: {
      ours: 'disabled_plugins = ["io.containerd.snapshotter.v1.native", "io.containerd.grpc.v1.leases"]\n',
      debian: "",
    },
  },
  async (t) => {
    if (t.cast.daemon === "debian") return;
    const listed = await t.must("plugins", "ls");
    expect(listed).toContain("overlayfs");
    expect(listed).not.toMatch(/snapshotter\.v1\s+native\s+\S+\s+ok/);
    expect((await t.ctr("leases", "ls")).stderr).toContain("unknown service containerd.services.leases.v1.Leases");
    expect((await t.ctr("namespaces", "ls")).code).toBe(0);
  },
);

test("A23: a required plugin that is disabled or unknown keeps the daemon from starting", async () => {
  // @covers config:required_plugins
  const config = 'required_plugins = ["io.containerd.grpc.v1.none"]\n';
  await expect(Daemon.start({ maker: "ours", config })).rejects.toThrow("io.containerd.grpc.v1.none");
});

row(
  "A24 A25",
  "sockets belong to the configured group",
  {
    casts: ["peer", "ours"],
    covers: ["config:plugins.io.containerd.server.v1.grpc.gid", "config:plugins.io.containerd.server.v1.ttrpc.gid"],
    config: { ours: "[grpc]\n gid = 7\n", debian: "[grpc]\n gid = 7\n" },
  },
  async (t) => {
    expect((await stat(t.daemon.address)).gid).toBe(7);
    // The shims' socket follows it, unless it is configured by itself.
    expect((await stat(`${t.daemon.address}.ttrpc`)).gid).toBe(7);
  },
);

test("A24: TCP with TLS asks clients for a certificate of its authority", async () => {
  // @covers config:plugins.io.containerd.server.v1.grpc-tcp.*
  await using dir = await scratch();
  const at = (name: string): string => join(dir.path, name);
  const openssl = async (...args: string[]): Promise<void> => {
    const ran = await exec(["openssl", ...args]);
    if (ran.code !== 0) throw new Error(ran.stderr);
  };
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await openssl("req", "-x509", ...key, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-subj", "/CN=ca", "-days", "2");
  for (const name of ["server", "client"]) {
    await openssl("req", ...key, "-keyout", at(`${name}.key`), "-out", at(`${name}.csr`), "-subj", `/CN=${name}`);
    await writeFile(at("ext"), "subjectAltName=IP:127.0.0.1\n");
    const signer = [
      "-CA",
      at("ca.pem"),
      "-CAkey",
      at("ca.key"),
      "-CAcreateserial",
      "-days",
      "2",
      "-extfile",
      at("ext"),
    ];
    await openssl("x509", "-req", "-in", at(`${name}.csr`), ...signer, "-out", at(`${name}.pem`));
  }
  const port = 20_000 + (process.pid % 20_000);
  await using daemon = await Daemon.start({
    maker: "ours",
    config: `[grpc]
 tcp_address = "127.0.0.1:${port}"
 tcp_tls_ca = "${at("ca.pem")}"
 tcp_tls_cert = "${at("server.pem")}"
 tcp_tls_key = "${at("server.key")}"
`,
  });
  const { createGrpcTransport } = await import("@stevedore/wire/grpc/client");
  const { createClient } = await import("@stevedore/wire/rpc/index");
  const { Version } = await import("@stevedore/wire/gen/containerd/services/version/v1/version_pb");
  const ca = await readFile(at("ca.pem"), "utf8");
  const call = async (tls: { readonly ca: string; readonly cert?: string; readonly key?: string }) => {
    const transport = createGrpcTransport({ address: `127.0.0.1:${port}`, tls });
    try {
      return await createClient(Version, transport).version({}, { timeoutMs: 5_000 });
    } finally {
      await transport.close();
    }
  };
  const known = { ca, cert: await readFile(at("client.pem"), "utf8"), key: await readFile(at("client.key"), "utf8") };
  expect((await call(known)).version).toContain("+stevedore.");
  expect(call({ ca })).rejects.toMatchObject({ errorClass: "unavailable" });
  expect(daemon.running).toBe(true);
});

row(
  "A09",
  "the configured level is what is logged",
  {
    casts: ["peer", "ours"],
    covers: ["config:debug.level"],
    config: { ours: '[debug]\n level = "debug"\n', debian: '[debug]\n level = "debug"\n' },
  },
  async (t) => {
    await t.must("version");
    expect(await t.daemon.log).toMatch(/^time="\d{4}-\d\d-\d\dT[^"]+" level=debug msg=/m);
  },
);

row(
  "A26",
  "JSON logs have the fields users search for",
  {
    casts: ["peer", "ours"],
    covers: ["config:debug.format"],
    config: { ours: '[debug]\n format = "json"\n', debian: '[debug]\n format = "json"\n' },
  },
  async (t) => {
    const log = await eventually("the daemon to say that it runs", async () =>
      (await t.daemon.log).includes("successfully booted") ? t.daemon.log : undefined,
    );
    const lines = log.split("\n").filter((line) => line.startsWith("{"));
    const parsed: unknown[] = lines.map((line): unknown => JSON.parse(line));
    const texts = parsed.map((line) => (typeof line === "object" && line !== null && "msg" in line ? line.msg : ""));
    expect(texts.some((text) => String(text).includes("loading plugin"))).toBe(true);
    expect(texts.some((text) => String(text).includes("successfully booted in"))).toBe(true);
    expect(parsed[0]).toHaveProperty("time");
    expect(parsed[0]).toHaveProperty("level", "info");
  },
);

test("A26: the debug socket serves profiles to Debian's ctr", async () => {
  // @covers config:plugins.io.containerd.server.v1.debug.*
  await using dir = await scratch();
  const address = join(dir.path, "debug.sock");
  await using daemon = await Daemon.start({ maker: "ours", config: `[debug]\n address = "${address}"\n gid = 9\n` });
  const found = await eventually("the debug socket", async () => stat(address).catch(() => undefined));
  expect(found.gid).toBe(9);
  const pprof = async (...args: string[]) =>
    daemon.ctr("debian", "default", ["pprof", "--debug-socket", address, ...args]);
  const heap = await pprof("heap");
  expect(heap.code).toBe(0);
  const goroutines = await pprof("goroutines");
  expect(`${goroutines.stdout}${goroutines.stderr}`).toContain("501 Not Implemented");
  const profiled = await fetch("http://d/debug/pprof/profile?seconds=0.2", { unix: address });
  expect(profiled.status).toBe(200);
  expect(Buffer.from(await profiled.arrayBuffer()).subarray(0, 2)).toEqual(Buffer.from([0x1f, 0x8b]));
});

row(
  "A01",
  "TERM ends the daemon at once, also with clients that stay on",
  { casts: ["peer", "ours"], ownDaemon: true },
  async (t) => {
    const events = t.start("events");
    await eventually("the subscriber to be there", async () => {
      await t.must("namespaces", "create", t.id("x"));
      return events.stdout().includes("/namespaces/create") ? true : undefined;
    }).catch(() => undefined);
    const started = performance.now();
    expect(await t.daemon.stop()).toBe(0);
    expect(performance.now() - started).toBeLessThan(5_000);
    await t.daemon.launch();
    await t.must("version");
  },
);

test("A01: one daemon per root", async () => {
  await using daemon = await Daemon.start({ maker: "ours" });
  const other = join(daemon.dir, "other");
  const folders = ["--root", daemon.root, "--state", `${other}-state`, "--address", `${other}.sock`];
  const second = await containerd("--config", daemon.configPath, ...folders);
  expect(second.code).toBe(1);
  expect(second.stderr).toContain(daemon.root);
});

row("A02", "the server's identity stays over a restart", { casts: ["peer", "ours"], ownDaemon: true }, async (t) => {
  const uuid = async (): Promise<string> => /UUID: +(\S+)/.exec(await t.must("version"))?.[1] ?? "";
  const before = await uuid();
  expect(before).toMatch(/^[0-9a-f-]{36}$/);
  await t.daemon.stop();
  await t.daemon.launch();
  expect(await uuid()).toBe(before);
});

row("A03", "another user is refused on both sockets", { casts: ["peer", "ours"] }, async (t) => {
  for (const socket of [t.daemon.address, `${t.daemon.address}.ttrpc`]) {
    await chmod(t.daemon.dir, 0o711);
    const code = `require("node:net").connect(${JSON.stringify(socket)}).on("error",(e)=>console.log(e.code)).on("connect",()=>{console.log("open");process.exit()})`;
    const ran = await exec(["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "node", "-e", code]);
    expect(ran.stdout.trim()).toBe("EACCES");
  }
});

row(
  "A29",
  "the collector's keys are shown and obeyed",
  {
    casts: ["ours"],
    covers: ["config:plugins.io.containerd.gc.v1.scheduler.deletion_threshold"],
    config: { ours: '[plugins."io.containerd.gc.v1.scheduler"]\n  deletion_threshold = 1\n' },
  },
  async (t) => {
    const image = await t.image();
    await t.must("images", "rm", image);
    await eventually("the blobs to be gone", async () =>
      (await t.must("content", "ls", "-q")).trim() === "" ? true : undefined,
    );
  },
);

const METRICS_PORT = 21_000 + (process.pid % 20_000);

function metricsConfig(port: number, more = ""): { readonly ours: string; readonly debian: string } {
  const text = `[metrics]\n address = "127.0.0.1:${port}"\n${more}`;
  return { ours: text, debian: text };
}

async function scrape(port: number): Promise<string[]> {
  const text = await (await fetch(`http://127.0.0.1:${port}/v1/metrics`)).text();
  return text.split("\n").filter((line) => line.startsWith("container_") || line.startsWith("containerd_build"));
}

row(
  "A33",
  "the figures of each container, under the peer's names",
  {
    casts: ["peer", "ours"],
    covers: ["config:plugins.io.containerd.server.v1.metrics.address"],
    config: metricsConfig(METRICS_PORT),
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "--detach", "--null-io", await t.image(), id, "sleep", "1000");
    const lines = await scrape(METRICS_PORT);
    const labels = `container_id="${id}",namespace="${t.namespace}",runtime="io.containerd.runc.v2"`;
    for (const name of [
      "container_cpu_total_nanoseconds",
      "container_cpu_throttled_periods_total",
      "container_memory_cache_bytes",
      "container_memory_pgmajfault_bytes",
      "container_memory_total_pgpgin_bytes",
      "container_memory_hierarchical_memsw_limit_bytes",
      "container_memory_usage_usage_bytes",
      "container_memory_kerneltcp_failcnt_total",
      "container_pids_current",
    ]) {
      expect(lines.filter((line) => line.startsWith(`${name}{${labels}} `))).toHaveLength(1);
    }
    expect(lines.some((line) => /^containerd_build_info_total\{revision=".*",version=".*"\} 1$/.test(line))).toBe(true);
    // Nothing under a name that the peer does not have.
    const unknown = lines.filter((line) => !PEER_METRICS.test(line));
    expect(unknown).toEqual([]);
    await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);

const PEER_METRICS =
  /^container(d_build_info|_cpu_(kernel|total|user)_nanoseconds|_per_cpu_nanoseconds|_cpu_thrott|_pids_|_hugetlb_|_blkio_|_memory_(total_)?(cache|rss|rss_huge|mapped_file|dirty|writeback|pgpgin|pgpgout|pgfault|pgmajfault|inactive_anon|active_anon|inactive_file|active_file|unevictable)_bytes|_memory_hierarchical_(memory|memsw)_limit_bytes|_memory_(usage|swap|kernel|kerneltcp)_(usage|limit|max)_bytes|_memory_(usage|swap|kernel|kerneltcp)_failcnt_total|_memory_oom_total)/;

row(
  "A33",
  "no_prometheus hides them",
  {
    casts: ["peer", "ours"],
    covers: ["config:plugins.io.containerd.monitor.task.v1.cgroups.no_prometheus"],
    config: {
      ours: metricsConfig(
        METRICS_PORT + 1,
        '[plugins."io.containerd.monitor.task.v1.cgroups"]\n no_prometheus = true\n',
      ).ours,
      debian: metricsConfig(METRICS_PORT + 1, '[plugins."io.containerd.monitor.v1.cgroups"]\n no_prometheus = true\n')
        .debian,
    },
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "--detach", "--null-io", await t.image(), id, "sleep", "1000");
    const lines = await scrape(METRICS_PORT + 1);
    expect(lines.filter((line) => line.startsWith("container_"))).toEqual([]);
    await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);

row(
  "A36",
  "a differ that does not exist is named",
  {
    casts: ["ours"],
    covers: ["config:plugins.io.containerd.service.v1.diff-service.default"],
    config: { ours: '[plugins."io.containerd.service.v1.diff-service"]\n  default = ["nonsense"]\n' },
  },
  async (t) => {
    expect(await t.must("plugins", "ls")).toMatch(/diff-service\s+-\s+error/);
    expect(await t.daemon.log).toContain("nonsense");
  },
);

row("N17 A15 A16", "each layer is listed as plugins that run", { casts: ["peer", "ours"] }, async (t) => {
  const listed = await t.must("plugins", "ls");
  for (const [type, id] of [
    ["content.v1", "content"],
    ["snapshotter.v1", "overlayfs"],
    ["snapshotter.v1", "native"],
    ["metadata.v1", "bolt"],
    ["differ.v1", "walking"],
    ["gc.v1", "scheduler"],
    ["service.v1", "containers-service"],
    ["service.v1", "tasks-service"],
    ["runtime.v2", "task"],
    ["grpc.v1", "tasks"],
    ["grpc.v1", "version"],
  ]) {
    expect(listed).toMatch(new RegExp(`io\\.containerd\\.${type}\\s+${id}\\s+\\S+\\s+ok`));
  }
});

test("O04 O06 A39: a snapshotter and a differ in another process", async () => {
  // @covers config:proxy_plugins
  await using other = await Daemon.start({ maker: "debian" });
  await using daemon = await Daemon.start({
    maker: "ours",
    config: `[proxy_plugins.far]
  type = "snapshot"
  address = "${other.address}"
[proxy_plugins.native]
  type = "diff"
  address = "${other.address}"
`,
  });
  const listed = await daemon.ctr("debian", "default", ["plugins", "ls"]);
  expect(listed.stdout).toMatch(/io\.containerd\.snapshotter\.v1\s+far/);
  expect(listed.stdout).toMatch(/io\.containerd\.differ\.v1\s+native/);
  // The other side knows no snapshotter of our name, and says so through us.
  const asked = await daemon.ctr("debian", "default", ["snapshots", "--snapshotter", "far", "prepare", "k"]);
  expect(asked.stderr).toContain("snapshotter not loaded: far");
});

test("A08: an OOM score that may be set is, one that may not is named in the log", async () => {
  // @covers config:oom_score
  await using raised = await Daemon.start({ maker: "ours", config: "oom_score = 100\n" });
  expect((await readFile(`/proc/${raised.pid}/oom_score_adj`, "utf8")).trim()).toBe("100");
});

test("N05: publish announces the event on stdin", async () => {
  // @covers cmd:containerd publish, flag:containerd publish --namespace, flag:containerd publish --topic
  await using daemon = await Daemon.start({ maker: "ours" });
  const events = daemon.startCtr("debian", "default", ["events"]);
  const payload = Buffer.concat([
    Buffer.from([10, 33]),
    Buffer.from("containerd.events.NamespaceDelete"),
    Buffer.from([18, 4, 10, 2]),
    Buffer.from("ab"),
  ]);
  await eventually("the event to arrive", async () => {
    const args = ["--address", daemon.address, "publish", "--namespace", "default", "--topic", "/some/topic"];
    const ran = Bun.spawn([program("ours", "containerd"), ...args], { stdin: payload, stderr: "pipe" });
    if ((await ran.exited) !== 0) throw new Error(await new Response(ran.stderr).text());
    return events.stdout().includes('/some/topic {"name":"ab"}') ? true : undefined;
  });
  await events.stop();
});

test("A24: another user's file is no socket of ours", async () => {
  await using dir = await scratch();
  const at = (name: string): string => join(dir.path, name);
  await writeFile(at("c.sock"), "precious");
  await chown(at("c.sock"), 1234, 1234);
  await writeFile(at("config.toml"), "version = 3\n");
  const folders = ["--root", at("r"), "--state", at("s"), "--address", at("c.sock")];
  const ran = await containerd("--config", at("config.toml"), ...folders);
  expect(ran.code).toBe(1);
  expect(ran.stderr).toContain("it is no socket");
  expect(await readFile(at("c.sock"), "utf8")).toBe("precious");
});
