import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Content } from "../../gen/containerd/services/content/v1/content_pb.ts";
import { connectNode } from "../h2/node-channel.ts";
import { createClient } from "../rpc/client.ts";
import { Router } from "../rpc/router.ts";
import { type ChannelOptions, createGrpcTransport } from "./client.ts";
import { createGrpcServer, type GrpcServer } from "./server.ts";

const openssl = Bun.which("openssl");

describe.skipIf(openssl === null)("gRPC over TCP and TLS", () => {
  let folder = "";
  let cert = "";
  let key = "";
  let server: GrpcServer;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "grpc-tls-"));
    const made = Bun.spawnSync(
      `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem
       -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1`.split(/\s+/),
      { cwd: folder },
    );
    expect(made.exitCode).toBe(0);
    cert = await readFile(join(folder, "cert.pem"), "utf8");
    key = await readFile(join(folder, "key.pem"), "utf8");
    const router = new Router().service(Content, {
      info: async ({ digest }) => ({ info: { digest } }),
      async *read({ size }) {
        for (let i = 0n; i < size; i++) yield { data: new Uint8Array(1 << 20) };
      },
    });
    server = createGrpcServer({ router });
  });

  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true });
  });

  async function digestOver(options: ChannelOptions): Promise<string | undefined> {
    const transport = createGrpcTransport(options);
    try {
      const client = createClient(Content, transport);
      let total = 0;
      for await (const { data } of client.read({ size: 20n })) total += data.length;
      expect(total).toBe(20 << 20);
      return (await client.info({ digest: "d" }, { timeoutMs: 5000 })).info?.digest;
    } catch (error) {
      return String(error);
    } finally {
      await transport.close();
    }
  }

  test("a client that trusts the server's certificate is served, others are not", async () => {
    const { port } = await server.serveTcp({ host: "127.0.0.1", port: 0, tls: { cert, key } });
    const address = `127.0.0.1:${port}`;
    expect(await digestOver({ address, tls: { ca: cert } })).toBe("d");
    expect(await digestOver({ address, tls: {} })).toContain("authentication handshake failed");
    expect(await digestOver({ address })).toContain("EOF");
    const target = { kind: "tcp", host: "127.0.0.1", port } as const;
    expect(await digestOver({ connect: () => connectNode({ ...target, tls: { ca: cert } }) })).toBe("d");
    expect(await digestOver({ connect: () => connectNode({ ...target, tls: {} }) })).toContain("Error while dialing");
  });

  test("a server that wants client certificates turns away who has none", async () => {
    const tls = { cert, key, ca: cert, requestCert: true, rejectUnauthorized: true };
    const { port } = await server.serveTcp({ host: "127.0.0.1", port: 0, tls });
    const address = `127.0.0.1:${port}`;
    expect(await digestOver({ address, tls: { ca: cert, cert, key } })).toBe("d");
    expect(await digestOver({ address, tls: { ca: cert } })).toContain("Error");
  });
});
