/** Every bound of a connection, in one place. Numbers without another source are ours. */

/** Calls a client may have open on one connection: far above the 2,000 pending Waits of a busy machine. */
export const MAX_CONCURRENT_STREAMS = 32_768;

/** Sum of header sizes of one block (name, value and 32 each): 64 KiB of error details in base64, and as much again. */
export const MAX_HEADER_LIST = 192 << 10;

/** Bytes of one header block over all its CONTINUATION frames; it may hold no more than the list it decodes to. */
export const MAX_HEADER_BLOCK = MAX_HEADER_LIST;

/** CONTINUATION frames of one block: twelve full ones make the largest block. More are a flood (CVE-2024-27316). */
export const MAX_CONTINUATIONS = 32;

/**
 * What a stream may send before its application reads: RFC 9113's default, so that a stream nobody reads holds little.
 * Once the application reads, the window grows to {@link GROWN_WINDOW}.
 */
export const GROWN_WINDOW = 2 << 20;

/** Window of the connection. It is given back on arrival: what an application does not read never stalls its neighbours. */
export const CONNECTION_WINDOW = 16 << 20;

/** Queued bytes of a stream from which its sender waits: what grpc-go lets a stream queue (64 KiB). */
export const SEND_HIGH_WATER = 64 << 10;

/** Bytes queued on one connection, all streams together, from which it is given up: its peer reads nothing. */
export const MAX_QUEUED = 512 << 20;

/** Answers to pings, settings and broken streams that wait for a peer that does not read; nghttp2 has the same limit. */
export const MAX_QUEUED_CONTROL = 1000;

/** Streams a client may reset: this many at once, and so many more a second (rapid reset, CVE-2023-44487). */
export const RESET_BURST = 20_000;
export const RESET_RATE = 2000;

/** Frames that carry nothing (empty DATA, PRIORITY, unknown types, SETTINGS): at once, and a second. */
export const EMPTY_BURST = 20_000;
export const EMPTY_RATE = 2000;

/** A client must have sent preface and settings in this time, in milliseconds: containerd's own is 120 s. */
export const HANDSHAKE_MS = 20_000;

/** An allowance that refills with time. */
export class Allowance {
  readonly #burst: number;
  readonly #perMs: number;
  #left: number;
  #at = performance.now();

  constructor(burst: number, perSecond: number) {
    this.#burst = burst;
    this.#perMs = perSecond / 1000;
    this.#left = burst;
  }

  /** Takes one; false when there is none. */
  take(): boolean {
    if (this.#left < 1) {
      const now = performance.now();
      this.#left = Math.min(this.#burst, this.#left + (now - this.#at) * this.#perMs);
      this.#at = now;
      if (this.#left < 1) return false;
    }
    this.#left--;
    return true;
  }
}
