import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { memoryChannels } from "../h2/memory-channel.ts";
import { connectNode } from "../h2/node-channel.ts";
import { transportSuite } from "../rpc/transport-suite.ts";
import { createGrpcTransport } from "./client.ts";
import { createGrpcServer } from "./server.ts";

const traits = { seesCancel: true, hasTrailers: true };

transportSuite("grpc over a unix socket", traits, async (router) => {
  const folder = await mkdtemp(join(tmpdir(), "grpc-test-"));
  const path = join(folder, "s.sock");
  const server = createGrpcServer({ router });
  await server.serveUnix(path);
  const transport = createGrpcTransport({ address: `unix://${path}` });
  return {
    transport,
    async close() {
      await transport.close();
      await server.stop();
      await rm(folder, { recursive: true });
    },
  };
});

transportSuite("grpc over TCP and node:net", traits, async (router) => {
  const server = createGrpcServer({ router });
  const { port } = await server.serveTcp({ host: "127.0.0.1", port: 0 });
  const transport = createGrpcTransport({ connect: () => connectNode({ kind: "tcp", host: "127.0.0.1", port }) });
  return {
    transport,
    async close() {
      await transport.close();
      await server.stop();
    },
  };
});

transportSuite("grpc over channels in memory", traits, async (router) => {
  const server = createGrpcServer({ router });
  const transport = createGrpcTransport({
    async connect() {
      const [client, served] = memoryChannels();
      server.serveChannel(served);
      return client;
    },
  });
  return {
    transport,
    async close() {
      await transport.close();
      await server.stop();
    },
  };
});
