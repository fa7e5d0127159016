import { classified } from "@stevedore/base";
import type { Envelope, EventLog } from "@stevedore/core";
import type { EventTail, TailEvent } from "./tail.ts";

/** Events read from the log at once: bounds how long the loop is held. */
const PAGE = 128;

export interface SubscriptionOptions {
  readonly tail: EventTail;
  readonly eventLog: EventLog | undefined;
  readonly matches: (envelope: Envelope) => boolean;
  readonly signal: AbortSignal;
  /** Whether it goes on when it has read all there is. */
  readonly follow: boolean;
  /** Begins after this cursor; undefined: with what comes. */
  readonly after: number | undefined;
  readonly remove: () => void;
}

/**
 * One reader of events: it exists from its making on, and is read once. It keeps its place only: events come out of the
 * tail in memory while it keeps up, and out of the log when it does not.
 */
export class Subscription implements AsyncIterable<TailEvent> {
  readonly #options: SubscriptionOptions;
  /** Place in the tail of the next event; undefined while it reads from the log. */
  #place: number | undefined;
  /** The last event it has passed, in the log; undefined when there is no log. */
  #cursor: number | undefined;
  #wake: (() => void) | undefined;
  #ended = false;
  readonly #onAbort = (): void => this.#end();

  constructor(options: SubscriptionOptions) {
    const { tail, eventLog, signal, after } = options;
    this.#options = options;
    if (after === undefined) {
      this.#place = tail.end;
      this.#cursor = tail.lastCursor ?? eventLog?.bounds().newest;
    } else this.#cursor = after;
    if (signal.aborted) this.#ended = true;
    else signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** There is something new. */
  wake(): void {
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TailEvent> {
    const { tail, follow, matches } = this.#options;
    try {
      while (!this.#ended) {
        if (this.#place !== undefined && this.#place < tail.first) this.#place = undefined;
        if (this.#place === undefined) {
          yield* this.#fromLog();
          continue;
        }
        const next = tail.at(this.#place);
        if (next !== undefined) {
          this.#place += 1;
          // Read from the log already, between its commit and the news of it.
          if (next.cursor !== undefined && this.#cursor !== undefined && next.cursor <= this.#cursor) continue;
          this.#cursor = next.cursor ?? this.#cursor;
          if (matches(next.envelope)) yield next;
        } else if (follow) await this.#arrival();
        else break;
      }
    } finally {
      this.#end();
    }
  }

  /** A page of the log, and the way back to the tail at its end. */
  async *#fromLog(): AsyncGenerator<TailEvent> {
    const { tail, eventLog, matches, follow } = this.#options;
    const after = this.#cursor;
    if (eventLog === undefined || after === undefined) throw fellBehind();
    const events = eventLog.read(after, PAGE);
    if (events[0] !== undefined && events[0].cursor !== after + 1) throw fellBehind();
    for (const { cursor, envelope } of events) {
      if (this.#ended) return;
      this.#cursor = cursor;
      if (matches(envelope)) yield { cursor, envelope };
    }
    // A filter that matches nothing must not hold the loop for the whole log.
    if (events.length > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      setImmediate(resolve);
      await promise;
      return;
    }
    if (!follow) this.#ended = true;
    // All of the log was read: what is not in the tail has been passed.
    else this.#place = tail.placeAfter(after) ?? tail.end;
  }

  async #arrival(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
    this.#wake = undefined;
  }

  #end(): void {
    this.#ended = true;
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    this.#options.remove();
    this.#wake?.();
  }
}

function fellBehind(): Error {
  return classified(
    "resource-exhausted",
    "event subscriber fell behind and what it missed is not kept any more: resource exhausted",
  );
}
