// Tracing over OTLP. Debian's containerd is built without it, so containerd 2.3.4's source decides (pkg/tracing, otelgrpc, otelttrpc).
import { expect, test } from "bun:test";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import { Introspection } from "@stevedore/wire/gen/containerd/services/introspection/v1/introspection_pb";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createClient } from "@stevedore/wire/rpc/index";
import { Daemon } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { type CollectedSpan, type Collector, grpcCollector, httpCollector } from "../harness/otlp.ts";
import { eventually } from "../harness/process.ts";
import { row } from "../harness/row.ts";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const CALLER = "b7ad6b7169203331";
const SOON = { OTEL_BSP_SCHEDULE_DELAY: "50" };

/** Asks for the version as a client does that is traced itself. */
async function tracedVersion(daemon: Daemon, flags = "01"): Promise<void> {
  const transport = createGrpcTransport({ address: `unix://${daemon.address}` });
  const metadata = { traceparent: `00-${TRACE}-${CALLER}-${flags}` };
  await createClient(Version, transport).version({}, { metadata });
  await transport.close();
}

async function spanNamed(collector: Collector, name: string): Promise<CollectedSpan> {
  return eventually(`span ${name}`, async () => (await collector.spans()).find((span) => span.name === name));
}

test("A40: calls arrive as spans at an OTLP collector, below the caller's", async () => {
  await using collector = httpCollector();
  await using daemon = await Daemon.start({
    maker: "ours",
    env: {
      ...SOON,
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.address}`,
      OTEL_EXPORTER_OTLP_HEADERS: "x-key=a%20b",
    },
  });
  await tracedVersion(daemon);
  const span = await spanNamed(collector, "containerd.services.version.v1.Version/Version");
  expect(span).toMatchObject({
    service: "containerd",
    traceId: TRACE,
    parentId: CALLER,
    kind: 2,
    status: 0,
    attributes: {
      "rpc.system": "grpc",
      "rpc.service": "containerd.services.version.v1.Version",
      "rpc.method": "Version",
      "rpc.grpc.status_code": 0,
    },
  });
  expect(span.end).toBeGreaterThan(span.start);
  expect(Math.abs(Number(span.end / 1_000_000n) - Date.now())).toBeLessThan(60_000);
  const [seen] = collector.requests;
  expect(seen).toMatchObject({
    path: "/v1/traces",
    headers: { "content-type": "application/x-protobuf", "x-key": "a b" },
  });
  // An answer that is no success is not the server's failure; that is in the status code.
  const transport = createGrpcTransport({ address: `unix://${daemon.address}` });
  const metadata = { "containerd-namespace": "default" };
  const failed = createClient(Images, transport).get({ name: "nothing" }, { metadata });
  expect(await failed.then(String, String)).toContain("not found");
  await transport.close();
  const missing = await spanNamed(collector, "containerd.services.images.v1.Images/Get");
  expect([missing.status, missing.attributes["rpc.grpc.status_code"], missing.parentId]).toEqual([0, 5, ""]);
  const inner = await spanNamed(collector, "metadata.images.get");
  expect([inner.parentId, inner.status, inner.events]).toEqual([missing.spanId, 2, ["exception"]]);
  expect(inner.attributes).toMatchObject({ "containerd.namespace": "default", "containerd.key": "nothing" });
});

test("A40: with log_trace_id the log tells to which trace a call belongs", async () => {
  // @covers config:debug.log_trace_id
  await using collector = httpCollector();
  await using daemon = await Daemon.start({
    maker: "ours",
    env: { ...SOON, OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.address}` },
    config: '[debug]\n level = "debug"\n log_trace_id = true\n',
  });
  await tracedVersion(daemon);
  await eventually("a line of the call", async () =>
    (await daemon.log)
      .split("\n")
      .find((line) => line.includes("Version/Version") && line.includes(`trace_id=${TRACE}`)),
  );
});

test("A40: a trace goes on into the shim, down to the runtime", async () => {
  await using collector = httpCollector();
  await using daemon = await Daemon.start({
    maker: "ours",
    env: {
      ...SOON,
      OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.address}/own`,
      OTEL_EXPORTER_OTLP_COMPRESSION: "gzip",
    },
  });
  const archive = join(daemon.dir, "image.tar");
  await writeFile(archive, await ociArchive({}));
  for (const args of [
    ["images", "import", archive],
    ["run", "--rm", "--null-io", IMAGE, "traced", "true"],
  ]) {
    const ran = await daemon.ctr("ours", "default", args);
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
  }
  const server = await spanNamed(collector, "containerd.services.tasks.v1.Tasks/Create");
  const spans = await eventually("the runtime's spans", async () => {
    const its = (await collector.spans()).filter((span) => span.traceId === server.traceId);
    return its.some((span) => span.name === "runtime.create") ? its : undefined;
  });
  const parentOf = (span: CollectedSpan): CollectedSpan | undefined =>
    spans.find((each) => each.spanId === span.parentId);
  const path: string[] = [];
  for (let at = spans.find((span) => span.name === "runtime.create"); at !== undefined; at = parentOf(at)) {
    path.unshift(`${at.service} ${at.kind} ${at.name}`);
  }
  expect(path).toEqual([
    "containerd 2 containerd.services.tasks.v1.Tasks/Create",
    "containerd 1 tasks.create",
    "containerd 3 containerd.task.v3.Task/Create",
    "containerd-shim-runc-v2 2 containerd.task.v3.Task/Create",
    "containerd-shim-runc-v2 1 runtime.create",
  ]);
  const names = spans.map((span) => span.name);
  for (const name of ["shim.start", "mount.all"]) expect(names).toContain(name);
  const all = (await collector.spans()).map((span) => span.name);
  for (const name of ["diff.apply", "snapshots.overlayfs.prepare", "metadata.containers.create"]) {
    expect(all).toContain(name);
  }
  expect(
    collector.requests.every(({ path: asked, headers }) => asked === "/own" && headers["content-encoding"] === "gzip"),
  ).toBe(true);
});

test("A40: spans go over gRPC, to a server that is not ours", async () => {
  await using collector = await grpcCollector();
  await using daemon = await Daemon.start({
    maker: "ours",
    env: {
      ...SOON,
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.address}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "grpc",
      OTEL_SERVICE_NAME: "mine",
      OTEL_RESOURCE_ATTRIBUTES: "deployment=test",
    },
  });
  await tracedVersion(daemon);
  const span = await spanNamed(collector, "containerd.services.version.v1.Version/Version");
  expect([span.service, span.traceId, span.parentId]).toEqual(["mine", TRACE, CALLER]);
});

