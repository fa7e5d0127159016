import { expect, test } from "bun:test";
import { Moment, nanosOf } from "@stevedore/base/moment";
import { packMoments, unpackMoments } from "./moments.ts";

test("moments cross threads, and nothing else is touched", () => {
  const at = new Moment(1_700_000_000_123, 456_000);
  const plain = { labels: { a: "b" }, date: new Date(5), bytes: new Uint8Array([1]), list: [1, { x: undefined }] };
  expect(packMoments(plain)).toBe(plain);
  const back = unpackMoments(structuredClone(packMoments([{ value: { at, ...plain } }])));
  expect(back[0]?.value.at instanceof Moment).toBe(true);
  expect(nanosOf(back[0]?.value.at ?? new Date())).toBe(123_456_000);
  expect(back[0]?.value).toMatchObject(plain);
});
