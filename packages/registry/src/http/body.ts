import { concatBytes } from "@stevedore/base";
import { TransportError } from "./failure.ts";
import type { Framing } from "./head.ts";
import type { SocketReader, StallWatch } from "./reader.ts";

/** Longest line that frames a chunk, with its extensions. */
const MAX_CHUNK_LINE = 4096;
/** Most bytes of trailers. */
const MAX_TRAILERS = 16 << 10;

/** The bytes of a body, and nothing behind it. @throws TransportError when it ends early or is framed wrongly. */
export async function* readFramed(
  reader: SocketReader,
  framing: Framing,
  watch: StallWatch,
): AsyncGenerator<Uint8Array, void, undefined> {
  switch (framing.kind) {
    case "none":
      return;
    case "length":
      yield* readLength(reader, framing.length, watch);
      return;
    case "chunked":
      yield* readChunked(reader, watch);
      return;
    case "close":
      for (let bytes = await reader.next(watch); bytes !== undefined; bytes = await reader.next(watch)) yield bytes;
      return;
    default:
      framing satisfies never;
  }
}

async function* readLength(
  reader: SocketReader,
  length: number,
  watch: StallWatch,
): AsyncGenerator<Uint8Array, void, undefined> {
  let left = length;
  while (left > 0) {
    const bytes = await reader.next(watch);
    if (bytes === undefined) throw cutOff(`after ${length - left} of ${length} bytes`);
    if (bytes.byteLength <= left) {
      left -= bytes.byteLength;
      yield bytes;
    } else {
      const part = bytes.subarray(0, left);
      reader.unshift(bytes.subarray(left));
      left = 0;
      yield part;
    }
  }
}

async function* readChunked(reader: SocketReader, watch: StallWatch): AsyncGenerator<Uint8Array, void, undefined> {
  for (;;) {
    const line = await readLine(reader, MAX_CHUNK_LINE, watch);
    const digits = /^([0-9a-fA-F]{1,12})[ \t]*(?:;.*)?$/.exec(line)?.[1];
    if (digits === undefined) throw new TransportError("body", "the body has a malformed chunk size");
    const size = Number.parseInt(digits, 16);
    if (size === 0) break;
    yield* readLength(reader, size, watch);
    if ((await readLine(reader, 2, watch)) !== "")
      throw new TransportError("body", "the body has a malformed chunk end");
  }
  let trailers = 0;
  for (;;) {
    const line = await readLine(reader, MAX_TRAILERS - trailers, watch);
    if (line === "") return;
    trailers += line.length + 2;
  }
}

async function readLine(reader: SocketReader, max: number, watch: StallWatch): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const bytes = await reader.next(watch);
    if (bytes === undefined) throw cutOff("in the middle of a chunked body");
    const end = bytes.indexOf(0x0a);
    const part = end < 0 ? bytes : bytes.subarray(0, end);
    length += part.byteLength;
    if (length > max) throw new TransportError("body", "the body has an overlong chunk line");
    parts.push(part);
    if (end < 0) continue;
    reader.unshift(bytes.subarray(end + 1));
    const line = Buffer.from(concatBytes(parts)).toString("latin1");
    return line.endsWith("\r") ? line.slice(0, -1) : line;
  }
}

function cutOff(where: string): TransportError {
  return new TransportError("body", `the connection was closed ${where}`, { code: "ECONNRESET" });
}
