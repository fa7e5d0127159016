import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classified, errorClassOf } from "@stevedore/base";
import { Content, WriteAction } from "../../gen/containerd/services/content/v1/content_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { createClient } from "../rpc/client.ts";
import { Router } from "../rpc/router.ts";
import type { Client } from "../rpc/types.ts";
import { createGrpcTransport, type GrpcTransport } from "./client.ts";
import { HealthState, Serving } from "./health.ts";
import { createGrpcServer, type GrpcServer, type ObservedEnd } from "./server.ts";

/** The largest message whose `data` field is all its bytes but the field's head of five. */
const LARGEST = (16 << 20) - 5;
const BLOCK = new Uint8Array(1 << 20).fill(7);

let folder = "";
let server: GrpcServer;
let transport: GrpcTransport;
let content: Client<typeof Content>;
const health = new HealthState();
let waiting = 0;
const ends: ObservedEnd[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "grpc-torture-"));
  const router = new Router().service(Content, {
    async info({ digest }) {
      if (digest === "bad") {
        throw classified("not-found", "ü%\n: not found", {
          details: Array.from({ length: 4 }, () => ({
            typeUrl: "type.googleapis.com/x.Y",
            value: new Uint8Array(4096),
          })),
        });
      }
      return { info: { digest } };
    },
    // Pends like Tasks.Wait.
    delete: (_request, context) =>
      new Promise((_resolve, reject) => {
        waiting++;
        context.signal.addEventListener("abort", () => {
          waiting--;
          reject(context.signal.reason);
        });
      }),
    async *read({ size, digest }) {
      if (digest === "largest") yield { data: new Uint8Array(Number(size)) };
      else if (digest === "one buffer") {
        const buffer = new Uint8Array(300_001);
        for (let i = 0n; i < size; i++) yield { data: buffer.fill(Number(i % 256n)), offset: i };
      } else for (let at = 0n; at < size; at += BigInt(BLOCK.length)) yield { data: BLOCK, offset: at };
    },
    async *write(requests) {
      let total = 0n;
      for await (const request of requests) {
        total += BigInt(request.data.length);
        if (request.action === WriteAction.COMMIT) yield { action: request.action, offset: total };
        if (request.ref === "slow") await Bun.sleep(1);
        if (request.ref === "leave") return;
      }
      yield { action: WriteAction.STAT, offset: total };
    },
  });
  health.register(router);
  server = createGrpcServer({ router, observer: () => ({ ended: (end) => ends.push(end) }) });
  await server.serveUnix(join(folder, "s.sock"), { mode: 0o600 });
  transport = createGrpcTransport({ address: join(folder, "s.sock") });
  content = createClient(Content, transport);
});

afterAll(async () => {
  await transport.close();
  await server.stop();
  await rm(folder, { recursive: true });
});

/** Milliseconds in which nine of ten unary calls are answered: a busy machine stops any process now and then. */
async function unaryMs(count: number): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    await content.info({ digest: "d" });
    times.push(performance.now() - start);
  }
  return times.toSorted((a, b) => a - b)[Math.floor((count - 1) * 0.9)] ?? 0;
}

async function until(done: () => boolean): Promise<void> {
  const limit = Date.now() + 5000;
  while (!done()) {
    if (Date.now() > limit) throw new Error("condition not reached in 5 s");
    await Bun.sleep(1);
  }
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  );
}

