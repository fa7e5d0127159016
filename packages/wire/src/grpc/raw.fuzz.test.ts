// Sessions of a client, valid and then damaged, against a server: whatever arrives, it answers with an error code or
// goes on, and it serves the next client. MINUTES bounds the time, SEED the order.
import { expect, test } from "bun:test";
import { ClassifiedError } from "@stevedore/base";
import { fuzzing } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { Content } from "../../gen/containerd/services/content/v1/content_pb.ts";
import type { ByteChannel } from "../h2/byte-channel.ts";
import { HpackEncoder } from "../h2/hpack-encoder.ts";
import { memoryChannels } from "../h2/memory-channel.ts";
import { Flag, FrameType, type HeaderField } from "../h2/protocol.ts";
import { RawPeer, uint32 } from "../h2/raw-peer.ts";
import { createClient } from "../rpc/client.ts";
import { Router } from "../rpc/router.ts";
import { createGrpcTransport } from "./client.ts";
import { messagePrefix } from "./message-reader.ts";
import { createGrpcServer } from "./server.ts";

/** Each of the two tests has half of the file's time. */
const { seed, interruptAfterTimeLimit: limitMs } = fuzzing(2);

const METHODS = ["Info", "Read", "Write", "Delete", "Nope"];
const STEP = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("call" as const), method: fc.constantFrom(...METHODS) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("data" as const),
      id: fc.integer({ min: 0, max: 5 }),
      bytes: fc.uint8Array({ maxLength: 200 }),
      framed: fc.boolean(),
      end: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("frame" as const),
      type: fc.integer({ min: 0, max: 10 }),
      flags: fc.integer({ min: 0, max: 255 }),
      id: fc.integer({ min: 0, max: 7 }),
      bytes: fc.oneof(fc.uint8Array({ maxLength: 30 }), fc.integer({ min: 0, max: 2 ** 31 - 1 }).map(uint32)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("wait" as const) }) },
);
const DAMAGE = fc.array(fc.record({ at: fc.nat(), to: fc.integer({ min: 0, max: 255 }) }), { maxLength: 4 });

test("N01 any session leaves the server serving", async () => {
  const server = createGrpcServer({
    router: new Router().service(Content, {
      info: async ({ digest }) => ({ info: { digest } }),
      async *read({ size }) {
        for (let i = 0n; i < size && i < 10n; i++) yield { data: new Uint8Array(20_000) };
      },
      async *write(requests) {
        for await (const { action } of requests) yield { action };
      },
      delete: (_request, { signal }) =>
        new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
    }),
  });
  const transport = createGrpcTransport({
    async connect() {
      const [client, served] = memoryChannels();
      server.serveChannel(served);
      return client;
    },
  });
  const content = createClient(Content, transport);
  const end = Date.now() + limitMs;
  let round = 0;
  do {
    await fc.assert(
      fc.asyncProperty(fc.array(STEP, { maxLength: 25 }), DAMAGE, async (steps, damage) => {
        const [ours, served] = memoryChannels();
        server.serveChannel(served);
        const written: Uint8Array[] = [];
        // The session is recorded first, then damaged, then sent.
        const peer = new RawPeer({
          peer: {},
          start: () => undefined,
          end: () => undefined,
          destroy: () => undefined,
          write: (bytes) => {
            written.push(bytes);
            return bytes.length;
          },
        }).hello();
        const encoder = new HpackEncoder();
        let next = 1;
        for (const step of steps) {
          if (step.kind === "call") {
            const fields: HeaderField[] = [
              [":method", "POST"],
              [":scheme", "http"],
              [":path", `/containerd.services.content.v1.Content/${step.method}`],
              ["content-type", "application/grpc"],
            ];
            peer.frame(FrameType.headers, Flag.endHeaders, next, encoder.encode(fields));
            next += 2;
          } else if (step.kind === "data") {
            const { bytes } = step;
            peer.data(
              2 * step.id + 1,
              step.framed ? Buffer.concat([messagePrefix(bytes.length), bytes]) : bytes,
              step.end,
            );
          } else if (step.kind === "frame") peer.frame(step.type, step.flags, step.id, step.bytes);
        }
        const session = Buffer.concat(written);
        for (const { at, to } of damage) session[at % session.length] = to;
        const sender = new RawPeer(ours);
        const half = Math.floor(session.length / 2);
        sender.bytes(session.subarray(0, half));
        await new Promise((resolve) => setImmediate(resolve));
        sender.bytes(session.subarray(half));
        await new Promise((resolve) => setImmediate(resolve));
        expect((await content.info({ digest: "d" })).info?.digest).toBe("d");
        ours.destroy();
      }),
      { numRuns: 200, seed: seed + round++ },
    );
  } while (Date.now() < end);
  await transport.close();
  await server.stop();
  expect(server.connectionCount).toBe(0);
});

test("N01 whatever a server sends, each call of a client ends with a class", async () => {
  const end = Date.now() + limitMs;
  let round = 0;
  do {
    await fc.assert(
      fc.asyncProperty(fc.array(STEP, { maxLength: 20 }), DAMAGE, async (steps, damage) => {
        let ours: ByteChannel | undefined;
        let peer: RawPeer | undefined;
        const transport = createGrpcTransport({
          async connect() {
            const [client, served] = memoryChannels();
            ours = client;
            peer = new RawPeer(served).settings([]);
            return client;
          },
        });
        const content = createClient(Content, transport);
        const calls = [
          content.info({ digest: "d" }),
          (async () => {
            for await (const _ of content.read({ size: 1n }));
          })(),
        ].map((each) =>
          each.then(
            () => "done",
            (error: unknown) => error,
          ),
        );
        await new Promise((resolve) => setImmediate(resolve));
        await new Promise((resolve) => setImmediate(resolve));
        const encoder = new HpackEncoder();
        const session: Uint8Array[] = [];
        const recorder = new RawPeer({
          peer: {},
          start: () => undefined,
          end: () => undefined,
          destroy: () => undefined,
          write: (bytes) => {
            session.push(bytes);
            return bytes.length;
          },
        });
        for (const step of steps) {
          if (step.kind === "call") {
            const trailers = step.method === "Nope";
            const fields: HeaderField[] = trailers
              ? [["grpc-status", "5"]]
              : [
                  [":status", "200"],
                  ["content-type", "application/grpc"],
                ];
            const flags = Flag.endHeaders | (trailers ? Flag.endStream : 0);
            recorder.frame(FrameType.headers, flags, step.method.length > 4 ? 3 : 1, encoder.encode(fields));
          } else if (step.kind === "data") {
            const { bytes } = step;
            const payload = step.framed ? Buffer.concat([messagePrefix(bytes.length), bytes]) : bytes;
            recorder.data(2 * (step.id % 2) + 1, payload, step.end);
          } else if (step.kind === "frame") recorder.frame(step.type, step.flags, step.id, step.bytes);
        }
        const bytes = Buffer.concat(session);
        if (bytes.length > 0) for (const { at, to } of damage) bytes[at % bytes.length] = to;
        peer?.bytes(bytes);
        await new Promise((resolve) => setImmediate(resolve));
        ours?.destroy();
        for (const result of await Promise.all(calls)) {
          if (result !== "done") expect(result).toBeInstanceOf(ClassifiedError);
        }
        await transport.close();
      }),
      { numRuns: 200, seed: seed + round++ },
    );
  } while (Date.now() < end);
});
