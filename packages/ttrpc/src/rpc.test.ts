import { afterEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classified, decodeText, encodeText, errorClassOf, isErrorClass } from "@stevedore/base";
import type { Carrier } from "./carrier.ts";
import { Client } from "./client.ts";
import { encodeFrame, Flag, type Frame, FrameDecoder, FrameType, MAX_PAYLOAD } from "./frame.ts";
import { memoryCarriers } from "./memory-carrier.ts";
import { decodeResponse, encodeRequest } from "./request.ts";
import { type Method, Server, type ServerCall, type ServerOptions, sameUser } from "./server.ts";
import { connectUnix, listenUnix } from "./socket.ts";
import { Code } from "./status.ts";

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const SERVICE = "test.Echo";

async function* each(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield encodeText(text);
}

async function texts(stream: AsyncIterable<Uint8Array>): Promise<string[]> {
  const all: string[] = [];
  for await (const bytes of stream) all.push(decodeText(bytes));
  return all;
}

async function until(done: () => boolean): Promise<void> {
  const limit = Date.now() + 5000;
  while (!done()) {
    if (Date.now() > limit) throw new Error("condition not reached in 5 s");
    await Bun.sleep(2);
  }
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  );
}

const seen: ServerCall[] = [];

const methods: Readonly<Record<string, Method>> = {
  Upper: { kind: "unary", call: async (payload) => encodeText(decodeText(payload).toUpperCase()) },
  Empty: { kind: "unary", call: async () => new Uint8Array(0) },
  Size: { kind: "unary", call: async (payload) => encodeText(String(payload.byteLength)) },
  Big: { kind: "unary", call: async (payload) => new Uint8Array(Number(decodeText(payload))) },
  Fail: {
    kind: "unary",
    call: async () => {
      throw classified("not-found", 'task "a": not found', { details: [{ typeUrl: "t", value: new Uint8Array([7]) }] });
    },
  },
  Crash: {
    kind: "unary",
    call: () => {
      throw new TypeError("boom");
    },
  },
  Look: {
    kind: "unary",
    call: async (_payload, call) => {
      seen.push(call);
      return new Uint8Array(0);
    },
  },
  Wait: {
    kind: "unary",
    call: (_payload, call) =>
      new Promise((_resolve, reject) => {
        seen.push(call);
        call.signal.addEventListener("abort", () => reject(call.signal.reason), { once: true });
      }),
  },
  Sleep: {
    kind: "unary",
    call: async (payload) => {
      await Bun.sleep(Number(decodeText(payload)));
      return payload;
    },
  },
  Count: {
    kind: "stream",
    clientStreams: false,
    serverStreams: true,
    async *call(requests) {
      for await (const request of requests) {
        for (let i = 0; i < Number(decodeText(request)); i++) yield encodeText(String(i));
      }
    },
  },
  Join: {
    kind: "stream",
    clientStreams: true,
    serverStreams: false,
    async *call(requests) {
      yield encodeText((await texts(requests)).join("+"));
    },
  },
  Echo: {
    kind: "stream",
    clientStreams: true,
    serverStreams: true,
    async *call(requests) {
      for await (const request of requests) yield request;
    },
  },
  FailAfterTwo: {
    kind: "stream",
    clientStreams: false,
    serverStreams: true,
    async *call() {
      yield encodeText("one");
      yield encodeText("two");
      throw classified("aborted", "gave up: aborted");
    },
  },
  Deaf: {
    kind: "stream",
    clientStreams: true,
    serverStreams: true,
    async *call(_requests, call) {
      await new Promise((resolve) => call.signal.addEventListener("abort", resolve, { once: true }));
      yield new Uint8Array(0);
    },
  },
};

interface Pair {
  readonly server: Server;
  readonly client: Client;
}

async function overMemory(options?: ServerOptions): Promise<Pair> {
  const [left, right] = memoryCarriers();
  const server = new Server(options).register(SERVICE, methods);
  server.serve(right);
  const client = new Client(left);
  cleanups.push(
    () => client.close(),
    () => server.close(),
  );
  return { server, client };
}

