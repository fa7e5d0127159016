import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { STATIC_TABLE } from "./header-table.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder } from "./hpack-encoder.ts";
import { huffmanDecode, huffmanEncode, huffmanLength } from "./huffman.ts";
import { ConnectionError, type HeaderField } from "./protocol.ts";

const LIST = 1 << 20;

function hex(text: string): Uint8Array {
  return Uint8Array.fromHex(text.replaceAll(/\s/g, ""));
}

/** Decodes blocks of one connection in order. */
function decodeAll(blocks: readonly string[]): (readonly HeaderField[])[] {
  const decoder = new HpackDecoder(LIST);
  return blocks.map((block) => decoder.decode(hex(block)).fields);
}

describe("HPACK, the examples of RFC 7541 appendix C", () => {
  test("C.2: one field each", () => {
    const one = (block: string) => decodeAll([block])[0];
    expect(one("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572")).toEqual([
      ["custom-key", "custom-header"],
    ]);
    expect(one("040c 2f73 616d 706c 652f 7061 7468")).toEqual([[":path", "/sample/path"]]);
    expect(one("1008 7061 7373 776f 7264 0673 6563 7265 74")).toEqual([["password", "secret"]]);
    expect(one("82")).toEqual([[":method", "GET"]]);
  });

  const requests: HeaderField[][] = [
    [
      [":method", "GET"],
      [":scheme", "http"],
      [":path", "/"],
      [":authority", "www.example.com"],
    ],
    [
      [":method", "GET"],
      [":scheme", "http"],
      [":path", "/"],
      [":authority", "www.example.com"],
      ["cache-control", "no-cache"],
    ],
    [
      [":method", "GET"],
      [":scheme", "https"],
      [":path", "/index.html"],
      [":authority", "www.example.com"],
      ["custom-key", "custom-value"],
    ],
  ];

  test("C.3: requests without Huffman", () => {
    expect(
      decodeAll([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
      ]),
    ).toEqual(requests);
  });

  test("C.4: requests with Huffman", () => {
    expect(
      decodeAll([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
      ]),
    ).toEqual(requests);
  });

  const date = ["date", "Mon, 21 Oct 2013 20:13:21 GMT"] as const;
  const later = ["date", "Mon, 21 Oct 2013 20:13:22 GMT"] as const;
  const location = ["location", "https://www.example.com"] as const;
  const priv = ["cache-control", "private"] as const;
  const responses: HeaderField[][] = [
    [[":status", "302"], priv, date, location],
    [[":status", "307"], priv, date, location],
    [
      [":status", "200"],
      priv,
      later,
      location,
      ["content-encoding", "gzip"],
      ["set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"],
    ],
  ];

  // The examples begin with a table of 256 bytes: an update to that size stands in front.
  test("C.5: responses without Huffman, with eviction", () => {
    expect(
      decodeAll([
        "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
      ]),
    ).toEqual(responses);
  });

  test("C.6: responses with Huffman, with eviction", () => {
    expect(
      decodeAll([
        "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
      ]),
    ).toEqual(responses);
  });

  test("appendix A: each entry of the static table", () => {
    expect(STATIC_TABLE.length).toBe(61);
    for (const [i, field] of STATIC_TABLE.entries()) {
      expect(new HpackDecoder(LIST).decode(Uint8Array.of(0x80 | (i + 1))).fields).toEqual([field]);
    }
  });
});

const VALUE = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((c) => String.fromCharCode(c)),
  maxLength: 700,
});
const NAME = fc.constantFrom("content-type", "grpc-message", ":path", "x-a", "x-b-bin", "authorization", "user-agent");

describe("HPACK, properties", () => {
  test("what the encoder writes the decoder reads, across table size changes", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            limits: fc.array(fc.integer({ min: 0, max: 8192 }), { maxLength: 3 }),
            fields: fc.array(fc.tuple(NAME, VALUE), { maxLength: 8 }),
          }),
          { maxLength: 12 },
        ),
        (blocks) => {
          const encoder = new HpackEncoder();
          const decoder = new HpackDecoder(LIST);
          for (const { limits, fields } of blocks) {
            for (const limit of limits) encoder.setPeerLimit(limit);
            expect(decoder.decode(encoder.encode(fields)).fields).toEqual(fields);
          }
        },
      ),
    );
  });

  test("Huffman gives back what it took", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        const text = String.fromCharCode(...bytes);
        const out = new Uint8Array(huffmanLength(text));
        expect(huffmanEncode(text, out, 0)).toBe(out.length);
        expect(huffmanDecode(out)).toEqual(bytes);
      }),
    );
  });

  test("any bytes decode or fail as COMPRESSION_ERROR", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }), (blocks) => {
        const decoder = new HpackDecoder(4096);
        try {
          for (const block of blocks) decoder.decode(block);
        } catch (error) {
          expect(error).toBeInstanceOf(ConnectionError);
        }
      }),
    );
  });

  test("a list over the limit is cut, and the table stays right", () => {
    const encoder = new HpackEncoder();
    const decoder = new HpackDecoder(100);
    const cut = decoder.decode(
      encoder.encode([
        ["x-a", "1"],
        ["x-b", "y".repeat(100)],
        ["x-c", "2"],
      ]),
    );
    expect(cut).toEqual({ fields: [["x-a", "1"]], truncated: true });
    expect(decoder.decode(encoder.encode([["x-c", "2"]])).fields).toEqual([["x-c", "2"]]);
  });

  for (const [what, block] of [
    ["an index of nothing", "ff ff ff ff 0f"],
    ["index zero", "80"],
    ["a string behind its block", "00 05 61"],
    ["an integer without end", "ff ff ff ff ff ff ff"],
    ["a table size over the limit", "3f e2 7f"],
    ["a table size behind a field", "82 3f e1 01"],
    ["the Huffman end symbol", "00 84 ff ff ff ff 00"],
    ["Huffman padding of eight bits", "00 82 1f ff 00"],
    ["Huffman padding of zeros", "00 81 18 00"],
  ] as const) {
    test(`${what} is refused`, () => {
      expect(() => new HpackDecoder(LIST).decode(hex(block))).toThrow(ConnectionError);
    });
  }
});
