import type { H2Connection } from "./connection.ts";
import { GROWN_WINDOW, SEND_HIGH_WATER } from "./limits.ts";
import { DEFAULT_WINDOW, ErrorCode, errorCodeName, type HeaderField } from "./protocol.ts";

/** Why a stream ended before both sides had said all. */
export interface StreamAbort {
  /** The code of RST_STREAM, or what stands for it. */
  readonly code: number;
  /** The peer reset it, we did, or the connection is gone. */
  readonly by: "peer" | "us" | "connection";
  /** The peer said that it has not acted on this stream: REFUSED_STREAM, or a GOAWAY with a lower last stream. */
  readonly unprocessed: boolean;
  readonly message: string;
}

/** What a stream tells its owner. None of these may throw. */
export interface StreamHandler {
  /** A header block: the headers, or the trailers when `end`. Truncated: longer than the limit. */
  headers(fields: readonly HeaderField[], end: boolean, truncated: boolean): void;
  /** Bytes; may be empty. The array is a view: copy what is kept long. Each byte must be given back by `consumed`. */
  data(bytes: Uint8Array, end: boolean): void;
  /** The stream was cut. Called at most once, and nothing follows. Not called when both sides ended in order. */
  aborted(abort: StreamAbort): void;
}

/** One stream of an {@link H2Connection}. All sends queue; order is kept; nothing here blocks. */
export class H2Stream {
  readonly id: number;
  readonly connection: H2Connection;
  handler: StreamHandler | undefined;

  // What follows up to the next blank line is the connection's business, not the owner's.
  sendWindow: number;
  receiveWindow = DEFAULT_WINDOW;
  localClosed = false;
  remoteClosed = false;
  gone = false;
  queuedBytes = 0;
  ending = false;
  trailers: readonly HeaderField[] | undefined;
  ready = false;
  next: H2Stream | undefined;

  #chunks: Uint8Array[] = [];
  #first = 0;
  #offset = 0;
  #credit = 0;
  #grown = false;
  #waiting: PromiseWithResolvers<void> | undefined;

  constructor(connection: H2Connection, id: number, sendWindow: number) {
    this.connection = connection;
    this.id = id;
    this.sendWindow = sendWindow;
  }

  /** Sends a header block that does not end the stream, ahead of data sent later. */
  sendHeaders(fields: readonly HeaderField[]): void {
    if (!this.gone && !this.ending) this.connection.sendHeaders(this, fields, false);
  }

  /**
   * Queues bytes. Returns undefined when more may follow at once; the arrays are ours until they are sent then. Else
   * returns a promise to wait for, which never rejects: it settles when there is room or the stream is gone, and the
   * arrays are the caller's again.
   */
  sendData(parts: readonly Uint8Array[], options: { readonly end?: boolean } = {}): Promise<void> | undefined {
    if (this.gone || this.ending) return undefined;
    for (const part of parts) {
      if (part.length === 0) continue;
      this.#chunks.push(part);
      this.queuedBytes += part.length;
      this.connection.queued(part.length);
    }
    if (options.end === true) this.ending = true;
    this.connection.makeReady(this);
    return this.room();
  }

  /** Undefined when there is room for more data, else a promise as of {@link sendData}. */
  room(): Promise<void> | undefined {
    if (this.gone || this.queuedBytes < SEND_HIGH_WATER) return undefined;
    this.#waiting ??= Promise.withResolvers();
    return this.#waiting.promise;
  }

  /** Ends our side, with the block as trailers behind all data, or as headers when nothing was sent before. */
  sendTrailers(fields: readonly HeaderField[]): void {
    if (this.gone || this.ending) return;
    this.trailers = fields;
    this.ending = true;
    this.connection.makeReady(this);
  }

  /** The application has read `bytes` bytes of data: the peer may send as many more. */
  consumed(bytes: number): void {
    if (this.gone || this.remoteClosed) return;
    this.#credit += bytes;
    const window = this.#grown ? GROWN_WINDOW : DEFAULT_WINDOW;
    if (this.#credit < window / 4) return;
    if (!this.#grown) {
      this.#grown = true;
      this.#credit += GROWN_WINDOW - DEFAULT_WINDOW;
    }
    const credit = this.#credit;
    this.#credit = 0;
    this.receiveWindow += credit;
    this.connection.sendWindowUpdate(this.id, credit);
  }

  /** Cuts the stream: what is queued is dropped, the peer gets RST_STREAM, our handler hears nothing more. */
  reset(code: number): void {
    if (this.gone) return;
    this.handler = undefined;
    this.connection.resetStream(this, code);
  }

  /** For the connection: moves up to `length` queued bytes to `out`. */
  take(out: Uint8Array, at: number, length: number): void {
    let to = at;
    let left = length;
    while (left > 0) {
      const chunk = this.#chunks[this.#first];
      if (chunk === undefined) break;
      const n = Math.min(left, chunk.length - this.#offset);
      if (this.#offset === 0 && n === chunk.length) out.set(chunk, to);
      else out.set(chunk.subarray(this.#offset, this.#offset + n), to);
      to += n;
      left -= n;
      this.#offset += n;
      if (this.#offset === chunk.length) {
        this.#offset = 0;
        this.#first++;
        if (this.#first === this.#chunks.length) {
          this.#chunks = [];
          this.#first = 0;
        } else if (this.#first === COMPACT_AT) {
          this.#chunks.splice(0, COMPACT_AT);
          this.#first = 0;
        }
      }
    }
    this.queuedBytes -= length;
    this.sendWindow -= length;
    if (this.#waiting !== undefined && this.queuedBytes < SEND_HIGH_WATER) {
      this.#copyRest();
      this.#wake();
    }
  }

  /** What is still queued leaves its arrays, which the sender may use anew: less than the high water. */
  #copyRest(): void {
    this.#chunks = this.#chunks.slice(this.#first).map((chunk, i) => chunk.slice(i === 0 ? this.#offset : 0));
    this.#first = 0;
    this.#offset = 0;
  }

  /** For the connection: the stream is over. Returns how many queued bytes were dropped. */
  drop(): number {
    const dropped = this.queuedBytes;
    this.gone = true;
    this.#chunks = [];
    this.#first = 0;
    this.queuedBytes = 0;
    this.trailers = undefined;
    this.#wake();
    return dropped;
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve();
  }
}

/** Sent chunks at the head of a queue are let go in groups of this many. */
const COMPACT_AT = 32;

/** The abort of a stream that lost its connection. */
export function connectionLost(message: string, unprocessed = false): StreamAbort {
  return { code: ErrorCode.internalError, by: "connection", unprocessed, message };
}

/** The abort of a stream the peer reset. */
export function resetByPeer(code: number): StreamAbort {
  return {
    code,
    by: "peer",
    unprocessed: code === ErrorCode.refusedStream,
    message: `stream terminated by RST_STREAM with error code: ${errorCodeName(code)}`,
  };
}