async function listening(options?: ServerOptions): Promise<{ server: Server; path: string }> {
  const folder = await mkdtemp(join(tmpdir(), "stevedore-ttrpc-"));
  const path = join(folder, "s.sock");
  const server = new Server(options).register(SERVICE, methods);
  const listener = listenUnix(path, { accept: (carrier) => server.serve(carrier) });
  cleanups.push(
    () => rm(folder, { recursive: true }),
    () => listener.stop(),
    () => server.close(),
  );
  return { server, path };
}

async function overSocket(options?: ServerOptions): Promise<Pair> {
  const { server, path } = await listening(options);
  const client = new Client(await connectUnix(path));
  cleanups.push(() => client.close());
  return { server, client };
}

for (const [name, connect] of [
  ["memory", overMemory],
  ["unix socket", overSocket],
] as const) {
  describe(`ttrpc over ${name}`, () => {
    test("unary calls answer, also with empty messages", async () => {
      const { client } = await connect();
      expect(decodeText(await client.call(SERVICE, "Upper", encodeText("abc")))).toBe("ABC");
      expect((await client.call(SERVICE, "Empty", new Uint8Array(0))).byteLength).toBe(0);
    });

    test("a thousand calls at a time get their own answers", async () => {
      const { client } = await connect();
      const answers = await Promise.all(
        Array.from({ length: 1000 }, (_, i) => client.call(SERVICE, "Upper", encodeText(`n${i}`))),
      );
      expect(answers.map(decodeText)).toEqual(Array.from({ length: 1000 }, (_, i) => `N${i}`));
    });

    test("answers come in the order they are ready", async () => {
      const { client } = await connect();
      const order: string[] = [];
      await Promise.all(
        ["40", "1", "20"].map(async (ms) => {
          await client.call(SERVICE, "Sleep", encodeText(ms));
          order.push(ms);
        }),
      );
      expect(order).toEqual(["1", "20", "40"]);
    });

    test("a failure keeps class, message and details", async () => {
      const { client } = await connect();
      const error = await failure(client.call(SERVICE, "Fail", new Uint8Array(0)));
      expect(isErrorClass(error, "not-found")).toBe(true);
      expect(error).toMatchObject({ message: 'task "a": not found', details: [{ typeUrl: "t" }] });
    });

    test("a method that throws before it returns a promise answers unknown, and the connection lives", async () => {
      const { client } = await connect();
      const error = await failure(client.call(SERVICE, "Crash", new Uint8Array(0)));
      expect(error).toMatchObject({ errorClass: "unknown", message: "boom: unknown" });
      expect((await client.call(SERVICE, "Empty", new Uint8Array(0))).byteLength).toBe(0);
    });

    test("unknown services and methods answer as the peer does", async () => {
      const { client } = await connect();
      expect(await failure(client.call("no.Such", "X", new Uint8Array(0)))).toMatchObject({
        errorClass: "not-implemented",
        message: "service no.Such: not implemented",
      });
      expect(await failure(client.call(SERVICE, "X", new Uint8Array(0)))).toMatchObject({
        errorClass: "not-implemented",
        message: "method X: not implemented",
      });
    });

    test("4 MiB payloads pass where they fit, longer ones are refused on either side", async () => {
      const { client } = await connect();
      const most = MAX_PAYLOAD - 100;
      expect(decodeText(await client.call(SERVICE, "Size", new Uint8Array(most)))).toBe(String(most));
      expect((await client.call(SERVICE, "Big", encodeText(String(most)))).byteLength).toBe(most);
      expect(await failure(client.call(SERVICE, "Size", new Uint8Array(MAX_PAYLOAD + 1)))).toMatchObject({
        errorClass: "resource-exhausted",
      });
      expect(await failure(client.call(SERVICE, "Big", encodeText(String(MAX_PAYLOAD + 1))))).toMatchObject({
        errorClass: "resource-exhausted",
      });
      expect((await client.call(SERVICE, "Empty", new Uint8Array(0))).byteLength).toBe(0);
    });

    test("metadata and deadline reach the method", async () => {
      const { client } = await connect();
      seen.length = 0;
      const before = Date.now();
      await client.call(SERVICE, "Look", new Uint8Array(0), {
        metadata: [
          ["containerd-namespace-ttrpc", "moby"],
          ["k", "1"],
          ["k", "2"],
        ],
        timeoutMs: 60_000,
      });
      const [call] = seen;
      expect(call?.metadata).toEqual([
        ["containerd-namespace-ttrpc", "moby"],
        ["k", "1"],
        ["k", "2"],
      ]);
      const left = (call?.deadline?.getTime() ?? 0) - before;
      expect(left).toBeGreaterThan(59_000);
      expect(left).toBeLessThan(61_000);
    });

    test("a deadline ends the call on both sides", async () => {
      const { client } = await connect();
      seen.length = 0;
      const error = await failure(client.call(SERVICE, "Wait", new Uint8Array(0), { timeoutMs: 30 }));
      expect(error).toMatchObject({ errorClass: "deadline-exceeded" });
      await until(() => seen[0]?.signal.aborted === true);
      expect(errorClassOf(seen[0]?.signal.reason)).toBe("deadline-exceeded");
    });

    test("a signal ends the wait", async () => {
      const { client } = await connect();
      const controller = new AbortController();
      const waiting = failure(client.call(SERVICE, "Wait", new Uint8Array(0), { signal: controller.signal }));
      await Bun.sleep(5);
      controller.abort();
      expect(await waiting).toMatchObject({ errorClass: "canceled", message: "context canceled" });
      expect(
        await failure(client.call(SERVICE, "Empty", new Uint8Array(0), { signal: controller.signal })),
      ).toMatchObject({ errorClass: "canceled" });
    });

    test("streams in all three shapes", async () => {
      const { client } = await connect();
      const counted = client.stream(
        { service: SERVICE, method: "Count", shape: { clientStreams: false, serverStreams: true } },
        each("200"),
      );
      expect((await texts(counted)).length).toBe(200);
      const joined = client.stream(
        { service: SERVICE, method: "Join", shape: { clientStreams: true, serverStreams: false } },
        each("a", "", "c"),
      );
      expect(await texts(joined)).toEqual(["a++c"]);
      const echoed = client.stream(
        { service: SERVICE, method: "Echo", shape: { clientStreams: true, serverStreams: true } },
        each("x", "", "z"),
      );
      expect(await texts(echoed)).toEqual(["x", "", "z"]);
    });

    test("a bidi stream answers while it is still being fed", async () => {
      const { client } = await connect();
      const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      async function* slow(): AsyncGenerator<Uint8Array> {
        yield encodeText("a");
        await gates[0]?.promise;
        yield encodeText("b");
        await gates[1]?.promise;
      }
      const shape = { clientStreams: true, serverStreams: true };
      const stream = client.stream({ service: SERVICE, method: "Echo", shape }, slow());
      const got: string[] = [];
      for await (const bytes of stream) {
        got.push(decodeText(bytes));
        gates[got.length - 1]?.resolve();
      }
      expect(got).toEqual(["a", "b"]);
    });

    test("a stream that fails gives what came before, then the error", async () => {
      const { client } = await connect();
      const shape = { clientStreams: false, serverStreams: true };
      const got: string[] = [];
      const error = await failure(
        (async () => {
          for await (const bytes of client.stream({ service: SERVICE, method: "FailAfterTwo", shape }, each("go"))) {
            got.push(decodeText(bytes));
          }
        })(),
      );
      expect(got).toEqual(["one", "two"]);
      expect(error).toMatchObject({ errorClass: "aborted", message: "gave up: aborted" });
    });

    test("20,000 messages pass through a reader slower than the sender", async () => {
      const { client } = await connect();
      const shape = { clientStreams: false, serverStreams: true };
      let count = 0;
      for await (const _ of client.stream({ service: SERVICE, method: "Count", shape }, each("20000"))) {
        if (++count % 1000 === 0) await Bun.sleep(1);
      }
      expect(count).toBe(20_000);
    });

    test("leaving a stream early leaves the connection usable", async () => {
      const { client } = await connect();
      const shape = { clientStreams: false, serverStreams: true };
      for await (const _ of client.stream({ service: SERVICE, method: "Count", shape }, each("1000"))) break;
      expect(decodeText(await client.call(SERVICE, "Upper", encodeText("still")))).toBe("STILL");
    });

    test("pending calls end with unavailable when the server closes", async () => {
      const { client, server } = await connect();
      seen.length = 0;
      const waiting = failure(client.call(SERVICE, "Wait", new Uint8Array(0)));
      await until(() => seen.length === 1);
      server.close();
      expect(await waiting).toMatchObject({ errorClass: "unavailable", message: "ttrpc: closed" });
      await client.closed;
      expect(await failure(client.call(SERVICE, "Empty", new Uint8Array(0)))).toMatchObject({
        errorClass: "unavailable",
        message: "ttrpc: closed",
      });
    });

    test("calls are aborted when the client goes", async () => {
      const { client, server } = await connect();
      seen.length = 0;
      const waiting = failure(client.call(SERVICE, "Wait", new Uint8Array(0)));
      await until(() => seen.length === 1);
      client.close();
      expect(await waiting).toMatchObject({ errorClass: "unavailable" });
      await until(() => seen[0]?.signal.aborted === true && server.connections === 0);
      expect(errorClassOf(seen[0]?.signal.reason)).toBe("canceled");
    });

    test("shutdown() waits for running calls and sends their answers", async () => {
      const { client, server } = await connect();
      const slow = client.call(SERVICE, "Sleep", encodeText("60"));
      await Bun.sleep(15);
      const started = Date.now();
      await server.shutdown();
      expect(Date.now() - started).toBeGreaterThan(20);
      expect(decodeText(await slow)).toBe("60");
      expect(server.connections).toBe(0);
    });

    test("shutdown() gives up on its signal", async () => {
      const { client, server } = await connect();
      seen.length = 0;
      const waiting = failure(client.call(SERVICE, "Wait", new Uint8Array(0)));
      await until(() => seen.length === 1);
      await server.shutdown(AbortSignal.timeout(20));
      expect(await waiting).toMatchObject({ errorClass: "unavailable" });
    });

    test("calls over the limit of a connection are refused, and it lives", async () => {
      const { client } = await connect({ maxCalls: 2 });
      seen.length = 0;
      const held = [1, 2].map(() => failure(client.call(SERVICE, "Wait", new Uint8Array(0))));
      await until(() => seen.length === 2);
      expect(await failure(client.call(SERVICE, "Empty", new Uint8Array(0)))).toMatchObject({
        errorClass: "resource-exhausted",
      });
      client.close();
      await Promise.all(held);
    });
  });
}

