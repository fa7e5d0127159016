import { ConnectionError, ErrorCode, FRAME_HEADER, FrameType } from "./protocol.ts";

/** The head of a frame. */
export interface FrameHead {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
}

/**
 * Cuts a byte stream into frames. Payloads are views of the bytes that came in where a frame came in one piece, so
 * what must outlive its chunk is for the receiver to copy.
 */
export class FrameReader {
  readonly #maxFrame: number;
  readonly #frame: (head: FrameHead, payload: Uint8Array) => void;
  readonly #head = new Uint8Array(FRAME_HEADER);
  #headLength = 0;
  #current: FrameHead | undefined;
  #payload = EMPTY;
  #have = 0;

  /**
   * @param maxFrame the longest payload taken, in bytes: our SETTINGS_MAX_FRAME_SIZE.
   * @param frame takes each frame; what it throws goes through `push`.
   */
  constructor(maxFrame: number, frame: (head: FrameHead, payload: Uint8Array) => void) {
    this.#maxFrame = maxFrame;
    this.#frame = frame;
  }

  /** @throws ConnectionError FRAME_SIZE_ERROR when a frame is longer than allowed. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      const current = this.#current;
      if (current !== undefined) {
        const take = Math.min(this.#payload.length - this.#have, chunk.length - at);
        this.#payload.set(chunk.subarray(at, at + take), this.#have);
        this.#have += take;
        at += take;
        if (this.#have < this.#payload.length) return;
        const payload = this.#payload;
        this.#current = undefined;
        this.#payload = EMPTY;
        this.#frame(current, payload);
        continue;
      }
      let head = chunk;
      let headAt = at;
      if (this.#headLength > 0 || chunk.length - at < FRAME_HEADER) {
        const take = Math.min(FRAME_HEADER - this.#headLength, chunk.length - at);
        this.#head.set(chunk.subarray(at, at + take), this.#headLength);
        this.#headLength += take;
        at += take;
        if (this.#headLength < FRAME_HEADER) return;
        this.#headLength = 0;
        head = this.#head;
        headAt = 0;
      } else {
        at += FRAME_HEADER;
      }
      const length = ((head[headAt] ?? 0) << 16) | ((head[headAt + 1] ?? 0) << 8) | (head[headAt + 2] ?? 0);
      const frame: FrameHead = {
        type: head[headAt + 3] ?? 0,
        flags: head[headAt + 4] ?? 0,
        streamId: readUint31(head, headAt + 5),
      };
      if (length > this.#maxFrame) {
        throw new ConnectionError(ErrorCode.frameSizeError, `${typeName(frame.type)} frame of ${length} bytes`);
      }
      if (chunk.length - at >= length) {
        const payload = chunk.subarray(at, at + length);
        at += length;
        this.#frame(frame, payload);
      } else {
        this.#current = frame;
        this.#payload = new Uint8Array(length);
        this.#have = 0;
      }
    }
  }
}

const EMPTY: Uint8Array = new Uint8Array(0);

/** 31 bits, big endian; the reserved bit is dropped. */
export function readUint31(bytes: Uint8Array, at: number): number {
  return readUint32(bytes, at) & 0x7fffffff;
}

/** 32 bits, big endian. */
export function readUint32(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] ?? 0) << 24) | ((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)) >>> 0
  );
}

function typeName(type: number): string {
  for (const [name, number] of Object.entries(FrameType)) if (number === type) return name;
  return `type ${type}`;
}

/** Writes 32 bits, big endian. */
export function writeUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** Writes a frame's head of nine bytes. */
export function writeHead(bytes: Uint8Array, at: number, length: number, head: FrameHead): void {
  bytes[at] = length >>> 16;
  bytes[at + 1] = length >>> 8;
  bytes[at + 2] = length;
  bytes[at + 3] = head.type;
  bytes[at + 4] = head.flags;
  writeUint32(bytes, at + 5, head.streamId);
}
