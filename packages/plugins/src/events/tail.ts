import type { Envelope } from "@stevedore/core";

/** How much is kept. */
export interface Bounds {
  readonly events: number;
  /** Bytes of payload. */
  readonly bytes: number;
}

export interface TailEvent {
  readonly envelope: Envelope;
  /** Its place in the log; undefined when it is in none. */
  readonly cursor: number | undefined;
}

/**
 * The newest events, once for all who read them: a reader holds a place, not a queue, so that any number of slow readers
 * costs nothing. The newest is always there, however large.
 */
export class EventTail {
  readonly #bounds: Bounds;
  readonly #events: TailEvent[] = [];
  #first = 0;
  #bytes = 0;
  #lastCursor: number | undefined;

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
  }

  /** Place of the oldest event here. */
  get first(): number {
    return this.#first;
  }

  /** Place of the next event to come. */
  get end(): number {
    return this.#first + this.#events.length;
  }

  /** Cursor of the newest event that came with one. */
  get lastCursor(): number | undefined {
    return this.#lastCursor;
  }

  push(event: TailEvent): void {
    this.#events.push(event);
    this.#bytes += event.envelope.event.value.byteLength;
    this.#lastCursor = event.cursor ?? this.#lastCursor;
    let drop = 0;
    while (
      this.#events.length - drop > 1 &&
      (this.#events.length - drop > this.#bounds.events || this.#bytes > this.#bounds.bytes)
    ) {
      this.#bytes -= this.#events[drop]?.envelope.event.value.byteLength ?? 0;
      drop += 1;
    }
    if (drop === 0) return;
    this.#events.splice(0, drop);
    this.#first += drop;
  }

  at(place: number): TailEvent | undefined {
    return this.#events[place - this.#first];
  }

  /** Place of the first event after a cursor, if the tail has all events after it. */
  placeAfter(cursor: number): number | undefined {
    const oldest = this.#events.find((event) => event.cursor !== undefined)?.cursor;
    if (oldest === undefined || oldest > cursor + 1) return undefined;
    const index = this.#events.findLastIndex((event) => event.cursor !== undefined && event.cursor <= cursor);
    return this.#first + index + 1;
  }
}
