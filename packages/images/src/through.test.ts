import { expect, test } from "bun:test";
import { createGunzip, gzipSync } from "node:zlib";
import { through } from "./through.ts";

async function read(bytes: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const part of bytes) parts.push(part);
  return Buffer.concat(parts).toString();
}

test("through() hands on what comes out", async () => {
  const source = (async function* (): AsyncGenerator<Uint8Array> {
    yield gzipSync("plain");
  })();
  expect(await read(through(source, createGunzip()))).toBe("plain");
});

test("through() tells the reader of an error of the source, and of one of the stream", async () => {
  const broken = (async function* (): AsyncGenerator<Uint8Array> {
    yield gzipSync("plain").subarray(0, 12);
    throw new Error("the line is cut");
  })();
  expect(await read(through(broken, createGunzip())).catch(String)).toContain("the line is cut");
  const wrong = (async function* (): AsyncGenerator<Uint8Array> {
    yield Buffer.from("no gzip at all");
  })();
  expect(await read(through(wrong, createGunzip())).catch(String)).toContain("incorrect header");
});
