// The metrics endpoint: families, names, types and labels, as Prometheus and people's dashboards know them from containerd. The file
// tests/coverage/surface-metrics.txt has the families of containerd 2.3.4 but for go_*, which tell of a Go runtime (docs/metrics.md).
import { expect, test } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createClient } from "@stevedore/wire/rpc/index";
import { Daemon, program, repository } from "../harness/daemon.ts";
import { freePort } from "../harness/ports.ts";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

function onPort(port: number, more = ""): { readonly ours: string; readonly debian: string } {
  const text = `[metrics]\n  address = "127.0.0.1:${port}"\n${more}`;
  return { ours: text, debian: text };
}

const get = async (port: number, headers: Readonly<Record<string, string>> = {}, path = "/v1/metrics") =>
  fetch(`http://127.0.0.1:${port}${path}`, { headers });

async function scrape(port: number): Promise<string[]> {
  return (await (await get(port)).text()).split("\n");
}

/** `name type` of each family. */
function familiesIn(lines: readonly string[]): string[] {
  return lines.filter((line) => line.startsWith("# TYPE ")).map((line) => line.slice("# TYPE ".length));
}

function valueOf(lines: readonly string[], name: string): number | undefined {
  const line = lines.find((each) => each.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.slice(name.length + 1));
}

async function sleeper(t: Stage, name: string, ...flags: string[]): Promise<string> {
  const id = t.id(name);
  await t.must("run", "--detach", "--null-io", ...flags, await t.image(), id, "sleep", "1000");
  return id;
}

/** Pids of the shims of a case's daemon. */
async function shimsOf(t: Stage): Promise<number[]> {
  const { stdout } = await exec(["pgrep", "-f", `containerd-shim-runc-v2.*-address ${t.daemon.address}`]);
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map(Number);
}

/** Families of parts that are not there yet; the first of them to come is to be compared from then on. */
const AWAITED = /^containerd_(cri|nri)_/;
/** Ours beside the peer's: it describes the family, and fills it only for a runtime that is gone. */
const MORE = ["container_memory_oom_total gauge"];

const FACTS_PORT = freePort();

row(
  "M02 M05 M09 M10 M11 M12 M13 M14",
  "every family of containerd 2.3.4 whose part exists is there with its type, and no other",
  { source: "containerd 2.3.4's own answer on a machine like this", casts: ["ours"], config: onPort(FACTS_PORT) },
  async (t) => {
    await sleeper(t, "c");
    await t.must("images", "rm", "--sync", await t.image());
    const facts = (await readFile(join(repository, "tests/coverage/surface-metrics.txt"), "utf8")).trim().split("\n");
    const wanted = facts.filter((line) => !AWAITED.test(line));
    const lines = await scrape(FACTS_PORT);
    const shown = familiesIn(lines);
    // Huge pages and block devices are this machine's, or not.
    const known = shown.filter((line) => !/^container_(hugetlb|blkio)_/.test(line));
    expect(known).toEqual([...wanted, ...MORE].toSorted());
    for (const family of shown) {
      const name = family.split(" ")[0] ?? "";
      expect(lines.some((line) => line.startsWith(`# HELP ${name} `) && line.length > `# HELP ${name} `.length)).toBe(
        true,
      );
    }
  },
);

const LABELS_PORT = freePort();

row(
  "M10 M12 M13",
  "gRPC calls, the process and the scrapes themselves, with the peer's labels and helps",
  { casts: ["peer", "ours"], config: onPort(LABELS_PORT) },
  async (t) => {
    await t.must("version");
    await t.ctr("images", "rm", "nothing");
    await scrape(LABELS_PORT);
    const lines = await scrape(LABELS_PORT);
    const unary = (service: string, method: string): string =>
      `grpc_method="${method}",grpc_service="containerd.services.${service}",grpc_type="unary"`;
    const version = unary("version.v1.Version", "Version");
    for (const [name, least] of [
      [`grpc_server_started_total{${version}}`, 1],
      [`grpc_server_handled_total{grpc_code="OK",${version}}`, 1],
      [`grpc_server_handled_total{grpc_code="NotFound",${unary("images.v1.Images", "Delete")}}`, 1],
      [`grpc_server_msg_received_total{${version}}`, 1],
      [`grpc_server_msg_sent_total{${version}}`, 1],
      [`grpc_server_handled_total{grpc_code="DataLoss",${version}}`, 0],
      ['promhttp_metric_handler_requests_total{code="200"}', 1],
      ["promhttp_metric_handler_requests_in_flight", 1],
      ["process_cpu_seconds_total", 0.01],
      ["process_open_fds", 5],
      ["process_max_fds", 100],
      ["process_resident_memory_bytes", 10e6],
      ["process_virtual_memory_bytes", 10e6],
      ["process_virtual_memory_max_bytes", 10e6],
    ] as const) {
      const value = valueOf(lines, name);
      if (value === undefined || value < least) throw new Error(`${name} is ${String(value)}, want at least ${least}`);
    }
    const started = valueOf(lines, "process_start_time_seconds") ?? 0;
    expect(Math.abs(started - Date.now() / 1000)).toBeLessThan(120);
    // Without the key, no histogram of calls.
    expect(lines.filter((line) => line.includes("grpc_server_handling_seconds"))).toEqual([]);
    for (const help of HELPS) expect(lines).toContain(`# HELP ${help}`);
  },
);

