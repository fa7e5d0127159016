// Connections of a client, valid and then damaged, against a server, and the other way round.
import { expect, test } from "bun:test";
import { ClassifiedError } from "@stevedore/base";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { Client } from "./client.ts";
import { encodeFrame, Flag, FrameType } from "./frame.ts";
import { memoryCarriers } from "./memory-carrier.ts";
import { encodeRequest, encodeResponse } from "./request.ts";
import { Server } from "./server.ts";
import { OK } from "./status.ts";

const FLAGS = fc.constantFrom(
  0,
  Flag.remoteClosed,
  Flag.remoteOpen,
  Flag.noData,
  Flag.remoteClosed | Flag.noData,
  0xff,
);
const STEP = fc.record({
  type: fc.oneof({ weight: 8, arbitrary: fc.constantFrom(1, 2, 3) }, fc.nat(255)),
  stream: fc.integer({ min: 0, max: 9 }),
  flags: FLAGS,
  method: fc.constantFrom("Echo", "Each", "Wait", "Nope"),
  payload: fc.uint8Array({ maxLength: 40 }),
  /** A payload that is what its type wants, or just bytes. */
  proper: fc.boolean(),
});
const STEPS = fc.array(STEP, { maxLength: 20 });
const DAMAGE = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 });

type Step = Parameters<Parameters<typeof STEPS.map>[0]>[0][number];

function frames(steps: readonly Step[], damage: readonly (readonly [number, number])[]): Uint8Array {
  const bytes = Buffer.concat(
    steps.map(({ type, stream, flags, method, payload, proper }) => {
      let body: Uint8Array = payload;
      if (proper && type === FrameType.request) {
        body = encodeRequest({ service: "a.Fuzz", method, payload, timeoutNano: 0n, metadata: [["k", "v"]] });
      } else if (proper && type === FrameType.response) body = encodeResponse({ status: OK, payload });
      return encodeFrame({ streamId: stream, type, flags, payload: body });
    }),
  );
  for (const [at, value] of damage) if (bytes.length > 0) bytes[at % bytes.length] = value;
  return bytes;
}

const SERVICE = "a.Fuzz";

function server(): Server {
  return new Server().register(SERVICE, {
    Echo: { kind: "unary", call: async (payload) => payload },
    Wait: {
      kind: "unary",
      call: (_payload, { signal }) =>
        new Promise((_resolve, reject) =>
          signal.addEventListener("abort", () => reject(signal.reason), { once: true }),
        ),
    },
    Each: {
      kind: "stream",
      clientStreams: true,
      serverStreams: true,
      async *call(requests) {
        for await (const request of requests) yield request;
      },
    },
  });
}

/** Lets what is under way arrive. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

test(
  "N01 whatever arrives, a server serves its next connection and keeps no call",
  async () => {
    const served = server();
    await fc.assert(
      fc.asyncProperty(STEPS, DAMAGE, async (steps, damage) => {
        const [hostile, end] = memoryCarriers();
        served.serve(end);
        hostile.start({ data: () => undefined, closed: () => undefined });
        await hostile.write(frames(steps, damage));
        await turns(3);
        hostile.destroy();
        const [left, right] = memoryCarriers();
        served.serve(right);
        const client = new Client(left);
        const payload = Uint8Array.of(1, 2, 3);
        expect(await client.call(SERVICE, "Echo", payload)).toEqual(payload);
        await client[Symbol.asyncDispose]();
        await turns(4);
        expect([served.connections, served.calls]).toEqual([0, 0]);
      }),
      fuzzing(2),
    );
    served.close();
  },
  fuzzLimitMs(),
);

test(
  "N01 whatever a server sends, each call of a client ends with an answer or a class",
  async () => {
    await fc.assert(
      fc.asyncProperty(STEPS, DAMAGE, async (steps, damage) => {
        const [left, hostile] = memoryCarriers();
        hostile.start({ data: () => undefined, closed: () => undefined });
        const client = new Client(left);
        const drained = async (): Promise<void> => {
          const shape = { clientStreams: false, serverStreams: true };
          const request = (async function* () {
            yield Uint8Array.of(1);
          })();
          for await (const _ of client.stream({ service: SERVICE, method: "Each", shape }, request));
        };
        const calls = [
          client.call(SERVICE, "Echo", Uint8Array.of(1)),
          client.call(SERVICE, "Wait", Uint8Array.of(2)),
          drained(),
        ];
        const ends = calls.map((call) =>
          Promise.resolve<unknown>(call).then(
            () => undefined,
            (error: unknown) => error,
          ),
        );
        await turns(2);
        await hostile.write(frames(steps, damage));
        await turns(3);
        hostile.destroy();
        for (const error of await Promise.all(ends))
          if (error !== undefined) expect(error).toBeInstanceOf(ClassifiedError);
      }),
      fuzzing(2),
    );
  },
  fuzzLimitMs(),
);
