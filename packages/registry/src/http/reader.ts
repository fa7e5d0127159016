import type { Socket } from "node:net";
import { messageOf } from "@stevedore/base";
import { codeOf, TransportError } from "./failure.ts";

/** Bytes kept for a reader that is slower than the network before the socket is paused, and when it goes on. */
const HIGH_WATER = 1 << 20;
const LOW_WATER = 256 << 10;

/**
 * The minimum-throughput rule: a body must bring `bytes` in each `ms` spent waiting for it. Only time spent waiting
 * counts, so a slow consumer never makes a server look slow.
 */
export class StallWatch {
  readonly bytes: number;
  readonly ms: number;
  #waited = 0;
  #came = 0;

  constructor(bytes: number, ms: number) {
    this.bytes = bytes;
    this.ms = ms;
  }

  /** Milliseconds that may still be waited for the rest of this window. */
  get left(): number {
    return Math.max(0, this.ms - this.#waited);
  }

  note(bytes: number, waitedMs: number): void {
    this.#came += bytes;
    this.#waited += waitedMs;
    if (this.#came < this.bytes) return;
    this.#came = 0;
    this.#waited = 0;
  }

  error(): TransportError {
    const seconds = this.ms / 1000;
    return new TransportError("body", `stalled: ${this.#came} bytes in ${seconds} s of waiting, want ${this.bytes}`, {
      timedOut: true,
      code: "STALLED",
    });
  }
}

/** Pulls the bytes of a socket, with back-pressure: what nobody asks for stays in the kernel. */
export class SocketReader {
  readonly #socket: Socket;
  readonly #queue: Uint8Array[] = [];
  #queued = 0;
  #paused = false;
  #ended = false;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (bytes: Uint8Array) => {
      this.#queue.push(bytes);
      this.#queued += bytes.byteLength;
      if (this.#queued >= HIGH_WATER && !this.#paused) {
        this.#paused = true;
        socket.pause();
      }
      this.#wake?.();
    });
    socket.on("end", () => this.#finish());
    socket.on("close", () => this.#finish());
    socket.on("error", (error: Error) => {
      this.#error ??= new TransportError("body", error.message, { code: codeOf(error), cause: error });
      this.#wake?.();
    });
  }

  /** Whether bytes, an end or an error wait: an idle connection with any of these is of no more use. */
  get stirred(): boolean {
    return this.#queued > 0 || this.#ended || this.#error !== undefined;
  }

  /** Ends the socket and makes pending and later reads fail with `error`; bytes that came before are dropped. */
  fail(error: Error): void {
    this.#error ??= error;
    this.#queue.length = 0;
    this.#queued = 0;
    this.#socket.destroy();
    this.#wake?.();
  }

  /** Puts bytes back that were read too far. */
  unshift(bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return;
    this.#queue.unshift(bytes);
    this.#queued += bytes.byteLength;
  }

  /** The next bytes, at once when some are there; undefined at the end. One caller at a time. */
  async next(watch?: StallWatch): Promise<Uint8Array | undefined> {
    const began = watch === undefined || this.#queued > 0 ? 0 : performance.now();
    while (this.#queue.length === 0 && this.#error === undefined && !this.#ended) await this.#wait(watch, began);
    const bytes = this.#queue.shift();
    if (bytes === undefined) {
      if (this.#error !== undefined) throw this.#error;
      return undefined;
    }
    this.#queued -= bytes.byteLength;
    if (this.#paused && this.#queued <= LOW_WATER) {
      this.#paused = false;
      this.#socket.resume();
    }
    watch?.note(bytes.byteLength, began === 0 ? 0 : performance.now() - began);
    return bytes;
  }

  async #wait(watch: StallWatch | undefined, began: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    const left = watch === undefined ? 0 : Math.max(1, watch.left - (performance.now() - began));
    const timer = watch === undefined ? undefined : setTimeout(() => this.fail(watch.error()), left);
    try {
      await promise;
    } finally {
      this.#wake = undefined;
      clearTimeout(timer);
    }
  }

  #finish(): void {
    this.#ended = true;
    this.#wake?.();
  }
}

/** The reason a signal was aborted with, as an error. */
export function reasonOf(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  return reason instanceof Error ? reason : new DOMException(messageOf(reason ?? "aborted"), "AbortError");
}
