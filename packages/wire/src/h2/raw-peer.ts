import type { ByteChannel } from "./byte-channel.ts";
import { type FrameHead, FrameReader, writeHead, writeUint32 } from "./frame-reader.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder } from "./hpack-encoder.ts";
import { Flag, FRAME_HEADER, FrameType, type HeaderField, LARGEST_MAX_FRAME, PREFACE } from "./protocol.ts";

/** A frame as the raw peer received it. */
export interface RawFrame extends FrameHead {
  readonly payload: Uint8Array;
}

/**
 * The other end of a connection, for tests: it sends exactly what it is told to, right or wrong, and keeps what it
 * receives.
 */
export class RawPeer {
  readonly frames: RawFrame[] = [];
  readonly encoder = new HpackEncoder();
  readonly decoder = new HpackDecoder(1 << 20);
  closed = false;
  readonly #channel: ByteChannel;
  #queue: Uint8Array[] = [];
  #waiting: (() => void)[] = [];

  constructor(channel: ByteChannel) {
    this.#channel = channel;
    const reader = new FrameReader(LARGEST_MAX_FRAME, (head, payload) => {
      this.frames.push({ ...head, payload: payload.slice() });
    });
    channel.start({
      data: (bytes) => {
        reader.push(bytes);
        this.#wake();
      },
      drained: () => this.#send(),
      closed: () => {
        this.closed = true;
        this.#wake();
      },
    });
  }

  /** Bytes as they are. */
  bytes(bytes: Uint8Array): this {
    this.#queue.push(bytes);
    this.#send();
    return this;
  }

  frame(type: number, flags: number, streamId: number, payload: Uint8Array = new Uint8Array(0)): this {
    const raw = new Uint8Array(FRAME_HEADER + payload.length);
    writeHead(raw, 0, payload.length, { type, flags, streamId });
    raw.set(payload, FRAME_HEADER);
    return this.bytes(raw);
  }

  /** Preface and settings of a client. */
  hello(settings: readonly (readonly [id: number, value: number])[] = []): this {
    return this.bytes(PREFACE).settings(settings);
  }

  settings(settings: readonly (readonly [id: number, value: number])[]): this {
    const payload = new Uint8Array(settings.length * 6);
    settings.forEach(([id, value], i) => {
      payload[i * 6 + 1] = id;
      writeUint32(payload, i * 6 + 2, value);
    });
    return this.frame(FrameType.settings, 0, 0, payload);
  }

  headers(streamId: number, fields: readonly HeaderField[], end = false): this {
    const flags = Flag.endHeaders | (end ? Flag.endStream : 0);
    return this.frame(FrameType.headers, flags, streamId, this.encoder.encode(fields));
  }

  data(streamId: number, payload: Uint8Array, end = false): this {
    return this.frame(FrameType.data, end ? Flag.endStream : 0, streamId, payload);
  }

  windowUpdate(streamId: number, increment: number): this {
    return this.frame(FrameType.windowUpdate, 0, streamId, uint32(increment));
  }

  reset(streamId: number, code: number): this {
    return this.frame(FrameType.rstStream, 0, streamId, uint32(code));
  }

  /** The first frame that fits, waiting for it up to two seconds; it and all before it are taken. */
  async take(fits: (frame: RawFrame) => boolean): Promise<RawFrame> {
    const limit = Date.now() + 2000;
    for (;;) {
      const at = this.frames.findIndex(fits);
      const found = this.frames[at];
      if (found !== undefined) {
        this.frames.splice(0, at + 1);
        return found;
      }
      if (this.closed || Date.now() > limit) {
        throw new Error(`frame did not come, found types ${this.frames.map((each) => each.type).join(" ")}`);
      }
      await this.#change();
    }
  }

  /** Waits for the end of the connection. */
  async end(): Promise<void> {
    const limit = Date.now() + 2000;
    while (!this.closed) {
      if (Date.now() > limit) throw new Error("connection did not end");
      await this.#change();
    }
  }

  #change(): Promise<void> {
    return Promise.race([new Promise<void>((resolve) => this.#waiting.push(resolve)), Bun.sleep(100)]);
  }

  #send(): void {
    for (;;) {
      const next = this.#queue[0];
      if (next === undefined) return;
      const taken = this.#channel.write(next);
      if (taken < next.length) {
        this.#queue[0] = next.subarray(taken);
        return;
      }
      this.#queue.shift();
    }
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

/** Four bytes, big endian. */
export function uint32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  writeUint32(bytes, 0, value);
  return bytes;
}
