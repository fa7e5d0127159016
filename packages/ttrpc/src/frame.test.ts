import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { encodeFrame, type Frame, FrameDecoder, HEADER_LENGTH, MAX_PAYLOAD, type OversizedFrame } from "./frame.ts";

function collect(): { frames: Frame[]; oversized: OversizedFrame[]; decoder: FrameDecoder } {
  const frames: Frame[] = [];
  const oversized: OversizedFrame[] = [];
  const decoder = new FrameDecoder({ frame: (f) => frames.push(f), oversized: (f) => oversized.push(f) });
  return { frames, oversized, decoder };
}

const frameArbitrary = fc.record({
  streamId: fc.integer({ min: 0, max: 0xffffffff }),
  type: fc.integer({ min: 0, max: 255 }),
  flags: fc.integer({ min: 0, max: 255 }),
  payload: fc.uint8Array({ maxLength: 300 }),
});

/** Cuts bytes at the given offsets, taken modulo the length. */
function cut(bytes: Uint8Array, at: readonly number[]): Uint8Array[] {
  const places = [...new Set(at.map((n) => n % (bytes.byteLength + 1)))].sort((a, b) => a - b);
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const place of [...places, bytes.byteLength]) {
    parts.push(bytes.subarray(from, place));
    from = place;
  }
  return parts;
}

describe("encodeFrame()", () => {
  test("writes the ten header bytes in big endian", () => {
    const bytes = encodeFrame({ streamId: 0x01020305, type: 3, flags: 5, payload: new Uint8Array([9, 8]) });
    expect([...bytes]).toEqual([0, 0, 0, 2, 1, 2, 3, 5, 3, 5, 9, 8]);
  });

  test("refuses a payload over 4 MiB", () => {
    const payload = new Uint8Array(MAX_PAYLOAD + 1);
    expect(() => encodeFrame({ streamId: 1, type: 1, flags: 0, payload })).toThrow(
      "message length 4194305 exceed maximum message size of 4194304",
    );
  });
});

describe("FrameDecoder", () => {
  test("gives back what was encoded, however the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(frameArbitrary, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 30 }), (sent, cuts) => {
        const { frames, oversized, decoder } = collect();
        const stream = new Uint8Array(Buffer.concat(sent.map(encodeFrame)));
        for (const part of cut(stream, cuts)) decoder.push(part);
        expect(frames.map((f) => ({ ...f, payload: [...f.payload] }))).toEqual(
          sent.map((f) => ({ ...f, payload: [...f.payload] })),
        );
        expect(oversized).toEqual([]);
        expect(decoder.idle).toBe(true);
      }),
    );
  });

  test("takes any bytes without throwing, and never more frames than headers fit", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 20 }), (chunks) => {
        const { frames, decoder } = collect();
        let total = 0;
        for (const chunk of chunks) {
          total += chunk.byteLength;
          decoder.push(chunk);
        }
        expect(frames.length).toBeLessThanOrEqual(Math.floor(total / HEADER_LENGTH));
      }),
    );
  });

  test("drops an oversized payload as it arrives and goes on with the next frame", () => {
    const { frames, oversized, decoder } = collect();
    const header = new Uint8Array([0, 0x40, 0, 1, 0, 0, 0, 7, 1, 0]); // 4 MiB + 1
    decoder.push(header);
    expect(oversized).toEqual([]);
    let left = MAX_PAYLOAD + 1;
    const chunk = new Uint8Array(64 << 10);
    while (left > 0) {
      decoder.push(chunk.subarray(0, Math.min(left, chunk.byteLength)));
      left -= chunk.byteLength;
    }
    expect(oversized).toEqual([{ streamId: 7, type: 1, flags: 0, length: MAX_PAYLOAD + 1 }]);
    decoder.push(encodeFrame({ streamId: 9, type: 2, flags: 0, payload: new Uint8Array([1]) }));
    expect(frames.map((f) => f.streamId)).toEqual([9]);
  });

  test("allocates nothing for a length that was only announced", () => {
    const before = process.memoryUsage().rss;
    const open = Array.from({ length: 200 }, () => collect());
    for (const { decoder } of open) decoder.push(new Uint8Array([0, 0x40, 0, 0, 0, 0, 0, 1, 1, 0]));
    expect(process.memoryUsage().rss - before).toBeLessThan(100 << 20); // 200 x 4 MiB would be 800
  });

  test("a frame without payload is whole with its header", () => {
    const { frames, decoder } = collect();
    decoder.push(new Uint8Array([0, 0, 0, 0, 0, 0, 0, 3, 3, 5]));
    expect(frames).toEqual([{ streamId: 3, type: 3, flags: 5, payload: new Uint8Array(0) }]);
  });
});
