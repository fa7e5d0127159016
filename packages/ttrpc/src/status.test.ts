import { describe, expect, test } from "bun:test";
import { CLASS_TEXT, classified, ERROR_CLASSES, messageOf } from "@stevedore/base";
import { Code, classOf, codeOf, decodeStatus, encodeStatus, errorOf, statusOf } from "./status.ts";

describe("status table", () => {
  for (const errorClass of ERROR_CLASSES) {
    test(`${errorClass} crosses the wire and comes back`, () => {
      const status = statusOf(classified(errorClass, `image "a": ${CLASS_TEXT[errorClass]}`));
      expect(status.code).toBe(codeOf(errorClass));
      const back = errorOf(decodeStatus(encodeStatus(status)));
      expect(back.errorClass).toBe(errorClass);
      expect(back.message).toBe(`image "a": ${CLASS_TEXT[errorClass]}`);
    });
  }

  const fromWire: readonly [code: number, message: string, errorClass: string, shown: string][] = [
    [Code.failedPrecondition, "lock held: conflict", "conflict", "lock held: conflict"],
    [Code.failedPrecondition, "conflict", "conflict", "conflict"],
    [Code.failedPrecondition, "it is a conflict", "failed-precondition", "it is a conflict: failed precondition"],
    [Code.failedPrecondition, "x: not modified", "not-modified", "x: not modified"],
    [Code.failedPrecondition, "", "failed-precondition", "failed precondition"],
    [Code.unknown, "OCI runtime create failed", "unknown", "OCI runtime create failed: unknown"],
    [Code.unknown, "fetch: unexpected status 404", "unknown", "fetch: unexpected status 404"],
    [Code.canceled, "stopped", "canceled", "stopped: context canceled"],
    [Code.deadlineExceeded, "context deadline exceeded", "deadline-exceeded", "context deadline exceeded"],
    [Code.unimplemented, "service a.B", "not-implemented", "service a.B: not implemented"],
    [99, "later", "unknown", "later: unknown"],
    [-1, "odd", "unknown", "odd: unknown"],
  ];
  for (const [code, message, errorClass, shown] of fromWire) {
    test(`code ${code} ${JSON.stringify(message)} reads as ${errorClass}`, () => {
      expect<string>(classOf({ code, message })).toBe(errorClass);
      expect(messageOf(errorOf({ code, message, details: [] }))).toBe(shown);
    });
  }

  test("conflict and not-modified get the suffix clients look for", () => {
    expect(statusOf(classified("conflict", "lock held")).message).toBe("lock held: conflict");
    expect(statusOf(classified("not-modified", "same")).message).toBe("same: not modified");
    expect(statusOf(classified("not-found", "gone")).message).toBe("gone");
  });

  test("what has no class is unknown, abort reasons are canceled and deadline exceeded", () => {
    expect(statusOf(new TypeError("x")).code).toBe(Code.unknown);
    expect(statusOf("text")).toEqual({ code: Code.unknown, message: "text", details: [] });
    expect(statusOf(AbortSignal.abort().reason).code).toBe(Code.canceled);
    expect(statusOf(new DOMException("late", "TimeoutError")).code).toBe(Code.deadlineExceeded);
  });

  test("details travel as they are", () => {
    const details = [{ typeUrl: "a.B", value: new Uint8Array([1, 2, 3]) }];
    const status = decodeStatus(encodeStatus(statusOf(classified("internal", "x", { details }))));
    expect(status.details.map((d) => [d.typeUrl, ...d.value])).toEqual([["a.B", 1, 2, 3]]);
    expect(errorOf(status).details.length).toBe(1);
  });
});
