import { afterEach, describe, expect, test } from "bun:test";
import { toBinary } from "@bufbuild/protobuf";
import { classified } from "@stevedore/base";
import * as fc from "fast-check";
import { Content, InfoRequestSchema, WriteAction } from "../../gen/containerd/services/content/v1/content_pb.ts";
import type { ChannelHandler } from "../h2/byte-channel.ts";
import { readUint32 } from "../h2/frame-reader.ts";
import { memoryChannels } from "../h2/memory-channel.ts";
import { ErrorCode, Flag, FrameType, type HeaderField, PREFACE, Setting } from "../h2/protocol.ts";
import { type RawFrame, RawPeer, uint32 } from "../h2/raw-peer.ts";
import { Router } from "../rpc/router.ts";
import { messagePrefix } from "./message-reader.ts";
import { createGrpcServer, type GrpcServer } from "./server.ts";

let server: GrpcServer | undefined;
let aborted = 0;

afterEach(async () => {
  await server?.stop();
  server = undefined;
});

function router(): Router {
  return new Router().service(Content, {
    async info({ digest }) {
      if (digest === "details") {
        throw classified("not-found", "x".repeat(16 << 10), {
          details: [{ typeUrl: "t", value: new Uint8Array(16 << 10) }],
        });
      }
      return { info: { digest, size: 1n } };
    },
    async *read({ size }) {
      for (let i = 0n; i < size; i++) yield { data: new Uint8Array(1000), offset: i };
    },
    async *write(requests) {
      let total = 0n;
      for await (const request of requests) {
        total += BigInt(request.data.length);
        if (request.action !== WriteAction.STAT) yield { action: request.action, offset: total };
      }
    },
    delete: (_request, context) =>
      new Promise((_resolve, reject) => {
        context.signal.addEventListener("abort", () => {
          aborted++;
          reject(context.signal.reason);
        });
      }),
  });
}

/** A raw client of a fresh server, behind its hello. */
function client(settings: readonly (readonly [number, number])[] = []): RawPeer {
  server ??= createGrpcServer({ router: router() });
  const [ours, served] = memoryChannels();
  server.serveChannel(served);
  return new RawPeer(ours).hello(settings);
}

function call(method: string, more: readonly HeaderField[] = []): HeaderField[] {
  return [
    [":method", "POST"],
    [":scheme", "http"],
    [":path", `/containerd.services.content.v1.Content/${method}`],
    [":authority", "localhost"],
    ["content-type", "application/grpc"],
    ["te", "trailers"],
    ...more,
  ];
}

function message(payload: Uint8Array): Uint8Array {
  return Buffer.concat([messagePrefix(payload.length), payload]);
}

const INFO = message(
  toBinary(InfoRequestSchema, { $typeName: "containerd.services.content.v1.InfoRequest", digest: "d" }),
);

const isEnd = (id: number) => (frame: RawFrame) =>
  frame.streamId === id && frame.type === FrameType.headers && (frame.flags & Flag.endStream) !== 0;

/** The trailers of a stream as an object; decodes all header blocks up to there. */
async function trailers(peer: RawPeer, id: number): Promise<Record<string, string>> {
  for (;;) {
    const frame = await peer.take((each) => each.type === FrameType.headers);
    let block = frame.payload;
    if ((frame.flags & Flag.endHeaders) === 0) {
      for (;;) {
        const more = await peer.take((each) => each.type === FrameType.continuation);
        block = Buffer.concat([block, more.payload]);
        if ((more.flags & Flag.endHeaders) !== 0) break;
      }
    }
    const fields = Object.fromEntries(peer.decoder.decode(block).fields);
    if (isEnd(id)(frame)) return fields;
  }
}

/** The code of the GOAWAY that ends the connection. */
async function goaway(peer: RawPeer): Promise<number> {
  const frame = await peer.take((each) => each.type === FrameType.goaway);
  await peer.end();
  return readUint32(frame.payload, 4);
}

