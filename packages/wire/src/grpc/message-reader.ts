import { classified } from "@stevedore/base";

/** Bytes in front of each message: a flag and the length. */
export const PREFIX = 5;

/** The prefix of an uncompressed message of `length` bytes. */
export function messagePrefix(length: number): Uint8Array {
  const prefix = new Uint8Array(PREFIX);
  prefix[1] = length >>> 24;
  prefix[2] = length >>> 16;
  prefix[3] = length >>> 8;
  prefix[4] = length;
  return prefix;
}

/**
 * Cuts the data of one direction of a call into messages. Messages are views of what came in when they came in one
 * piece and make up most of it, else copies: a small message never keeps a large chunk alive.
 */
export class MessageReader {
  readonly #max: number;
  readonly #message: (payload: Uint8Array) => void;
  readonly #head = new Uint8Array(PREFIX);
  #headLength = 0;
  #parts: Uint8Array[] = [];
  #missing = -1;
  #length = 0;

  /** @param max the largest message, in bytes. @param message takes each one. */
  constructor(max: number, message: (payload: Uint8Array) => void) {
    this.#max = max;
    this.#message = message;
  }

  /** Bytes of a message that has begun and not ended. */
  get partialBytes(): number {
    return this.#headLength + (this.#missing < 0 ? 0 : PREFIX + this.#length - this.#missing);
  }

  /** @throws resource-exhausted for a message over the limit; internal for a compressed one, which nobody agreed on. */
  push(bytes: Uint8Array): void {
    let at = 0;
    for (;;) {
      if (this.#missing < 0) {
        while (this.#headLength < PREFIX && at < bytes.length) this.#head[this.#headLength++] = bytes[at++] ?? 0;
        if (this.#headLength < PREFIX) return;
        this.#begin();
      }
      const take = Math.min(this.#missing, bytes.length - at);
      if (take === this.#missing && this.#parts.length === 0) {
        const whole = bytes.subarray(at, at + take);
        at += take;
        this.#end(whole.buffer.byteLength > 2 * take ? whole.slice() : whole);
        continue;
      }
      if (take > 0) this.#parts.push(bytes.subarray(at, at + take));
      at += take;
      this.#missing -= take;
      if (this.#missing > 0) return;
      const joined = new Uint8Array(this.#length);
      let to = 0;
      for (const part of this.#parts) {
        joined.set(part, to);
        to += part.length;
      }
      this.#end(joined);
    }
  }

  #begin(): void {
    const head = this.#head;
    this.#headLength = 0;
    const length = (((head[1] ?? 0) << 24) | ((head[2] ?? 0) << 16) | ((head[3] ?? 0) << 8) | (head[4] ?? 0)) >>> 0;
    if (head[0] !== 0) {
      throw classified("internal", "grpc: compressed flag set with identity or empty encoding");
    }
    if (length > this.#max) {
      throw classified("resource-exhausted", `grpc: received message larger than max (${length} vs. ${this.#max})`);
    }
    this.#length = length;
    this.#missing = length;
  }

  #end(payload: Uint8Array): void {
    this.#missing = -1;
    this.#parts = [];
    this.#message(payload);
  }
}
