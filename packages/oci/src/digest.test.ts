import { describe, expect, test } from "bun:test";
import { chainId, chainIds } from "./chain-id.ts";
import { Digester, digestOf, isDigest, parseDigest, verified } from "./digest.ts";

const EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

describe("parseDigest()", () => {
  test("takes the three algorithms", () => {
    expect(parseDigest(EMPTY)).toEqual({ algorithm: "sha256", encoded: EMPTY.slice(7) });
    expect(parseDigest(digestOf("x", "sha384")).encoded.length).toBe(96);
    expect(parseDigest(digestOf("x", "sha512")).encoded.length).toBe(128);
  });

  const refused: readonly [text: string, message: string][] = [
    ["", "invalid checksum digest format"],
    ["sha256", "invalid checksum digest format"],
    [":abc", "invalid checksum digest format"],
    ["sha256:", "invalid checksum digest format"],
    ["sha256:abc", "invalid checksum digest length"],
    [EMPTY.toUpperCase(), "invalid checksum digest format"],
    [`sha256:${"E".repeat(64)}`, "invalid checksum digest format"],
    ["md5:d41d8cd98f00b204e9800998ecf8427e", "unsupported digest algorithm"],
    ["sha256+b64:abc", "unsupported digest algorithm"],
    ["__proto__:abc", "invalid checksum digest format"],
    ["constructor:abc", "unsupported digest algorithm"],
    ["../../etc:passwd", "invalid checksum digest format"],
  ];
  for (const [text, message] of refused) {
    test(`refuses ${JSON.stringify(text)}`, () => {
      expect(() => parseDigest(text)).toThrow(message);
      expect(isDigest(text)).toBe(false);
    });
  }
});

async function* chunks(...parts: string[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield Buffer.from(part);
}

describe("verified()", () => {
  const digest = digestOf("hello");
  const read = (parts: string[], expected: { digest: string; size?: number }) =>
    Array.fromAsync(verified(chunks(...parts), expected));

  test("passes on what fits", async () => {
    expect(Buffer.concat(await read(["he", "llo"], { digest, size: 5 })).toString()).toBe("hello");
    expect((await read([], { digest: EMPTY, size: 0 })).length).toBe(0);
  });

  test("stops at the first byte too many, before it is passed on", async () => {
    const got: Uint8Array[] = [];
    const reading = (async () => {
      for await (const chunk of verified(chunks("hello", " world"), { digest, size: 5 })) got.push(chunk);
    })();
    expect(await reading.catch((error: unknown) => error)).toMatchObject({ errorClass: "failed-precondition" });
    expect(got.length).toBe(1);
  });

  test("refuses too few bytes and other bytes", async () => {
    for (const parts of [["hell"], ["hellO"]]) {
      const error = await read(parts, { digest, size: 5 }).catch((e: unknown) => e);
      expect(error).toMatchObject({ errorClass: "failed-precondition" });
    }
  });
});

describe("Digester", () => {
  test("tells the digest of what came so far, more than once", () => {
    const digester = new Digester();
    expect(digester.digest()).toBe(EMPTY);
    digester.update("hel");
    digester.update(Buffer.from("lo"));
    expect(digester.digest()).toBe(digestOf("hello"));
    expect(digester.size).toBe(5);
  });
});

describe("chainIds()", () => {
  test("follows the image specification", () => {
    const [a, b, c] = [digestOf("a"), digestOf("b"), digestOf("c")];
    expect(chainIds([])).toEqual([]);
    expect(chainId([])).toBe("");
    expect(chainIds([a])).toEqual([a]);
    const ab = digestOf(`${a} ${b}`);
    expect(chainIds([a, b, c])).toEqual([a, ab, digestOf(`${ab} ${c}`)]);
    expect(chainId([a, b])).toBe(ab);
  });
});
