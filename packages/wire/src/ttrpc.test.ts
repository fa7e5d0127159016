import { describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, connectUnix, listenUnix, memoryCarriers, Server } from "@stevedore/ttrpc";
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from "@stevedore/ttrpc/request";
import { KeyValueSchema, RequestSchema, ResponseSchema } from "../gen/ttrpc/request_pb.ts";
import { transportSuite } from "./rpc/transport-suite.ts";
import { registerRouter, ttrpcTransport } from "./ttrpc.ts";

transportSuite("ttrpc in memory", { seesCancel: false, hasTrailers: false }, async (router) => {
  const [left, right] = memoryCarriers();
  const server = new Server();
  registerRouter(server, router);
  server.serve(right);
  const transport = ttrpcTransport(new Client(left));
  return {
    transport,
    close: async () => {
      await transport.close();
      server.close();
    },
  };
});

transportSuite("ttrpc over a unix socket", { seesCancel: false, hasTrailers: false }, async (router) => {
  const folder = await mkdtemp(join(tmpdir(), "stevedore-wire-"));
  const server = new Server();
  registerRouter(server, router);
  const listener = listenUnix(join(folder, "s"), { accept: (carrier) => server.serve(carrier) });
  const transport = ttrpcTransport(new Client(await connectUnix(join(folder, "s"))));
  return {
    transport,
    close: async () => {
      await transport.close();
      listener.stop();
      server.close();
      await rm(folder, { recursive: true });
    },
  };
});

describe("ttrpc payloads written by hand", () => {
  test("equal what their descriptors say, both ways", () => {
    const request = {
      service: "a.B",
      method: "C",
      payload: new Uint8Array([1, 2]),
      timeoutNano: 5_000_000_000n,
      metadata: [
        ["k", "v"],
        ["k", ""],
      ] as const,
    };
    const message = create(RequestSchema, {
      ...request,
      metadata: request.metadata.map(([key, value]) => create(KeyValueSchema, { key, value })),
    });
    expect(encodeRequest(request)).toEqual(toBinary(RequestSchema, message));
    expect(decodeRequest(toBinary(RequestSchema, message))).toEqual(request);
    const response = {
      status: { code: 5, message: "m", details: [{ typeUrl: "t", value: new Uint8Array([3]) }] },
      payload: new Uint8Array([4]),
    };
    const back = fromBinary(ResponseSchema, encodeResponse(response));
    expect(back).toMatchObject(response);
    expect(decodeResponse(toBinary(ResponseSchema, back))).toEqual(response);
  });
});
