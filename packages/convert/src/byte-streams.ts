/**
 * Bytes over a stream of messages, as containerd's transfer service and its clients do it: the receiver allows a window of
 * bytes, the sender sends at most that many in pieces. Both ends of a socket use these.
 */
import { classified } from "@stevedore/base";
import type { MessageStream } from "@stevedore/core";
import { DataSchema, WindowUpdateSchema } from "@stevedore/wire/gen/light/containerd/types/transfer/streaming_pb";
import { holds, packed, unpacked } from "./packed.ts";

/** Most bytes in one message: containerd's, whose clients read into buffers of this size. */
export const PIECE = 32 * 1024;

/** Bytes a receiver allows by one message: containerd's two pieces. */
export const WINDOW = 2 * PIECE;

/**
 * Bytes a receiver allows before it has read any of them. containerd has one window, and its sender waits for a reader
 * after each piece; with eight the two work side by side (docs/decisions/0222-streams-of-bytes.md).
 */
export const AHEAD = 8 * WINDOW;

/** Most that a sender believes it is allowed; containerd counts in an int32. */
const MAX_WINDOW = 0x7fff_ffff;

/**
 * The bytes that the other side sends. Reading drives the windows: who does not read is not sent more. The stream is
 * closed when the bytes end and when the reader leaves.
 *
 * @throws what {@link MessageStream.receive} throws when the other side goes away before its end; invalid-argument for a
 *   damaged message
 */
export async function* receiveBytes(stream: MessageStream): AsyncGenerator<Uint8Array, void, void> {
  let window = 0;
  try {
    for (;;) {
      while (window <= AHEAD - WINDOW) {
        // One that sends no more takes no updates either: what it sent is read all the same.
        stream.send(packed(WindowUpdateSchema, { update: WINDOW })).catch(() => undefined);
        window += WINDOW;
      }
      const message = await stream.receive();
      if (message === undefined) return;
      if (!holds(message, DataSchema)) continue;
      const { data } = unpacked(DataSchema, message);
      window -= data.byteLength;
      if (data.byteLength > 0) yield data;
    }
  } finally {
    stream.close();
  }
}

/** The sending end of a stream of bytes. */
export interface ByteSender {
  /** Sends bytes; resolves when the last of them is under way. Calls must not overlap. @throws unavailable when the receiver is gone */
  write(bytes: Uint8Array): Promise<void>;
  /** None follows; the receiver gets what was written. */
  close(): void;
}

/** Sends bytes to the other side, no faster than it allows. */
export function sendBytes(stream: MessageStream): ByteSender {
  return new WindowedSender(stream);
}

class WindowedSender implements ByteSender {
  readonly #stream: MessageStream;
  #allowed = 0;
  /** Why nothing more will be allowed. */
  #ended: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: MessageStream) {
    this.#stream = stream;
    void this.#readWindows();
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      await this.#room();
      const piece = bytes.subarray(at, at + Math.min(PIECE, this.#allowed));
      this.#allowed -= piece.byteLength;
      at += piece.byteLength;
      await this.#stream.send(packed(DataSchema, { data: piece }));
    }
  }

  close(): void {
    this.#stream.close();
  }

  async #readWindows(): Promise<void> {
    try {
      for (let message = await this.#stream.receive(); message !== undefined; message = await this.#stream.receive()) {
        if (!holds(message, WindowUpdateSchema)) continue;
        const { update } = unpacked(WindowUpdateSchema, message);
        // Only what allows more is an update.
        if (update > 0) this.#allowed = Math.min(this.#allowed + update, MAX_WINDOW);
        this.#wake?.();
      }
      this.#ended = classified("unavailable", "send bytes: the receiver has closed the stream: unavailable");
    } catch (error) {
      this.#ended = error instanceof Error ? error : classified("unknown", String(error));
    }
    this.#wake?.();
  }

  async #room(): Promise<void> {
    while (this.#allowed === 0) {
      if (this.#ended !== undefined) throw this.#ended;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
      this.#wake = undefined;
    }
  }
}
