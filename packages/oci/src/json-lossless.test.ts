import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { cloneJson, encodeJson, isJsonObject, parseJson } from "./json-lossless.ts";

describe("parseJson() and encodeJson()", () => {
  const kept: readonly string[] = [
    "18446744073709551615",
    "-9223372036854775808",
    "9007199254740993",
    "0",
    "0.1",
    "1e+21",
    "[]",
    "{}",
    "null",
    '"ü𝄞 \\u2028 \\"\\\\"',
    '{"b":1,"a":2}',
    '{"10":1,"9":2,"x":3,"1":4}',
    '{"__proto__":{"polluted":true},"constructor":1}',
    '{"rlimits":[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1024}],"unknown":{"deep":[null,true]}}',
    '{"":""}',
    '"a\\u0000b"',
    '"\\ud800"',
  ];
  for (const text of kept) {
    test(`keeps ${text}`, () => expect(encodeJson(parseJson(text))).toBe(text));
  }

  const rewritten: readonly [text: string, written: string][] = [
    ['"<a>&"', '"\\u003ca\\u003e\\u0026"'],
    [' { "a" : [ 1 , 2 ] } ', '{"a":[1,2]}'],
    ['{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'],
    ['{"2":1,"1":2,"2":3}', '{"2":3,"1":2}'],
    ["1.0", "1"],
    ["-0.0", "-0"],
    ['"\\/"', '"/"'],
    ['"\\u00e9"', '"é"'],
  ];
  for (const [text, written] of rewritten) {
    test(`writes ${text} as Go does`, () => expect(encodeJson(parseJson(text))).toBe(written));
  }

  const refused: readonly string[] = [
    "",
    " ",
    "{",
    "[1,]",
    '{"a":1,}',
    "{a:1}",
    "01",
    "+1",
    "1.",
    ".5",
    "1e",
    "-",
    "nul",
    "truex",
    '"\u0001"',
    '"\\x"',
    '"\\u12g4"',
    '"open',
    '"open\\',
    "1 2",
    "[1 2]",
    '{"a" 1}',
    "NaN",
    "Infinity",
    "1e999",
    "'a'",
    "/**/1",
    "\u00a01",
  ];
  for (const text of refused) {
    test(`refuses ${JSON.stringify(text)}`, () => expect(() => parseJson(text)).toThrow(/json/));
  }

  test("agrees with the platform's parser on whatever JSON there is", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), fc.boolean(), (value, spaced) => {
        const text = JSON.stringify(value, undefined, spaced ? 2 : 0);
        const ours: unknown = JSON.parse(encodeJson(parseJson(text)));
        expect(ours).toEqual(JSON.parse(text));
      }),
      { numRuns: 500 },
    );
  }, 60_000);

  test("what is written reads back the same, with keys in order", () => {
    const tree = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.constant(null),
        fc.boolean(),
        fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }),
        fc.string({ unit: "binary" }),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.array(tie("value"), { maxLength: 4 }),
        fc.uniqueArray(fc.tuple(fc.oneof(fc.string(), fc.nat().map(String)), tie("value")), {
          selector: ([key]) => key,
          maxLength: 5,
        }),
      ),
    })).value;
    const toText = (value: unknown): string => {
      if (typeof value === "bigint") return String(value);
      if (Array.isArray(value)) {
        const pairs: readonly unknown[] = value;
        const isObject =
          pairs.length > 0 && pairs.every((p) => Array.isArray(p) && p.length === 2 && typeof p[0] === "string");
        const items = pairs.map((p) =>
          isObject && Array.isArray(p) ? `${JSON.stringify(p[0])}:${toText(p[1])}` : toText(p),
        );
        return isObject ? `{${items.join(",")}}` : `[${items.join(",")}]`;
      }
      return JSON.stringify(value) ?? "null";
    };
    fc.assert(
      fc.property(tree, (value) => {
        const text = toText(value);
        const once = encodeJson(parseJson(text), { escapeHtml: false });
        expect(encodeJson(parseJson(once), { escapeHtml: false })).toBe(once);
        expect(encodeJson(cloneJson(parseJson(text)), { escapeHtml: false })).toBe(once);
      }),
      { numRuns: 500 },
    );
  });

  test("any text is read or refused with an error of our own", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), fc.uint8Array()), (input) => {
        try {
          parseJson(input);
        } catch (error) {
          expect(error).toMatchObject({ errorClass: "invalid-argument" });
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("depth and size are limited", () => {
    expect(() => parseJson("[".repeat(100_000))).toThrow("nested deeper than 256 levels");
    expect(parseJson("[".repeat(256) + "]".repeat(256))).toBeArray();
    expect(() => parseJson(`"${"a".repeat(100)}"`, { maxSize: 100 })).toThrow("exceeds the limit of 100");
    expect(() => parseJson("9".repeat(2000))).toThrow("invalid json at offset 0");
  });

  test("an edit keeps all else: a field changed, one added, one removed", () => {
    const document = parseJson('{"2":"two","b":{"n":18446744073709551615},"1":"one","z":"<"}');
    if (!isJsonObject(document)) throw new Error("no object");
    document["b"] = 5;
    document["new"] = true;
    delete document["2"];
    expect(encodeJson(document)).toBe('{"b":5,"1":"one","z":"\\u003c","new":true}');
    expect(encodeJson(document, { escapeHtml: false, indent: "  " })).toBe(
      '{\n  "b": 5,\n  "1": "one",\n  "z": "<",\n  "new": true\n}',
    );
  });

  test("a key __proto__ changes no prototype", () => {
    const document = parseJson('{"__proto__":{"x":1}}');
    expect(Object.getPrototypeOf(document)).toBe(Object.prototype);
    expect(Reflect.get({}, "x")).toBeUndefined();
  });

  test("bytes that are not UTF-8 become U+FFFD, as in Go", () => {
    expect(parseJson(new Uint8Array([0x22, 0xff, 0x22]))).toBe("\ufffd");
  });
});