describe("the gRPC carrier under load", () => {
  test("the socket has the mode asked for", async () => {
    expect((await stat(join(folder, "s.sock"))).mode & 0o777).toBe(0o600);
  });

  test("2,000 pending calls, unary calls beside them under 20 ms, all cancelled at once", async () => {
    await unaryMs(200);
    const controller = new AbortController();
    const calls = Array.from({ length: 2000 }, () =>
      failureOf(content.delete({ digest: "d" }, { signal: controller.signal })),
    );
    await until(() => waiting === 2000);
    const beside = await unaryMs(200);
    controller.abort();
    expect(beside).toBeLessThan(20);
    for (const error of await Promise.all(calls)) expect(errorClassOf(error)).toBe("canceled");
    await unaryMs(1);
    expect(waiting).toBe(0);
  });

  test("one reader beside 19 streams that nobody reads", async () => {
    const idle = Array.from({ length: 19 }, () => content.read({ size: 1n << 40n })[Symbol.asyncIterator]());
    await Promise.all(idle.map((each) => each.next()));
    let total = 0;
    for await (const { data } of content.read({ size: 100n << 20n })) total += data.length;
    expect(total).toBe(100 << 20);
    const beside = await unaryMs(50);
    await Promise.all(idle.map((each) => each.return?.()));
    expect(beside).toBeLessThan(20);
  });

  test("streams side by side get the same share", async () => {
    const done: number[] = [];
    const total = async (index: number): Promise<void> => {
      let bytes = 0;
      for await (const { data } of content.read({ size: 20n << 20n })) bytes += data.length;
      expect(bytes).toBe(20 << 20);
      done.push(index);
    };
    await Promise.all(Array.from({ length: 8 }, (_, index) => total(index)));
    expect(done.length).toBe(8);
  });

  test("the largest message goes both ways, one byte more is refused", async () => {
    for await (const { data } of content.read({ digest: "largest", size: BigInt(LARGEST) })) {
      expect(data.length).toBe(LARGEST);
    }
    const over = (async () => {
      for await (const _ of content.read({ digest: "largest", size: BigInt(LARGEST + 1) }));
    })();
    expect(await failureOf(over)).toMatchObject({
      errorClass: "resource-exhausted",
      message: "grpc: trying to send message larger than max (16777217 vs. 16777216): resource exhausted",
    });
    // The action takes two bytes of the message.
    const write = async (size: number): Promise<bigint> => {
      async function* requests() {
        yield { action: WriteAction.WRITE, data: new Uint8Array(size) };
      }
      for await (const answer of content.write(requests())) return answer.offset;
      return -1n;
    };
    expect(await write(LARGEST - 2)).toBe(BigInt(LARGEST - 2));
    expect(await failureOf(write(LARGEST - 1))).toMatchObject({
      errorClass: "resource-exhausted",
      message: "grpc: received message larger than max (16777217 vs. 16777216): resource exhausted",
    });
  });

  test("a handler may fill the same buffer for each message", async () => {
    for await (const { data, offset } of content.read({ digest: "one buffer", size: 60n })) {
      expect(data.every((byte) => byte === Number(offset))).toBe(true);
      if (offset % 7n === 0n) await Bun.sleep(1);
    }
  });

  test("a slow handler slows its sender down and nobody else", async () => {
    let sent = 0;
    async function* requests() {
      for (; sent < 200; sent++) yield { action: WriteAction.WRITE, data: BLOCK, ref: "slow" };
      yield { action: WriteAction.COMMIT };
    }
    const answers = content.write(requests())[Symbol.asyncIterator]();
    const first = answers.next();
    await Bun.sleep(20);
    expect(sent).toBeLessThan(100);
    expect(await unaryMs(20)).toBeLessThan(50);
    expect((await first).value).toMatchObject({ offset: BigInt(200 << 20) });
    await answers.return?.();
  });

  test("a handler that leaves early ends the source of its requests", async () => {
    let ended = false;
    async function* requests() {
      try {
        for (;;) yield { action: WriteAction.COMMIT, data: BLOCK, ref: "leave" };
      } finally {
        ended = true;
      }
    }
    for await (const answer of content.write(requests())) expect(answer.offset).toBe(BigInt(1 << 20));
    await unaryMs(1);
    expect(ended).toBe(true);
  });

  test("5,000 cancelled streams leave nothing behind", async () => {
    for (let round = 0; round < 50; round++) {
      await Promise.all(
        Array.from({ length: 100 }, async (_, i) => {
          const controller = new AbortController();
          const call = failureOf(content.delete({ digest: "d" }, { signal: controller.signal }));
          if (i % 2 === 0) await Promise.resolve();
          controller.abort();
          expect(errorClassOf(await call)).toBe("canceled");
        }),
      );
    }
    await unaryMs(1);
    expect(waiting).toBe(0);
  });

  test("10,000 streams one behind another, memory flat", async () => {
    const run = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        for await (const _ of content.read({ size: 1n }));
        ends.length = 0;
      }
      Bun.gc(true);
    };
    await run(1000);
    const before = process.memoryUsage().heapUsed;
    await run(2500);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(16 << 20);
  }, 60_000);

  test("errors keep their 16 KiB of details and a message outside ASCII", async () => {
    const error = await failureOf(content.info({ digest: "bad" }));
    expect(error).toMatchObject({ errorClass: "not-found", message: "ü%\n: not found" });
    expect(error).toHaveProperty("details.length", 4);
  });

  test("an observer sees each call with status, time and counts", async () => {
    ends.length = 0;
    for await (const _ of content.read({ size: 3n << 20n }));
    await failureOf(content.info({ digest: "bad" }));
    expect(ends.map(({ status, received, sent }) => [status.code, received, sent])).toEqual([
      [0, 1, 3],
      [5, 1, 0],
    ]);
  });

  test("health: check and watch", async () => {
    const client = createClient(Health, transport);
    expect((await client.check({})).status).toBe(Serving.SERVING);
    expect(errorClassOf(await failureOf(client.check({ service: "x" })))).toBe("not-found");
    const seen: Serving[] = [];
    for await (const { status } of client.watch({ service: "x" })) {
      seen.push(status);
      if (seen.length === 1) health.set("x", Serving.SERVING);
      if (seen.length === 2) health.set("x", Serving.NOT_SERVING);
      if (seen.length === 3) break;
    }
    expect(seen).toEqual([Serving.SERVICE_UNKNOWN, Serving.SERVING, Serving.NOT_SERVING]);
  });
});

