/** Makes spans and decides which of them are recorded. What is recorded goes to a sink when it ends. */
import { messageOf, type Span, type SpanAttributes, type SpanKind, type SpanOptions } from "@stevedore/base";

/** Where a span stands, as W3C trace context says it. */
export interface SpanPlace {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits. */
  readonly spanId: string;
  readonly sampled: boolean;
  /** The `tracestate` header, passed on as it came; "" for none. */
  readonly state: string;
  /** The `baggage` header, passed on as it came; "" for none. */
  readonly baggage: string;
}

export interface SpanEvent {
  /** Nanoseconds since 1970. */
  readonly time: bigint;
  readonly name: string;
  readonly attributes: SpanAttributes;
}

/** A span that has ended. Times are nanoseconds since 1970. */
export interface EndedSpan {
  readonly place: SpanPlace;
  /** "" for the first of a trace. */
  readonly parentId: string;
  readonly name: string;
  readonly kind: SpanKind;
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: SpanAttributes;
  readonly events: readonly SpanEvent[];
  /** What it failed with. */
  readonly error?: string;
}

/** Whether a span is recorded. */
export type Sampler = (span: {
  readonly parent: SpanPlace | undefined;
  readonly traceId: string;
  readonly name: string;
}) => boolean;

export interface TracerOptions {
  readonly sampler: Sampler;
  /** Takes what has ended. Must not throw or block. */
  readonly sink: (span: EndedSpan) => void;
}

/** Headers of a call, read by name in lower case. */
export type ReadHeader = (name: string) => string | undefined;

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const SAMPLED = 1;

/** The place a caller is at; undefined when it says nothing, or nothing valid. */
export function placeFrom(read: ReadHeader): SpanPlace | undefined {
  const match = TRACEPARENT.exec(read("traceparent") ?? "");
  if (match === null) return undefined;
  const [, version = "", traceId = "", spanId = "", flags = "", rest] = match;
  // Version 00 ends here; later ones may go on, ff is none.
  if (version === "ff" || (version === "00" && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  const sampled = (Number.parseInt(flags, 16) & SAMPLED) !== 0;
  return { traceId, spanId, sampled, state: read("tracestate") ?? "", baggage: read("baggage") ?? "" };
}

function randomHex(bytes: number): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(bytes))).toString("hex");
}

const NANOS_PER_MICRO = 1000n;

export class Tracer {
  readonly #options: TracerOptions;

  constructor(options: TracerOptions) {
    this.#options = options;
  }

  /** Begins the first span of a call, below its caller's when that told where it is. */
  start(name: string, read: ReadHeader, options: SpanOptions = {}): Span {
    const clock = Date.now() - performance.now();
    return this.begin({ name, parent: placeFrom(read), clock, options });
  }

  begin(made: {
    readonly name: string;
    readonly parent: SpanPlace | undefined;
    /** Milliseconds from the process' clock to 1970: one figure for all spans that begin here, so that they fit together. */
    readonly clock: number;
    readonly options: SpanOptions;
  }): Span {
    const { name, parent, clock, options } = made;
    const traceId = parent?.traceId ?? randomHex(16);
    const place: SpanPlace = {
      traceId,
      spanId: randomHex(8),
      sampled: this.#options.sampler({ parent, traceId, name }),
      state: parent?.state ?? "",
      baggage: parent?.baggage ?? "",
    };
    return new LiveSpan({
      name,
      place,
      parentId: parent?.spanId ?? "",
      clock,
      options,
      tracer: this,
      sink: this.#options.sink,
    });
  }
}

interface LiveSpanOptions {
  readonly name: string;
  readonly place: SpanPlace;
  readonly parentId: string;
  readonly clock: number;
  readonly options: SpanOptions;
  readonly tracer: Tracer;
  readonly sink: (span: EndedSpan) => void;
}

/** Events a span may have; the default limit of OpenTelemetry. */
const MAX_EVENTS = 128;

class LiveSpan implements Span {
  readonly #made: LiveSpanOptions;
  readonly #start: bigint;
  readonly #events: SpanEvent[] = [];
  #attributes: SpanAttributes;
  #ended = false;

  constructor(made: LiveSpanOptions) {
    this.#made = made;
    this.#attributes = made.options.attributes ?? {};
    this.#start = this.#now();
  }

  get traceId(): string {
    return this.#made.place.traceId;
  }

  child(name: string, options: SpanOptions = {}): Span {
    const { tracer, place, clock } = this.#made;
    return tracer.begin({ name, parent: place, clock, options });
  }

  set(attributes: SpanAttributes): void {
    if (this.#made.place.sampled) this.#attributes = { ...this.#attributes, ...attributes };
  }

  event(name: string, attributes: SpanAttributes = {}): void {
    if (!this.#made.place.sampled || this.#ended || this.#events.length >= MAX_EVENTS) return;
    this.#events.push({ time: this.#now(), name, attributes });
  }

  headers(): Readonly<Record<string, string>> {
    const { traceId, spanId, sampled, state, baggage } = this.#made.place;
    return {
      traceparent: `00-${traceId}-${spanId}-${sampled ? "01" : "00"}`,
      ...(state === "" ? {} : { tracestate: state }),
      ...(baggage === "" ? {} : { baggage }),
    };
  }

  end(error?: unknown): void {
    const { place, parentId, name, options, sink } = this.#made;
    if (this.#ended || !place.sampled) return;
    const kind = options.kind ?? "internal";
    if (error !== undefined && kind === "internal") {
      const type = error instanceof Error ? error.constructor.name : typeof error;
      this.event("exception", { "exception.type": type, "exception.message": messageOf(error) });
    }
    this.#ended = true;
    sink({
      place,
      parentId,
      name,
      kind,
      start: this.#start,
      end: this.#now(),
      attributes: this.#attributes,
      events: this.#events,
      ...(error === undefined ? {} : { error: messageOf(error) }),
    });
  }

  #now(): bigint {
    return BigInt(Math.round((this.#made.clock + performance.now()) * 1000)) * NANOS_PER_MICRO;
  }
}