const HELPS = [
  "containerd_build_info_total containerd build information",
  "grpc_server_handled_total Total number of RPCs completed on the server, regardless of success or failure.",
  "grpc_server_msg_received_total Total number of RPC stream messages received on the server.",
  "grpc_server_msg_sent_total Total number of gRPC stream messages sent by the server.",
  "grpc_server_started_total Total number of RPCs started on the server.",
  "process_cpu_seconds_total Total user and system CPU time spent in seconds.",
  "process_max_fds Maximum number of open file descriptors.",
  "process_open_fds Number of open file descriptors.",
  "process_resident_memory_bytes Resident memory size in bytes.",
  "process_start_time_seconds Start time of the process since unix epoch in seconds.",
  "process_virtual_memory_bytes Virtual memory size in bytes.",
  "process_virtual_memory_max_bytes Maximum amount of virtual memory available in bytes.",
  "promhttp_metric_handler_requests_in_flight Current number of scrapes being served.",
  "promhttp_metric_handler_requests_total Total number of scrapes by HTTP status code.",
];

const HELP_PORT = freePort();

row(
  "M14",
  "helps and labels of a container's figures are the peer's",
  { casts: ["peer", "ours"], config: onPort(HELP_PORT) },
  async (t) => {
    const id = await sleeper(t, "c");
    const lines = await eventually("the figures", async () => {
      const found = await scrape(HELP_PORT);
      return found.some((line) => line.startsWith("container_")) ? found : undefined;
    });
    for (const help of [
      "container_cpu_total_nanoseconds The total cpu time",
      "container_memory_cache_bytes The cache amount used",
      "container_memory_dirty_bytes The dirty amount",
      "container_memory_total_mapped_file_bytes The total_mapped_file amount used",
      "container_memory_usage_limit_bytes The memory limit",
      "container_memory_kerneltcp_usage_bytes The kerneltcp usage",
      "container_pids_current The current number of pids",
    ]) {
      expect(lines).toContain(`# HELP ${help}`);
    }
    const of = `container_id="${id}",namespace="${t.namespace}",runtime="io.containerd.runc.v2"`;
    expect(valueOf(lines, `container_pids_current{${of}}`)).toBe(1);
    expect(
      valueOf(
        lines,
        `container_per_cpu_nanoseconds{container_id="${id}",cpu="0",namespace="${t.namespace}",runtime="io.containerd.runc.v2"}`,
      ),
    ).toBeGreaterThanOrEqual(0);
    await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);

const HTTP_PORT = freePort();

row(
  "M01",
  "the endpoint speaks HTTP as Prometheus' own does: formats, encodings, other paths",
  { casts: ["peer", "ours"], config: onPort(HTTP_PORT) },
  async () => {
    const text = await get(HTTP_PORT, { accept: "application/openmetrics-text;version=1.0.0" });
    expect(text.status).toBe(200);
    expect(text.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4; charset=utf-8(; escaping=\w+)?$/);
    await text.text();
    const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    const message = await get(HTTP_PORT, { accept: protobuf });
    expect(message.headers.get("content-type")).toStartWith(protobuf.replaceAll(";", "; "));
    const bytes = Buffer.from(await message.arrayBuffer());
    expect(bytes.includes("containerd_build_info_total")).toBe(true);
    // A client that unpacks nothing by itself.
    const packed = await exec([
      "curl",
      "-s",
      "-D-",
      "-o/dev/null",
      "-H",
      "Accept-Encoding: gzip",
      `127.0.0.1:${HTTP_PORT}/v1/metrics`,
    ]);
    expect(packed.stdout.toLowerCase()).toContain("content-encoding: gzip");
    const other = await get(HTTP_PORT, {}, "/metrics");
    expect([other.status, await other.text()]).toEqual([404, "404 page not found\n"]);
  },
);

const HISTOGRAM_PORT = freePort();

row(
  "M15",
  "grpc_histogram measures how long calls take",
  {
    casts: ["peer", "ours"],
    covers: ["config:plugins.io.containerd.metrics.v1.grpc-prometheus.grpc_histogram"],
    config: onPort(HISTOGRAM_PORT, "  grpc_histogram = true\n"),
  },
  async (t) => {
    await t.must("version");
    const lines = await scrape(HISTOGRAM_PORT);
    const of = 'grpc_method="Version",grpc_service="containerd.services.version.v1.Version",grpc_type="unary"';
    for (const bound of ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10"]) {
      expect(valueOf(lines, `grpc_server_handling_seconds_bucket{${of},le="${bound}"}`)).toBeGreaterThanOrEqual(0);
    }
    const count = valueOf(lines, `grpc_server_handling_seconds_count{${of}}`);
    expect(count).toBeGreaterThanOrEqual(1);
    expect(valueOf(lines, `grpc_server_handling_seconds_bucket{${of},le="+Inf"}`)).toBe(count ?? -1);
    expect(valueOf(lines, `grpc_server_handling_seconds_sum{${of}}`)).toBeGreaterThan(0);
  },
);

test("M10 M15: calls over TCP are counted with those over the socket", async () => {
  const [metrics, tcp] = [freePort(), freePort()];
  await using daemon = await Daemon.start({
    maker: "ours",
    config: `${onPort(metrics, "  grpc_histogram = true\n").ours}[grpc]\n  tcp_address = "127.0.0.1:${tcp}"\n`,
  });
  const of = 'grpc_method="Version",grpc_service="containerd.services.version.v1.Version",grpc_type="unary"';
  const count = async (): Promise<number> =>
    valueOf(await scrape(metrics), `grpc_server_handling_seconds_count{${of}}`) ?? -1;
  const before = await count();
  for (const address of [`tcp://127.0.0.1:${tcp}`, `unix://${daemon.address}`]) {
    const transport = createGrpcTransport({ address });
    await createClient(Version, transport).version({});
    await transport.close();
  }
  expect(await count()).toBe(before + 2);
});

const OOM_PORT = freePort();

row(
  "M14",
  "an out-of-memory kill is counted",
  { source: "containerd 2.3.4, core/metrics/cgroups/v1/oom.go", casts: ["ours"], config: onPort(OOM_PORT) },
  async (t) => {
    const id = t.id("c");
    // The shell goes on: it is its child that asks for too much.
    const script = "tail /dev/zero; sleep 1000";
    await t.must("run", "--detach", "--null-io", "--memory-limit", "16777216", await t.image(), id, "sh", "-c", script);
    const name = `container_memory_oom_total{container_id="${id}",namespace="${t.namespace}"}`;
    await eventually("the kill to be counted", async () => {
      const value = valueOf(await scrape(OOM_PORT), name);
      return value !== undefined && value > 0 ? value : undefined;
    });
    await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);

const STOPPED_PORT = freePort();

row(
  "M14",
  "a shim that is stopped keeps no figures back",
  { source: "containerd asks its shims and waits 2 s for such a one", casts: ["ours"], config: onPort(STOPPED_PORT) },
  async (t) => {
    const id = await sleeper(t, "c");
    const shims = await shimsOf(t);
    expect(shims.length).toBeGreaterThan(0);
    for (const pid of shims) process.kill(pid, "SIGSTOP");
    try {
      const began = performance.now();
      const lines = await scrape(STOPPED_PORT);
      expect(performance.now() - began).toBeLessThan(1500);
      const of = `container_id="${id}",namespace="${t.namespace}",runtime="io.containerd.runc.v2"`;
      expect(valueOf(lines, `container_pids_current{${of}}`)).toBe(1);
    } finally {
      for (const pid of shims) process.kill(pid, "SIGCONT");
    }
    await t.must("tasks", "kill", "--signal", "KILL", id);
    await eventually("the figures to go with the container", async () =>
      (await scrape(STOPPED_PORT)).some((line) => line.includes(id)) ? undefined : true,
    );
  },
);

const OTHER_PORT = freePort();

row(
  "M14",
  "another runtime's shim is asked, and waited for no longer than the time-out says",
  {
    source: "containerd asks all shims so",
    casts: ["ours"],
    config: onPort(OTHER_PORT, '[timeouts]\n  "io.containerd.timeout.metrics.shimstats" = "700ms"\n'),
  },
  async (t) => {
    const shim = t.path("bin/containerd-shim-other-v1");
    await writeFile(shim, `#!/bin/sh\nexec ${program(t.cast.shim, "containerd-shim-runc-v2")} "$@"\n`, { mode: 0o755 });
    const runtime = "io.containerd.other.v1";
    const [other, usual] = [await sleeper(t, "other", "--runtime", runtime), await sleeper(t, "usual")];
    const of = (id: string, name: string): string =>
      `container_pids_current{container_id="${id}",namespace="${t.namespace}",runtime="${name}"}`;
    const before = await scrape(OTHER_PORT);
    expect(valueOf(before, of(other, runtime))).toBe(1);
    expect(valueOf(before, of(usual, "io.containerd.runc.v2"))).toBe(1);
    const stopped = await shimsOf(t);
    for (const pid of stopped) process.kill(pid, "SIGSTOP");
    try {
      const began = performance.now();
      const lines = await scrape(OTHER_PORT);
      expect(performance.now() - began).toBeLessThan(5_000);
      expect(valueOf(lines, of(other, runtime))).toBeUndefined();
      expect(valueOf(lines, of(usual, "io.containerd.runc.v2"))).toBe(1);
    } finally {
      for (const pid of stopped) process.kill(pid, "SIGCONT");
    }
    for (const id of [other, usual]) await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);

const AGAIN_PORT = freePort();

row(
  "M14",
  "a daemon that was killed shows its containers' figures again, with all their labels",
  { source: "containerd leaves the runtime out after a restart", casts: ["ours"], config: onPort(AGAIN_PORT) },
  async (t) => {
    const id = await sleeper(t, "c");
    const name = `container_pids_current{container_id="${id}",namespace="${t.namespace}",runtime="io.containerd.runc.v2"}`;
    expect(valueOf(await scrape(AGAIN_PORT), name)).toBe(1);
    await t.daemon.stop("SIGKILL");
    await t.daemon.launch();
    // The socket answers a moment before the port does.
    await eventually("the figures", async () =>
      valueOf(await scrape(AGAIN_PORT).catch(() => []), name) === 1 ? true : undefined,
    );
    await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);

const GC_PORT = freePort();

row(
  "E13 M09",
  "collections are counted and timed",
  { source: "containerd 2.3.4, plugins/gc", casts: ["ours"], config: onPort(GC_PORT) },
  async (t) => {
    const image = await t.image();
    const count = async (): Promise<number> =>
      valueOf(await scrape(GC_PORT), 'containerd_gc_collections_total{status="success"}') ?? 0;
    const before = await count();
    await t.must("images", "rm", "--sync", image);
    expect(await t.must("content", "ls", "-q")).toBe("");
    const lines = await scrape(GC_PORT);
    const after = await count();
    expect(after).toBeGreaterThan(before);
    expect(valueOf(lines, "containerd_gc_gc_seconds_count")).toBe(after);
    expect(lines).toContain("# HELP containerd_gc_collections_total counter of gc scheduler collections");
    expect(lines).toContain("# HELP containerd_gc_gc_seconds duration of gc scheduler collections");
  },
);

/** Paths of a JSON value's leaves: `cpu.usage.total`; elements of a list count as one. */
function leaves(value: unknown, path = ""): string[] {
  if (Array.isArray(value)) return value.length === 0 ? [] : leaves(value[0], `${path}[]`);
  if (typeof value !== "object" || value === null) return [path];
  return Object.entries(value).flatMap(([key, inner]) => leaves(inner, path === "" ? key : `${path}.${key}`));
}

row(
  "F34",
  "tasks metrics has every figure that the peer fills, with like values",
  { casts: ["peer", "ours", "our-shim", "their-shim"] },
  async (t) => {
    const id = t.id("c");
    // Something of everything: memory, time, processes.
    const work =
      "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/x bs=1M count=4 2>/dev/null; sleep 1000; true";
    await t.must("run", "-d", "--null-io", "--memory-limit", "67108864", await t.image(), id, "sh", "-c", work);
    const text = await eventually("the work to show", async () => {
      const printed = await t.must("tasks", "metrics", "--format", "json", id);
      return printed.includes('"current": 2\n') ? printed : undefined;
    });
    const parsed: unknown = JSON.parse(text);
    // As Go prints it: zeros left out, two blanks, 64 bits kept.
    expect(text).toStartWith('{\n  "pids": {\n    "current": 2\n  },\n  "cpu": {\n    "usage": {\n');
    expect(text).toContain('"hierarchical_swap_limit": 9223372036854771712,');
    expect(text).toContain('"throttling": {}');
    const paths = leaves(parsed);
    for (const path of [
      "cpu.usage.total",
      "cpu.usage.per_cpu[]",
      "memory.total_rss",
      "memory.usage.limit",
      "memory.usage.usage",
      "memory.swap.limit",
      "memory.hierarchical_memory_limit",
      "pids.current",
    ]) {
      expect(paths).toContain(path);
    }
    expect(parsed).toHaveProperty("memory.usage.limit", 67_108_864);
    expect(parsed).toHaveProperty("memory.hierarchical_memory_limit", 67_108_864);
    await t.must("tasks", "kill", "--signal", "KILL", id);
  },
);