test("A40: the configuration's keys work, and are told to be deprecated", async () => {
  await using collector = await grpcCollector();
  await using daemon = await Daemon.start({
    maker: "ours",
    env: SOON,
    config: `[plugins."io.containerd.tracing.processor.v1.otlp"]
  endpoint = "${collector.address}"
  protocol = "grpc"
  insecure = true
[plugins."io.containerd.internal.v1.tracing"]
  service_name = "named"
  sampling_ratio = 1.0
`,
  });
  await tracedVersion(daemon);
  expect((await spanNamed(collector, "containerd.services.version.v1.Version/Version")).service).toBe("named");
  const transport = createGrpcTransport({ address: `unix://${daemon.address}` });
  const { deprecations } = await createClient(Introspection, transport).server({});
  await transport.close();
  const ids = deprecations.map(({ id }) => id);
  expect(ids).toContain("io.containerd.deprecation/tracing-processor-config");
  expect(ids).toContain("io.containerd.deprecation/tracing-service-config");
});

test("A40: samplers: by the caller, by ratio, by name", async () => {
  const shown = async (env: Readonly<Record<string, string>>, flags: string): Promise<string[]> => {
    const collector = httpCollector();
    await using _collector = collector;
    await using daemon = await Daemon.start({
      maker: "ours",
      env: { ...SOON, OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.address}`, ...env },
    });
    await tracedVersion(daemon, flags);
    await daemon.ctr("ours", "default", ["images", "ls"]);
    // What waits is sent at the end.
    await daemon.stop();
    return (await collector.spans()).map((span) => span.name).filter((name) => name.includes("/"));
  };
  const [version, images] = [
    "containerd.services.version.v1.Version/Version",
    "containerd.services.images.v1.Images/List",
  ];
  expect(await shown({}, "01")).toEqual([version, images]);
  expect(await shown({}, "00")).toEqual([images]);
  expect(await shown({ OTEL_TRACES_SAMPLER: "always_on" }, "00")).toEqual([version, images]);
  expect(await shown({ OTEL_TRACES_SAMPLER: "parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG: "0" }, "01")).toEqual([
    version,
  ]);
  expect(await shown({ OTEL_TRACES_SAMPLER: "parentbased_name", OTEL_TRACES_SAMPLER_ARG: images }, "00")).toEqual([
    images,
  ]);
}, 60_000);

test("A40: a collector that is away, or refuses for a while, costs no call and keeps no daemon from ending", async () => {
  await using collector = httpCollector();
  collector.failures = 1;
  const env = { ...SOON, OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.address}` };
  await using daemon = await Daemon.start({ maker: "ours", env });
  await tracedVersion(daemon);
  await eventually("a refused request", async () => (collector.requests.length > 0 ? true : undefined));
  // Sent again with the last ones.
  await daemon.stop();
  expect((await collector.spans()).map((span) => span.name)).toContain(
    "containerd.services.version.v1.Version/Version",
  );
  await using away = await Daemon.start({
    maker: "ours",
    env: { ...SOON, OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1" },
  });
  await tracedVersion(away);
  const began = performance.now();
  await away.stop();
  expect(performance.now() - began).toBeLessThan(5_000);
});

test("A40: what is wrong with the variables is told, and the daemon serves", async () => {
  await using daemon = await Daemon.start({
    maker: "ours",
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1", OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" },
  });
  const listed = await daemon.ctr("ours", "default", ["plugins", "ls"]);
  expect(listed.stdout).toMatch(/io\.containerd\.tracing\.processor\.v1\s+otlp\s+-\s+error/);
  expect(await daemon.log).toContain('OpenTelemetry protocol \\"http/json\\"');
});

row(
  "A40",
  "without an endpoint both plugins are skipped",
  { source: "containerd 2.3.4's list of plugins", casts: ["ours", "our-daemon"] },
  async (t) => {
    const listed = await t.must("plugins", "ls");
    expect(listed).toMatch(/io\.containerd\.tracing\.processor\.v1\s+otlp\s+-\s+skip/);
    expect(listed).toMatch(/io\.containerd\.internal\.v1\s+tracing\s+-\s+skip/);
    expect(listed).toMatch(/io\.containerd\.metrics\.v1\s+grpc-otel\s+-\s+ok/);
  },
);
