import { expect, test } from "bun:test";
import { classified } from "@stevedore/base";
import { Content } from "@stevedore/wire/gen/containerd/services/content/v1/content_pb";
import { Version } from "@stevedore/wire/gen/containerd/services/version/v1/version_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createGrpcServer } from "@stevedore/wire/grpc/server";
import { createClient, Router } from "@stevedore/wire/rpc/index";
import { MetricPage } from "./family.ts";
import { GrpcMetrics } from "./grpc.ts";
import { textOf } from "./text.ts";

async function* reads(): AsyncGenerator<{ data: Uint8Array }> {
  for (let chunk = 0; chunk < 3; chunk++) yield { data: new Uint8Array(4) };
  throw classified("not-found", "no more: not found");
}

test("calls of each kind are counted under their method, messages as they go", async () => {
  const router = new Router()
    .service(Version, { version: async () => ({ version: "1", revision: "2" }) })
    .service(Content, { read: reads });
  const metrics = new GrpcMetrics({ histogram: true });
  metrics.show(router.services);
  const server = createGrpcServer({ router, observer: metrics.observe });
  const { port } = await server.serveTcp({ host: "127.0.0.1", port: 0 });
  const transport = createGrpcTransport({ address: `tcp://127.0.0.1:${port}` });
  try {
    await createClient(Version, transport).version({});
    let seen = 0;
    const reading = (async () => {
      for await (const _ of createClient(Content, transport).read({ digest: "x" })) seen++;
    })();
    expect(await reading.then(String, String)).toContain("not found");
    expect(seen).toBe(3);
    const page = new MetricPage();
    metrics.collect(page);
    const lines = textOf(page.families()).split("\n");
    const of = (method: string, service: string, type: string): string =>
      `grpc_method="${method}",grpc_service="containerd.services.${service}",grpc_type="${type}"`;
    const version = of("Version", "version.v1.Version", "unary");
    const read = of("Read", "content.v1.Content", "server_stream");
    for (const line of [
      `grpc_server_started_total{${version}} 1`,
      `grpc_server_handled_total{grpc_code="OK",${version}} 1`,
      `grpc_server_msg_received_total{${version}} 1`,
      `grpc_server_msg_sent_total{${version}} 1`,
      `grpc_server_handling_seconds_count{${version}} 1`,
      `grpc_server_handled_total{grpc_code="NotFound",${read}} 1`,
      `grpc_server_msg_received_total{${read}} 1`,
      `grpc_server_msg_sent_total{${read}} 3`,
      // Shown before the first call, with every code.
      `grpc_server_started_total{${of("Info", "content.v1.Content", "unary")}} 0`,
      `grpc_server_handled_total{grpc_code="DataLoss",${of("Write", "content.v1.Content", "bidi_stream")}} 0`,
    ]) {
      expect(lines).toContain(line);
    }
    // One sample for each set of labels, though a router has descriptors of its own.
    const samples = lines.map((line) => line.replace(/ [^ ]*$/, "")).filter((line) => line.includes("{"));
    expect(new Set(samples).size).toBe(samples.length);
  } finally {
    await transport.close();
    await server.stop();
  }
});
