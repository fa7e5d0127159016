import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from "./request.ts";
import { decodeStatus } from "./status.ts";

const bytes = fc.uint8Array({ maxLength: 100 });
const text = fc.string({ unit: "grapheme", maxLength: 30 });

describe("ttrpc payloads", () => {
  test("a request survives encoding", () => {
    fc.assert(
      fc.property(
        text,
        text,
        bytes,
        fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
        fc.array(fc.tuple(text, text), { maxLength: 5 }),
        (service, method, payload, timeoutNano, metadata) => {
          const request = { service, method, payload, timeoutNano, metadata };
          const back = decodeRequest(encodeRequest(request));
          expect({ ...back, payload: [...back.payload] }).toEqual({ ...request, payload: [...payload] });
        },
      ),
    );
  });

  test("a response survives encoding, and always carries its status", () => {
    fc.assert(
      fc.property(fc.nat({ max: 16 }), text, text, bytes, bytes, (code, message, typeUrl, value, payload) => {
        const status = { code, message, details: [{ typeUrl, value }] };
        const back = decodeResponse(encodeResponse({ status, payload }));
        expect(back.status?.code).toBe(code);
        expect(back.status?.message).toBe(message);
        expect(back.status?.details.map((d) => [d.typeUrl, ...d.value])).toEqual([[typeUrl, ...value]]);
        expect([...back.payload]).toEqual([...payload]);
      }),
    );
    expect([...encodeResponse({ payload: new Uint8Array(0) })]).toEqual([0x0a, 0]);
  });

  test("any bytes are read or refused with an Error", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (input) => {
        for (const decode of [decodeRequest, decodeResponse, decodeStatus]) {
          try {
            decode(input);
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("metadata pairs are limited", () => {
    const pair = [0x2a, 0];
    expect(() => decodeRequest(new Uint8Array(Array.from({ length: 1025 }, () => pair).flat()))).toThrow(
      "more than 1024 metadata pairs",
    );
  });

  test("a message that is not UTF-8 does not lose its status", () => {
    const status = decodeStatus(new Uint8Array([0x08, 2, 0x12, 2, 0xff, 0x41]));
    expect(status).toEqual({ code: 2, message: "\ufffdA", details: [] });
  });
});
