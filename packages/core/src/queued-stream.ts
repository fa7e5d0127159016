import { classified } from "@stevedore/base";
import type { AnyValue } from "./events.ts";
import type { MessageStream } from "./streaming.ts";

/** Messages under way to a carrier before a sender waits: enough to keep it busy, little enough to hold. */
const QUEUE_LENGTH = 16;

/**
 * A {@link MessageStream} over what a call gives: the messages of the other side as an iterator, and ours as one that the
 * carrier pulls ({@link QueuedStream.outgoing}). The same class stands at both ends of a socket.
 */
export class QueuedStream implements MessageStream {
  readonly #incoming: AsyncIterator<AnyValue>;
  readonly #signal: AbortSignal;
  readonly #queue: AnyValue[] = [];
  readonly #room: (() => void)[] = [];
  readonly #drained = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<undefined>();
  /** Wakes the carrier that waits for a message. */
  #wake: (() => void) | undefined;
  #closed = false;
  /** The carrier takes nothing any more. */
  #gone = false;

  /** @param signal of the call: its end ends the stream, and its reason is what {@link receive} then throws. */
  constructor(incoming: AsyncIterator<AnyValue>, signal: AbortSignal) {
    this.#incoming = incoming;
    this.#signal = signal;
  }

  async send(message: AnyValue): Promise<void> {
    this.#checkOpen();
    this.#queue.push(message);
    this.#wake?.();
    while (this.#queue.length >= QUEUE_LENGTH) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#room.push(resolve);
      await promise;
      this.#checkOpen();
    }
  }

  #checkOpen(): void {
    if (!this.#closed && !this.#gone) return;
    throw classified("unavailable", "send on a stream that has ended: unavailable");
  }

  async receive(): Promise<AnyValue | undefined> {
    if (this.#closed) return undefined;
    if (this.#gone) this.#signal.throwIfAborted();
    const next = this.#incoming.next();
    // Lost when the stream is closed meanwhile.
    next.catch(() => undefined);
    const { promise, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(this.#signal.reason);
    this.#signal.addEventListener("abort", onAbort, { once: true });
    try {
      const result = await Promise.race([next, promise, this.#ended.promise]);
      return result === undefined || result.done === true ? undefined : result.value;
    } finally {
      this.#signal.removeEventListener("abort", onAbort);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ended.resolve(undefined);
    this.#wake?.();
    this.#makeRoom();
  }

  async drained(): Promise<void> {
    await this.#drained.promise;
  }

  /** What was sent, for the carrier. Ends after {@link close}; ended early, the stream has ended. To be read once. */
  async *outgoing(): AsyncGenerator<AnyValue, void, void> {
    const onAbort = (): void => this.#wake?.();
    this.#signal.addEventListener("abort", onAbort, { once: true });
    try {
      while (!this.#signal.aborted) {
        const next = this.#queue.shift();
        if (next !== undefined) {
          this.#makeRoom();
          yield next;
        } else if (this.#closed) {
          return;
        } else {
          const { promise, resolve } = Promise.withResolvers<void>();
          this.#wake = resolve;
          await promise;
          this.#wake = undefined;
        }
      }
    } finally {
      this.#signal.removeEventListener("abort", onAbort);
      this.#gone = true;
      this.#queue.length = 0;
      this.#makeRoom();
      this.#drained.resolve();
    }
  }

  #makeRoom(): void {
    for (const resolve of this.#room.splice(0)) resolve();
  }
}