/** A raw connection that speaks frames, for what a client of ours would never send. */
async function raw(path: string): Promise<{ carrier: Carrier; frames: Frame[]; isClosed: () => boolean }> {
  const carrier = await connectUnix(path);
  const frames: Frame[] = [];
  let closed = false;
  const decoder = new FrameDecoder({ frame: (f) => frames.push(f), oversized: () => undefined });
  carrier.start({
    data: (bytes) => decoder.push(bytes),
    closed: () => {
      closed = true;
    },
  });
  cleanups.push(() => carrier.destroy());
  return { carrier, frames, isClosed: () => closed };
}

function request(streamId: number, method: string, flags = 0): Uint8Array {
  const payload = encodeRequest({
    service: SERVICE,
    method,
    payload: new Uint8Array(0),
    timeoutNano: 0n,
    metadata: [],
  });
  return encodeFrame({ streamId, type: FrameType.request, flags, payload });
}

describe("ttrpc server, mistreated", () => {
  const refusals: readonly [name: string, send: readonly Uint8Array[], streamId: number, code: number, text: string][] =
    [
      [
        "an even stream id",
        [request(2, "Empty")],
        2,
        Code.invalidArgument,
        "StreamID must be odd for client initiated streams",
      ],
      [
        "a stream id used twice",
        [request(5, "Empty"), request(5, "Empty")],
        5,
        Code.invalidArgument,
        "StreamID cannot be re-used and must increment",
      ],
      [
        "data for no stream",
        [encodeFrame({ streamId: 9, type: FrameType.data, flags: 0, payload: new Uint8Array([1]) })],
        9,
        Code.invalidArgument,
        "StreamID is no longer active",
      ],
      [
        "a request that is no protobuf",
        [encodeFrame({ streamId: 1, type: FrameType.request, flags: 0, payload: new Uint8Array([0xff, 0xff]) })],
        1,
        Code.invalidArgument,
        "unmarshal request error: ",
      ],
      [
        "an oversized frame",
        [new Uint8Array([0, 0x50, 0, 0, 0, 0, 0, 3, 1, 0]), new Uint8Array(0x500000)],
        3,
        Code.resourceExhausted,
        "message length 5242880 exceed maximum message size of 4194304",
      ],
    ];
  for (const [name, send, streamId, code, text] of refusals) {
    test(`${name} is refused, and the connection lives`, async () => {
      const { path } = await listening();
      const { carrier, frames } = await raw(path);
      for (const bytes of send) await carrier.write(bytes);
      await until(() => frames.some((f) => decodeResponse(f.payload).status?.code === code));
      const refusal = frames.find((f) => decodeResponse(f.payload).status?.code === code);
      expect(refusal?.streamId).toBe(streamId);
      expect(decodeResponse(refusal?.payload ?? new Uint8Array(0)).status?.message).toStartWith(text);
      await carrier.write(request(101, "Empty"));
      await until(() => frames.some((f) => f.streamId === 101 && f.type === FrameType.response));
    });
  }

  test("frames of unknown type are passed over", async () => {
    const { path } = await listening();
    const { carrier, frames } = await raw(path);
    void carrier.write(encodeFrame({ streamId: 1, type: 77, flags: 0xff, payload: new Uint8Array(1000) }));
    void carrier.write(request(1, "Empty"));
    await until(() => frames.length === 1);
    expect(frames[0]).toMatchObject({ streamId: 1, type: FrameType.response });
  });

  test("a stream nobody reads is given up after a second; calls beside it go on", async () => {
    const { path } = await listening();
    const { carrier, frames } = await raw(path);
    void carrier.write(request(1, "Deaf", Flag.remoteOpen));
    const data = encodeFrame({ streamId: 1, type: FrameType.data, flags: 0, payload: new Uint8Array(100) });
    for (let i = 0; i < 64; i++) void carrier.write(data);
    await Bun.sleep(20);
    const started = Date.now();
    void carrier.write(request(3, "Empty"));
    await until(() => frames.some((f) => f.streamId === 3));
    expect(Date.now() - started).toBeGreaterThan(500);
    expect(Date.now() - started).toBeLessThan(2500);
  });

  test("random bytes never bring the server down", async () => {
    const { path, server } = await listening();
    for (let round = 0; round < 20; round++) {
      const { carrier } = await raw(path);
      const noise = crypto.getRandomValues(new Uint8Array(4096));
      noise[0] = 0; // else nearly every length is oversized and waits for gigabytes
      noise[1] = 0;
      await carrier.write(noise);
      carrier.end();
    }
    const client = new Client(await connectUnix(path));
    expect((await client.call(SERVICE, "Empty", new Uint8Array(0))).byteLength).toBe(0);
    client.close();
    await until(() => server.connections === 0);
  });

  test("a client that does not read its answers does not slow others", async () => {
    const { path } = await listening();
    const lazy = await connectUnix(path);
    cleanups.push(() => lazy.destroy());
    lazy.pause();
    const big = encodeRequest({
      service: SERVICE,
      method: "Big",
      payload: encodeText("1000000"),
      timeoutNano: 0n,
      metadata: [],
    });
    for (let id = 1; id < 100; id += 2) {
      void lazy.write(encodeFrame({ streamId: id, type: FrameType.request, flags: 0, payload: big }));
    }
    const client = new Client(await connectUnix(path));
    cleanups.push(() => client.close());
    const started = Date.now();
    await client.call(SERVICE, "Empty", new Uint8Array(0));
    expect(Date.now() - started).toBeLessThan(1000);
  });

  test("connections that authorize() refuses are closed", async () => {
    const { path } = await listening({ authorize: sameUser({ uid: 1, gid: 1 }) });
    const client = new Client(await connectUnix(path));
    await client.closed;
    expect(client.isClosed).toBe(true);
  });

  test("a socket nobody listens on is unavailable, with Go's words", async () => {
    expect(await failure(connectUnix("/nonexistent/s.sock"))).toMatchObject({
      errorClass: "unavailable",
      message: "dial unix /nonexistent/s.sock: connect: no such file or directory: unavailable",
    });
  });
});