describe("the gRPC client and its connection", () => {
  test("nobody listens: unavailable, in the words of a Go client", async () => {
    const lost = createGrpcTransport({ address: "unix:///nowhere/s.sock" });
    expect(await failureOf(createClient(Content, lost).info({ digest: "d" }))).toMatchObject({
      errorClass: "unavailable",
      message:
        'connection error: desc = "transport: Error while dialing: dial unix /nowhere/s.sock: connect: no such file or directory"',
    });
    await lost.close();
  });

  test("after a restart of the server the next call connects anew", async () => {
    const path = join(folder, "again.sock");
    const start = async (): Promise<GrpcServer> => {
      const made = createGrpcServer({
        router: new Router().service(Content, { info: async ({ digest }) => ({ info: { digest } }) }),
      });
      await made.serveUnix(path);
      return made;
    };
    const first = await start();
    const again = createGrpcTransport({ address: path });
    const client = createClient(Content, again);
    await client.info({ digest: "1" });
    await first.stop();
    expect(errorClassOf(await failureOf(client.info({ digest: "2" })))).toBe("unavailable");
    const second = await start();
    expect((await client.info({ digest: "3" })).info?.digest).toBe("3");
    await again.close();
    await second.stop();
  });

  test("a stop without grace ends pending calls at once", async () => {
    const path = join(folder, "stop.sock");
    const stopping = createGrpcServer({
      router: new Router().service(Content, { delete: () => new Promise(() => undefined) }),
    });
    await stopping.serveUnix(path);
    const other = createGrpcTransport({ address: path });
    const call = failureOf(createClient(Content, other).delete({ digest: "d" }));
    await until(() => stopping.connectionCount > 0);
    await Bun.sleep(5);
    const start = performance.now();
    await stopping.stop();
    expect(errorClassOf(await call)).toBe("unavailable");
    expect(performance.now() - start).toBeLessThan(500);
    await other.close();
  });

  test("a server's limit of streams makes calls wait, not fail", async () => {
    const path = join(folder, "few.sock");
    let most = 0;
    let now = 0;
    const few = createGrpcServer({
      router: new Router().service(Content, {
        async info({ digest }) {
          most = Math.max(most, ++now);
          await Bun.sleep(1);
          now--;
          return { info: { digest } };
        },
      }),
      limits: { maxConcurrentStreams: 4 },
    });
    await few.serveUnix(path);
    const other = createGrpcTransport({ address: path });
    const client = createClient(Content, other);
    await client.info({ digest: "first" });
    const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => client.info({ digest: `${i}` })));
    expect(answers.length).toBe(100);
    expect(most).toBeLessThanOrEqual(4);
    await other.close();
    await few.stop();
  });

  test("peer credentials come from the hook, and a peer may be turned away", async () => {
    const path = join(folder, "peer.sock");
    const guarded = createGrpcServer({
      router: new Router().service(Content, {
        info: async (_request, { peer }) => ({ info: { digest: `${peer.uid}` } }),
      }),
      credentials: (fd) => ({ uid: fd > 2 ? 42 : -1 }),
      authorize: ({ uid }) => uid === allowed,
    });
    let allowed = 42;
    await guarded.serveUnix(path);
    const other = createGrpcTransport({ address: path });
    const client = createClient(Content, other);
    expect((await client.info({ digest: "d" })).info?.digest).toBe("42");
    allowed = 0;
    const third = createGrpcTransport({ address: path });
    expect(errorClassOf(await failureOf(createClient(Content, third).info({ digest: "d" })))).toBe("unavailable");
    await third.close();
    await other.close();
    await guarded.stop();
  });

  test("keepalive gives up a server that is silent", async () => {
    const silent = createGrpcTransport({
      connect: async () => ({
        peer: {},
        start(handler) {
          closed = () => handler.closed();
        },
        write: (bytes) => bytes.length,
        end: () => closed(),
        destroy: () => closed(),
      }),
      keepalive: { timeMs: 20, timeoutMs: 20 },
    });
    let closed = (): void => undefined;
    const start = performance.now();
    const error = await failureOf(createClient(Content, silent).info({ digest: "d" }));
    expect(errorClassOf(error)).toBe("unavailable");
    expect(performance.now() - start).toBeLessThan(2000);
    await silent.close();
  });
});
