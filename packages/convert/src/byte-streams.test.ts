import { describe, expect, test } from "bun:test";
import { classified, concatBytes, errorClassOf } from "@stevedore/base";
import { type AnyValue, QueuedStream } from "@stevedore/core";
import { DataSchema, WindowUpdateSchema } from "@stevedore/wire/gen/light/containerd/types/transfer/streaming_pb";
import { AHEAD, PIECE, receiveBytes, sendBytes, WINDOW } from "./byte-streams.ts";
import { holds, packed, unpacked } from "./packed.ts";

/** Two ends of one stream. `seen` are the messages towards the second, in order. */
function pair(): { left: QueuedStream; right: QueuedStream; stop: AbortController; seen: AnyValue[] } {
  const stop = new AbortController();
  const seen: AnyValue[] = [];
  const from = async function* (of: () => QueuedStream, record: boolean): AsyncGenerator<AnyValue> {
    for await (const message of of().outgoing()) {
      if (record) seen.push(message);
      yield message;
    }
  };
  const left: QueuedStream = new QueuedStream(
    from(() => right, false),
    stop.signal,
  );
  const right: QueuedStream = new QueuedStream(
    from(() => left, true),
    stop.signal,
  );
  return { left, right, stop, seen };
}

async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "none";
  } catch (error) {
    return errorClassOf(error);
  }
}

async function bytesOf(source: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(part);
  return concatBytes(parts);
}

describe("bytes over a stream", () => {
  test("arrive whole, in pieces of at most 32 KiB, and end where the sender ends", async () => {
    const { left, right, seen } = pair();
    const sender = sendBytes(left);
    const data = crypto.getRandomValues(new Uint8Array(65_536));
    const read = bytesOf(receiveBytes(right));
    for (let round = 0; round < 5; round++) await sender.write(data);
    await sender.write(new Uint8Array());
    sender.close();
    expect(await read).toEqual(concatBytes([data, data, data, data, data]));
    const sizes = seen.map((message) => unpacked(DataSchema, message).data.byteLength);
    expect(Math.max(...sizes)).toBe(PIECE);
  });

  test("are sent no further than the receiver allows, and go on when it reads", async () => {
    const { left, right, seen } = pair();
    const sender = sendBytes(left);
    const reader = receiveBytes(right);
    let written = 0;
    const writing = (async () => {
      for (; written < 40 * WINDOW; written += PIECE) await sender.write(new Uint8Array(PIECE));
      sender.close();
    })();
    const first = await reader.next();
    expect(first.value?.byteLength).toBe(PIECE);
    // What is allowed before anything is read, and what lies between the two.
    for (let turn = 0; turn < 50; turn++) await Bun.sleep(0);
    expect(written).toBeLessThanOrEqual(AHEAD + WINDOW);
    let rest = 0;
    for await (const part of reader) rest += part.byteLength;
    await writing;
    expect(rest + PIECE).toBe(40 * WINDOW);
    expect(seen.every((message) => holds(message, DataSchema))).toBe(true);
  });

  test("10,000 messages of one byte", async () => {
    const { left, right } = pair();
    const sender = sendBytes(left);
    const read = bytesOf(receiveBytes(right));
    for (let at = 0; at < 10_000; at++) await sender.write(new Uint8Array([at % 251]));
    sender.close();
    const all = await read;
    expect([all.byteLength, all[9_999]]).toEqual([10_000, 9_999 % 251]);
  });

  test("a receiver that leaves ends the sender; a caller that goes away ends both with its reason", async () => {
    const { left, right } = pair();
    const sender = sendBytes(left);
    const write = failure(
      (async () => {
        for (;;) await sender.write(new Uint8Array(PIECE));
      })(),
    );
    for await (const part of receiveBytes(right)) {
      expect(part.byteLength).toBe(PIECE);
      break;
    }
    expect(await receiveBytes(right).next()).toEqual({ done: true, value: undefined });
    expect(await write).toBe("unavailable");

    const other = pair();
    const waiting = receiveBytes(other.right).next();
    other.stop.abort(classified("canceled", "the client is gone"));
    expect(await failure(waiting)).toBe("canceled");
    expect(await failure(sendBytes(other.left).write(new Uint8Array(1)))).toBe("canceled");
  });

  test("hostile windows and messages: only what allows more counts, other messages are passed over, damage is an error", async () => {
    const { left, right, seen } = pair();
    const sender = sendBytes(left);
    for (const update of [-5, 0, -2_147_483_648]) await right.send(packed(WindowUpdateSchema, { update }));
    await right.send({ typeUrl: "google.protobuf.Empty", value: new Uint8Array() });
    const write = sender.write(new Uint8Array(10));
    const first = right.receive();
    for (let turn = 0; turn < 20; turn++) await Bun.sleep(0);
    expect(seen).toEqual([]);
    for (let times = 0; times < 3; times++) await right.send(packed(WindowUpdateSchema, { update: 2_147_483_647 }));
    await write;
    expect(await first).toBeDefined();

    const damaged = pair();
    const reading = receiveBytes(damaged.right).next();
    await damaged.left.send({ typeUrl: "something.else", value: new Uint8Array([1]) });
    await damaged.left.send({ typeUrl: DataSchema.typeName, value: new Uint8Array([0x0a, 0x7f]) });
    expect(await failure(reading)).toBe("invalid-argument");
  });

  test("who sends faster than anybody takes it waits, until the stream is closed", async () => {
    const { left, right } = pair();
    let sent = 0;
    const sending = (async () => {
      for (;;) {
        await left.send({ typeUrl: "x", value: new Uint8Array() });
        sent++;
      }
    })();
    for (let turn = 0; turn < 50; turn++) await Bun.sleep(0);
    const before = sent;
    expect(before).toBeLessThan(20);
    expect(await right.receive()).toBeDefined();
    left.close();
    expect(await failure(sending)).toBe("unavailable");
    expect(await left.receive()).toBeUndefined();
  });
});
