import { concatBytes } from "@stevedore/base";

/** Bytes before each payload: length uint32, stream uint32 (both big endian), type uint8, flags uint8. */
export const HEADER_LENGTH = 10;

/** Most bytes a payload may have: 4 MiB, as the protocol says. */
export const MAX_PAYLOAD = 4 << 20;

export const FrameType = { request: 1, response: 2, data: 3 } as const;

export const Flag = {
  /** On requests and data: the sender will send no more data. */
  remoteClosed: 1,
  /** On requests: not unary, and more data follows. */
  remoteOpen: 2,
  /** On data: the frame only carries flags; its empty payload is no message. */
  noData: 4,
} as const;

export interface Frame {
  /** Identifies the call on its connection; odd for those a client began. */
  readonly streamId: number;
  /** One of {@link FrameType}; peers of later versions may send others. */
  readonly type: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

/** What the decoder gives for a frame whose payload exceeds {@link MAX_PAYLOAD}; the payload is dropped as it arrives. */
export interface OversizedFrame {
  readonly streamId: number;
  readonly type: number;
  readonly flags: number;
  /** Payload bytes the header announced. */
  readonly length: number;
}

/** The wording of the peer for a payload that is too long. */
export function oversizedMessage(length: number): string {
  return `message length ${length} exceed maximum message size of ${MAX_PAYLOAD}`;
}

/** One frame as bytes, in an array of its own. The payload must not exceed {@link MAX_PAYLOAD}. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const { payload } = frame;
  if (payload.byteLength > MAX_PAYLOAD) throw new RangeError(oversizedMessage(payload.byteLength));
  const bytes = new Uint8Array(HEADER_LENGTH + payload.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, payload.byteLength);
  view.setUint32(4, frame.streamId);
  bytes[8] = frame.type;
  bytes[9] = frame.flags;
  bytes.set(payload, HEADER_LENGTH);
  return bytes;
}

export interface FrameSink {
  /** A whole frame. The payload may share memory with the chunk it came in. */
  frame(frame: Frame): void;
  /** A frame that is too long, told once all of its payload has been dropped. */
  oversized(frame: OversizedFrame): void;
}

type State =
  | { readonly at: "header" }
  | { readonly at: "payload"; readonly header: OversizedFrame; missing: number; readonly parts: Uint8Array[] }
  | { readonly at: "discard"; readonly header: OversizedFrame; missing: number };

/**
 * Cuts a byte stream into frames. Holds at most one header and the received part of one payload; never allocates by a
 * length the other side merely announced.
 */
export class FrameDecoder {
  readonly #sink: FrameSink;
  #state: State = { at: "header" };
  readonly #header = new Uint8Array(HEADER_LENGTH);
  #headerFill = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** Whether the stream may end here: no frame has begun. */
  get idle(): boolean {
    return this.#state.at === "header" && this.#headerFill === 0;
  }

  /** Takes the next bytes. The decoder may keep the array until the frame it belongs to is whole. */
  push(chunk: Uint8Array): void {
    let at = 0;
    // A header may be followed by nothing, when its payload is empty: so the loop also runs at the end of the chunk.
    while (at < chunk.byteLength) {
      const state = this.#state;
      switch (state.at) {
        case "header": {
          const take = Math.min(HEADER_LENGTH - this.#headerFill, chunk.byteLength - at);
          this.#header.set(chunk.subarray(at, at + take), this.#headerFill);
          this.#headerFill += take;
          at += take;
          if (this.#headerFill === HEADER_LENGTH) this.#headerDone();
          break;
        }
        case "payload": {
          const take = Math.min(state.missing, chunk.byteLength - at);
          state.parts.push(chunk.subarray(at, at + take));
          state.missing -= take;
          at += take;
          if (state.missing === 0) this.#emit(state.header, concatBytes(state.parts));
          break;
        }
        case "discard": {
          const take = Math.min(state.missing, chunk.byteLength - at);
          state.missing -= take;
          at += take;
          if (state.missing === 0) {
            this.#state = { at: "header" };
            this.#sink.oversized(state.header);
          }
          break;
        }
      }
    }
  }

  #headerDone(): void {
    this.#headerFill = 0;
    const view = new DataView(this.#header.buffer);
    const header: OversizedFrame = {
      length: view.getUint32(0),
      streamId: view.getUint32(4),
      type: view.getUint8(8),
      flags: view.getUint8(9),
    };
    if (header.length > MAX_PAYLOAD) this.#state = { at: "discard", header, missing: header.length };
    else if (header.length === 0) this.#emit(header, EMPTY);
    else this.#state = { at: "payload", header, missing: header.length, parts: [] };
  }

  #emit(header: OversizedFrame, payload: Uint8Array): void {
    this.#state = { at: "header" };
    this.#sink.frame({ streamId: header.streamId, type: header.type, flags: header.flags, payload });
  }
}

const EMPTY = new Uint8Array(0);