describe("a gRPC server and a peer of raw frames", () => {
  test("a call over headers, empty and padded DATA frames, and CONTINUATION", async () => {
    const peer = client();
    const block = peer.encoder.encode(call("Info"));
    peer.frame(FrameType.headers, 0, 1, block.subarray(0, 3));
    peer.frame(FrameType.continuation, 0, 1, block.subarray(3, 20));
    peer.frame(FrameType.continuation, Flag.endHeaders, 1, block.subarray(20));
    for (let i = 0; i < 50; i++) peer.data(1, new Uint8Array(0));
    for (const byte of INFO) peer.frame(FrameType.data, Flag.padded, 1, Uint8Array.of(3, byte, 0, 0, 0));
    peer.frame(FrameType.data, Flag.padded | Flag.endStream, 1, Uint8Array.of(2, 0, 0));
    expect(await trailers(peer, 1)).toEqual({ "grpc-status": "0" });
  });

  test("a request with trailers of its own", async () => {
    const peer = client()
      .headers(1, call("Info"))
      .data(1, INFO)
      .headers(1, [["x-tail", "1"]], true);
    expect(await trailers(peer, 1)).toMatchObject({ "grpc-status": "0" });
  });

  test("the words of grpc-go for what cannot be served", async () => {
    const peer = client();
    peer.headers(1, call("Nope"), true);
    expect(await trailers(peer, 1)).toMatchObject({
      "grpc-status": "12",
      "grpc-message": "unknown method Nope for service containerd.services.content.v1.Content",
    });
    peer.headers(
      3,
      [...call("x")].map(([n, v]): HeaderField => (n === ":path" ? [n, "/a.B/C"] : [n, v])),
      true,
    );
    expect(await trailers(peer, 3)).toMatchObject({ "grpc-status": "12", "grpc-message": "unknown service a.B" });
    peer.headers(5, call("Info", [["grpc-encoding", "gzip"]])).data(5, INFO, true);
    expect(await trailers(peer, 5)).toMatchObject({
      "grpc-status": "12",
      "grpc-message": 'grpc: Decompressor is not installed for grpc-encoding "gzip"',
      "grpc-accept-encoding": "identity",
    });
    peer.headers(
      7,
      call("Info").map(([n, v]): HeaderField => (n === "content-type" ? [n, "text/html"] : [n, v])),
      true,
    );
    expect(await trailers(peer, 7)).toMatchObject({
      ":status": "415",
      "grpc-message": 'invalid gRPC request content-type "text/html"',
    });
    peer.headers(
      9,
      call("Info").map(([n, v]): HeaderField => (n === ":method" ? [n, "GET"] : [n, v])),
      true,
    );
    expect(await trailers(peer, 9)).toMatchObject({ ":status": "405" });
    peer.headers(11, call("Info", [["grpc-timeout", "1x"]]), true);
    expect(await trailers(peer, 11)).toMatchObject({ ":status": "400", "grpc-status": "13" });
    peer.headers(13, call("Info")).data(13, Uint8Array.of(0, 1, 0, 0, 1));
    expect(await trailers(peer, 13)).toMatchObject({
      "grpc-status": "8",
      "grpc-message": "grpc: received message larger than max (16777217 vs. 16777216)",
    });
    peer.headers(15, call("Info")).data(15, INFO.subarray(0, 6), true);
    expect(await trailers(peer, 15)).toMatchObject({ "grpc-status": "13", "grpc-message": "unexpected EOF" });
    peer.headers(17, call("Info"), true);
    expect(await trailers(peer, 17)).toMatchObject({ "grpc-status": "13" });
    peer.headers(19, call("Info")).data(19, INFO, true);
    expect(await trailers(peer, 19)).toEqual({ "grpc-status": "0" });
  });

  test("details of 16 KiB arrive, and are left out for a peer that takes 8 KiB of headers", async () => {
    const details = message(
      toBinary(InfoRequestSchema, { $typeName: "containerd.services.content.v1.InfoRequest", digest: "details" }),
    );
    const wide = client().headers(1, call("Info")).data(1, details, true);
    const all = await trailers(wide, 1);
    expect(all["grpc-message"]?.length).toBe(16 << 10);
    expect(all["grpc-status-details-bin"]?.length).toBeGreaterThan(40_000);
    const narrow = client([[Setting.maxHeaderListSize, 8192]])
      .headers(1, call("Info"))
      .data(1, details, true);
    const some = await trailers(narrow, 1);
    expect(some["grpc-status"]).toBe("5");
    expect(some["grpc-message"]?.length).toBeGreaterThan(7000);
    expect(some["grpc-status-details-bin"]).toBeUndefined();
  });

  test("windows are kept to the byte, also when settings change them in mid-stream", async () => {
    const peer = client([[Setting.initialWindowSize, 10]]);
    peer.headers(1, call("Read")).data(1, message(Uint8Array.of(0x18, 3)), true);
    const size = async () => (await peer.take((frame) => frame.type === FrameType.data)).payload.length;
    expect(await size()).toBe(10);
    peer.windowUpdate(1, 5);
    expect(await size()).toBe(5);
    peer.settings([[Setting.initialWindowSize, 4]]).windowUpdate(1, 6);
    await Bun.sleep(20);
    expect(peer.frames.filter((frame) => frame.type === FrameType.data)).toEqual([]);
    peer.windowUpdate(1, 1);
    expect(await size()).toBe(1);
    peer.settings([[Setting.initialWindowSize, 1 << 20]]);
    expect(await trailers(peer, 1)).toMatchObject({ "grpc-status": "0" });
  });

  test("a stream without window holds up none of its neighbours", async () => {
    const peer = client([[Setting.initialWindowSize, 0]]);
    for (let id = 1; id < 40; id += 2) {
      peer.headers(id, call("Read")).data(id, message(Uint8Array.of(0x18, 100)), true);
    }
    peer
      .headers(41, call("Read"))
      .windowUpdate(41, 1 << 20)
      .data(41, message(Uint8Array.of(0x18, 60)), true);
    expect(await trailers(peer, 41)).toMatchObject({ "grpc-status": "0" });
  });

  test("ping and settings are answered; unknown frames are passed over", async () => {
    const peer = client().frame(77, 0, 0, new Uint8Array(3));
    peer.frame(FrameType.ping, 0, 0, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const pong = await peer.take((frame) => frame.type === FrameType.ping);
    expect([pong.flags, ...pong.payload]).toEqual([Flag.ack, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test("RST_STREAM aborts the handler's signal", async () => {
    const peer = client()
      .headers(1, call("Delete"))
      .data(1, message(new Uint8Array(0)), true);
    await Bun.sleep(20);
    const before = aborted;
    peer.reset(1, ErrorCode.cancel);
    peer.headers(3, call("Info")).data(3, INFO, true);
    await trailers(peer, 3);
    expect(aborted).toBe(before + 1);
  });

  for (const [what, code, break_] of [
    [
      "no preface",
      ErrorCode.protocolError,
      (p: RawPeer) => p.bytes(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n")),
    ],
    ["DATA on stream 0", ErrorCode.protocolError, (p: RawPeer) => p.hello().data(0, new Uint8Array(1))],
    ["DATA on an idle stream", ErrorCode.protocolError, (p: RawPeer) => p.hello().data(5, new Uint8Array(1))],
    ["HEADERS of an even stream", ErrorCode.protocolError, (p: RawPeer) => p.hello().headers(2, call("Info"))],
    [
      "a first frame that is not SETTINGS",
      ErrorCode.protocolError,
      (p: RawPeer) =>
        p.bytes(new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).frame(6, 0, 0, new Uint8Array(8)),
    ],
    [
      "a PING of 7 bytes",
      ErrorCode.frameSizeError,
      (p: RawPeer) => p.hello().frame(FrameType.ping, 0, 0, new Uint8Array(7)),
    ],
    ["a frame over 16 KiB", ErrorCode.frameSizeError, (p: RawPeer) => p.hello().data(1, new Uint8Array(16_385))],
    [
      "a broken header block",
      ErrorCode.compressionError,
      (p: RawPeer) => p.hello().frame(FrameType.headers, Flag.endHeaders, 1, Uint8Array.of(0x80)),
    ],
    [
      "PUSH_PROMISE",
      ErrorCode.protocolError,
      (p: RawPeer) => p.hello().frame(FrameType.pushPromise, 0, 1, new Uint8Array(4)),
    ],
    ["a window over 2^31-1", ErrorCode.flowControlError, (p: RawPeer) => p.hello().windowUpdate(0, 2 ** 31 - 1)],
    [
      "an interrupted header block",
      ErrorCode.protocolError,
      (p: RawPeer) =>
        p.hello().frame(FrameType.headers, 0, 1, Uint8Array.of(0x82)).frame(FrameType.ping, 0, 0, new Uint8Array(8)),
    ],
    [
      "padding longer than its frame",
      ErrorCode.protocolError,
      (p: RawPeer) => p.hello().headers(1, call("Info")).frame(FrameType.data, Flag.padded, 1, Uint8Array.of(9, 1)),
    ],
    [
      "a flood of CONTINUATION",
      ErrorCode.enhanceYourCalm,
      (p: RawPeer) => {
        p.hello().frame(FrameType.headers, 0, 1, Uint8Array.of(0x82));
        for (let i = 0; i < 40; i++) p.frame(FrameType.continuation, 0, 1);
      },
    ],
    [
      "a flood of resets",
      ErrorCode.enhanceYourCalm,
      (p: RawPeer) => {
        p.hello();
        for (let i = 0; i < 30_000; i++) p.headers(2 * i + 1, call("Delete")).reset(2 * i + 1, ErrorCode.cancel);
      },
    ],
    [
      "a flood of empty DATA",
      ErrorCode.enhanceYourCalm,
      (p: RawPeer) => {
        p.hello().headers(1, call("Info"));
        for (let i = 0; i < 30_000; i++) p.data(1, new Uint8Array(0));
      },
    ],
  ] as const) {
    test(`${what} ends the connection with its code`, async () => {
      server = createGrpcServer({ router: router() });
      const [ours, served] = memoryChannels();
      server.serveChannel(served);
      const peer = new RawPeer(ours);
      break_(peer);
      expect(await goaway(peer)).toBe(code);
      const next = client().headers(1, call("Info")).data(1, INFO, true);
      expect(await trailers(next, 1)).toEqual({ "grpc-status": "0" });
    });
  }

  test("a peer that asks for answers and reads none is cut off", async () => {
    server = createGrpcServer({ router: router() });
    let handler: ChannelHandler | undefined;
    const channel = { ended: false };
    server.serveChannel({
      peer: {},
      start: (given) => {
        handler = given;
      },
      write: () => 0,
      end: () => {
        channel.ended = true;
      },
      destroy: () => {
        channel.ended = true;
      },
    });
    handler?.data(PREFACE);
    handler?.data(new Uint8Array([0, 0, 0, FrameType.settings, 0, 0, 0, 0, 0]));
    const ping = new Uint8Array(17);
    ping[2] = 8;
    ping[3] = FrameType.ping;
    for (let i = 0; i < 2000 && !channel.ended; i++) {
      handler?.data(ping);
      await Promise.resolve();
    }
    expect(channel.ended).toBe(true);
    handler?.closed();
  });

  test("any bytes behind the preface: an error code or silence, and the server lives", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.oneof(
            fc.record({
              type: fc.integer({ min: 0, max: 10 }),
              flags: fc.integer({ min: 0, max: 255 }),
              streamId: fc.constantFrom(0, 1, 1, 3, 5, 2, 2 ** 31 - 1),
              payload: fc.oneof(
                fc.uint8Array({ maxLength: 40 }),
                fc.constant(uint32(100)),
                fc.constant(new Uint8Array(8)),
                fc.constant(INFO),
              ),
            }),
            fc.constantFrom("info", "read", "write"),
          ),
          { maxLength: 30 },
        ),
        async (steps) => {
          const peer = client();
          let id = 1;
          for (const step of steps) {
            if (typeof step !== "string") peer.frame(step.type, step.flags, step.streamId, step.payload);
            else {
              peer.headers(id, call(step === "info" ? "Info" : step === "read" ? "Read" : "Write"));
              id += 2;
            }
          }
          await Bun.sleep(0);
          const next = client().headers(1, call("Info")).data(1, INFO, true);
          expect(await trailers(next, 1)).toEqual({ "grpc-status": "0" });
        },
      ),
      { numRuns: 150 },
    );
  });

  test("a stop with grace lets calls end, refuses new ones and then closes", async () => {
    const peer = client()
      .headers(1, call("Write"))
      .data(1, message(Uint8Array.of(8, 1)));
    await peer.take((frame) => frame.type === FrameType.data);
    const stopped = server?.stop({ graceMs: 2000 });
    const first = await peer.take((frame) => frame.type === FrameType.goaway);
    expect(readUint32(first.payload, 0)).toBe(2 ** 31 - 1);
    const ping = await peer.take((frame) => frame.type === FrameType.ping);
    peer.frame(FrameType.ping, Flag.ack, 0, ping.payload);
    const last = await peer.take((frame) => frame.type === FrameType.goaway);
    expect(readUint32(last.payload, 0)).toBe(1);
    peer.data(1, message(Uint8Array.of(8, 1)), true);
    await peer.take(isEnd(1));
    await peer.end();
    await stopped;
  });
});
