import { classified } from "@stevedore/base";
import { MessageQueue } from "@stevedore/ttrpc/message-queue";
import type { H2Stream } from "../h2/stream.ts";
import { MessageReader } from "./message-reader.ts";

/** Bytes a connection holds for handlers that have not taken them, shared by its calls. */
export class Budget {
  readonly #limit: number;
  #used = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @throws resource-exhausted over the limit. */
  add(bytes: number): void {
    this.#used += bytes;
    if (this.#used > this.#limit) {
      throw classified("resource-exhausted", `connection holds more than ${this.#limit} bytes of messages nobody took`);
    }
  }

  release(bytes: number): void {
    this.#used -= bytes;
  }

  get used(): number {
    return this.#used;
  }
}

/**
 * One direction of a call, from DATA to messages. The peer may send on while no whole message waits; from then on it
 * may send what its window holds, and more as messages are taken.
 */
export class Inlet {
  readonly #stream: H2Stream;
  readonly #budget: Budget;
  readonly #reader: MessageReader;
  readonly #queue: MessageQueue<Uint8Array>;
  #uncredited = 0;
  #held = 0;

  constructor(options: {
    readonly stream: H2Stream;
    readonly budget: Budget;
    readonly max: number;
    /** The reader left before the end. */
    readonly abandoned?: () => void;
  }) {
    this.#stream = options.stream;
    this.#budget = options.budget;
    this.#queue = new MessageQueue<Uint8Array>({
      taken: () => this.#taken(),
      abandoned: () => {
        this.#taken();
        options.abandoned?.();
      },
    });
    this.#reader = new MessageReader(options.max, (payload) => this.#queue.push(payload));
  }

  /** The messages, for one reader. */
  get messages(): MessageQueue<Uint8Array> {
    return this.#queue;
  }

  /** Whole messages that wait. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** @throws resource-exhausted or internal, as {@link MessageReader} and {@link Budget} say. */
  push(bytes: Uint8Array): void {
    this.#uncredited += bytes.length;
    if (this.#queue.ended) return this.#taken();
    this.#held += bytes.length;
    this.#budget.add(bytes.length);
    this.#reader.push(bytes);
    this.#taken();
  }

  /** No more data. @throws internal when a message was cut. */
  end(): void {
    if (this.#reader.partialBytes > 0) throw classified("internal", "unexpected EOF");
    this.#queue.end();
  }

  fail(error: unknown): void {
    this.#queue.fail(error);
  }

  /** Gives the budget back. For the end of the call. */
  free(): void {
    this.#budget.release(this.#held);
    this.#held = 0;
  }

  #taken(): void {
    if (this.#queue.length > 0) return;
    const credit = this.#uncredited;
    this.#uncredited = 0;
    const partial = this.#reader.partialBytes;
    this.#budget.release(this.#held - partial);
    this.#held = partial;
    this.#stream.consumed(credit);
  }
}
