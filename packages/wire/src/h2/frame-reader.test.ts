import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { type FrameHead, FrameReader, writeHead } from "./frame-reader.ts";
import { ConnectionError, FRAME_HEADER } from "./protocol.ts";

const FRAME = fc.record({
  type: fc.integer({ min: 0, max: 255 }),
  flags: fc.integer({ min: 0, max: 255 }),
  streamId: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
  payload: fc.uint8Array({ maxLength: 60 }),
});

test("frames come out as they went in, however the bytes are cut", () => {
  fc.assert(
    fc.property(fc.array(FRAME, { maxLength: 12 }), fc.array(fc.integer({ min: 1, max: 40 })), (frames, cuts) => {
      const bytes: number[] = [];
      for (const { payload, ...head } of frames) {
        const raw = new Uint8Array(FRAME_HEADER + payload.length);
        writeHead(raw, 0, payload.length, head);
        raw.set(payload, FRAME_HEADER);
        bytes.push(...raw);
      }
      const got: (FrameHead & { payload: number[] })[] = [];
      const reader = new FrameReader(64, (head, payload) => got.push({ ...head, payload: [...payload] }));
      const all = Uint8Array.from(bytes);
      let at = 0;
      for (const cut of cuts) {
        reader.push(all.slice(at, at + cut));
        at += cut;
      }
      reader.push(all.slice(at));
      expect(got).toEqual(frames.map((frame) => ({ ...frame, payload: [...frame.payload] })));
    }),
  );
});

test("a frame over the limit is refused by its head alone", () => {
  const head = new Uint8Array(FRAME_HEADER);
  writeHead(head, 0, 65, { type: 0, flags: 0, streamId: 1 });
  const reader = new FrameReader(64, () => undefined);
  expect(() => reader.push(head)).toThrow(ConnectionError);
});
