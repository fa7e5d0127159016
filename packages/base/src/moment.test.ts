import { expect, test } from "bun:test";
import {
  fractionalMs,
  Moment,
  momentFrom,
  momentIn,
  momentOf,
  momentText,
  nanosOf,
  nowMoment,
  nowMs,
} from "./moment.ts";

test("a moment keeps nanoseconds and is a date", () => {
  const moment = momentFrom(1_700_000_000, 123_456_789);
  expect(moment.getTime()).toBe(1_700_000_000_123);
  expect(nanosOf(moment)).toBe(123_456_789);
  expect(momentText(moment)).toBe("2023-11-14T22:13:20.123456789Z");
  expect(nanosOf(momentFrom(-1, 999_999_999))).toBe(999_999_999);
  expect(nanosOf(new Date(-1))).toBe(999_000_000);
  expect(nanosOf(momentIn(momentText(moment)))).toBe(123_456_789);
  expect(momentText(new Date(0))).toBe("1970-01-01T00:00:00Z");
  expect(momentText(new Moment(1500, 1_000))).toBe("1970-01-01T00:00:01.500001Z");
});

test("a number keeps microseconds", () => {
  for (const micros of [0, 1, 500, 999]) {
    const moment = new Moment(1_795_250_928_536, micros * 1_000);
    expect(nanosOf(momentOf(fractionalMs(moment)))).toBe(nanosOf(moment));
  }
});

test("now goes on between milliseconds and stays with the clock", () => {
  const seen = new Set<number>();
  for (let i = 0; i < 1_000; i++) seen.add(nowMs());
  expect(seen.size).toBeGreaterThan(10);
  expect(Math.abs(nowMoment().getTime() - Date.now())).toBeLessThan(20);
});
