import { decodeText, encodeText } from "@stevedore/base/bytes";
import { classified, isErrorClass, messageOf } from "@stevedore/base/errors";
import { isErrno } from "@stevedore/os/errno";
import { duplicate, OwnedFd } from "@stevedore/os/fd";
import { POLL, untilReady } from "@stevedore/os/io";
import { awaitDescriptors, sendDescriptors } from "@stevedore/os/socket";
import { MAX_MESSAGE_BYTES } from "./protocol.ts";

/** A message with its descriptors. The descriptors are the receiver's. */
export interface Packet {
  readonly message: unknown;
  readonly fds: OwnedFd[];
}

/** Packets that wait for a peer that does not read (it may be stopped) before the connection is given up. */
const MAX_WAITING = 1024;

interface Waiting {
  readonly bytes: Uint8Array;
  readonly fds: readonly OwnedFd[];
}

/** Messages with descriptors on a connected SOCK_SEQPACKET socket. */
export class Channel implements Disposable {
  readonly #socket: OwnedFd;
  readonly #waiting: Waiting[] = [];
  readonly #abort = new AbortController();
  #sending = false;

  /** Takes the socket over. */
  constructor(socket: OwnedFd) {
    this.#socket = socket;
  }

  get isClosed(): boolean {
    return this.#abort.signal.aborted;
  }

  /**
   * Sends at once when the peer has room, else behind what waits already. Takes the descriptors over; they are closed here
   * once the peer has its copies. A peer that is gone is found out by {@link Channel.packets}.
   *
   * @throws out-of-range when the message is too long
   */
  send(message: unknown, fds: readonly OwnedFd[] = []): void {
    const bytes = encodeText(JSON.stringify(message));
    if (bytes.byteLength > MAX_MESSAGE_BYTES) {
      for (const fd of fds) fd[Symbol.dispose]();
      throw classified("out-of-range", `tell the keeper: ${bytes.byteLength} bytes in one message`);
    }
    if (this.isClosed) {
      for (const fd of fds) fd[Symbol.dispose]();
      return;
    }
    this.#waiting.push({ bytes, fds });
    if (this.#sending) {
      if (this.#waiting.length > MAX_WAITING) this.close();
      return;
    }
    if (!this.#sendWaiting()) void this.#drain();
  }

  /**
   * As {@link Channel.send}, with descriptors that stay the caller's: they are only copied when the message has to wait.
   *
   * @throws out-of-range when the message is too long
   */
  sendCopies(message: unknown, fds: readonly number[]): void {
    if (!this.isClosed && !this.#sending) {
      const bytes = encodeText(JSON.stringify(message));
      if (bytes.byteLength <= MAX_MESSAGE_BYTES && this.#sendNow(bytes, fds)) return;
    }
    this.send(
      message,
      fds.map((fd) => new OwnedFd(duplicate(fd))),
    );
  }

  /** Messages until the peer is gone or {@link Channel.close}. What is no JSON ends it too. */
  async *packets(): AsyncGenerator<Packet, void, void> {
    for (;;) {
      let received: { readonly bytes: Uint8Array; readonly fds: OwnedFd[] };
      try {
        received = await awaitDescriptors(this.#socket.fd, {
          signal: this.#abort.signal,
          maxBytes: MAX_MESSAGE_BYTES,
        });
      } catch (error) {
        // One message is lost where no more descriptors may be open; the others go on.
        if (isErrorClass(error, "resource-exhausted") && !this.isClosed) continue;
        break; // closed by us, or the peer was killed
      }
      if (received.bytes.byteLength === 0) break;
      let message: unknown;
      try {
        message = JSON.parse(decodeText(received.bytes));
      } catch {
        for (const fd of received.fds) fd[Symbol.dispose]();
        break;
      }
      yield { message, fds: received.fds };
    }
    this.close();
  }

  close(): void {
    if (this.isClosed) return;
    this.#abort.abort(classified("canceled", "the connection to the keeper was closed"));
    this.#socket[Symbol.dispose]();
    for (const { fds } of this.#waiting.splice(0)) for (const fd of fds) fd[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Whether everything that waited went. */
  #sendWaiting(): boolean {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const { bytes, fds } = next;
      const numbers = fds.map(({ fd }) => fd);
      if (!this.#sendNow(bytes, numbers)) return false;
      if (this.isClosed) return true; // which has emptied the queue
      this.#waiting.shift();
      for (const fd of fds) fd[Symbol.dispose]();
    }
    return true;
  }

  /** Whether it need not wait: it went, or the peer is gone. */
  #sendNow(bytes: Uint8Array, fds: readonly number[]): boolean {
    try {
      return sendDescriptors(this.#socket.fd, bytes, fds) !== undefined;
    } catch (error) {
      if (!isErrno(error, "EPIPE", "ECONNRESET", "ENOTCONN")) {
        process.stderr.write(`stevedore keeper: send: ${messageOf(error)}\n`);
      }
      this.close();
      return true;
    }
  }

  async #drain(): Promise<void> {
    this.#sending = true;
    try {
      while (!this.isClosed && !this.#sendWaiting()) {
        await untilReady({ fd: this.#socket.fd, events: POLL.OUT, signal: this.#abort.signal });
      }
    } finally {
      this.#sending = false;
    }
  }
}
