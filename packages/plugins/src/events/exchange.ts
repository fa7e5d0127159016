import {
  classified,
  createLogger,
  type Logger,
  type RequestContext,
  requireNamespace,
  withContext,
} from "@stevedore/base";
import { momentOf, nanosOf, nowMs } from "@stevedore/base/moment";
import {
  type AnyValue,
  type Envelope,
  type EventExchange,
  type FieldOf,
  goQuote,
  parseFilters,
  validateIdentifier,
} from "@stevedore/core";

/** Events a subscriber may be behind by. A burst of container starts makes some hundred a second. */
const DEFAULT_QUEUE_LENGTH = 16_384;
/** Bytes of payload a subscriber may be behind by: events carry whole specs at worst. */
const DEFAULT_QUEUE_BYTES = 64 * 1024 * 1024;

export interface EventExchangeOptions {
  /**
   * The value at a path inside an event's own message, for filters like `event.container_id==x`; undefined if there is
   * none. Decoding is not the exchange's business.
   */
  readonly eventField?: FieldOf<Envelope>;
  readonly log?: Logger;
  readonly queueLength?: number;
  readonly queueBytes?: number;
}

/** An exchange in memory: publishers never wait, subscribers get all events in the order they were announced. */
export function createEventExchange(options: EventExchangeOptions = {}): EventExchange {
  return new MemoryEventExchange(options);
}

class MemoryEventExchange implements EventExchange {
  readonly #options: EventExchangeOptions;
  readonly #log: Logger;
  readonly #subscribers = new Set<Subscriber>();
  #lastMs = 0;
  #sequence = 0;

  constructor(options: EventExchangeOptions) {
    this.#options = options;
    this.#log = options.log ?? createLogger();
  }

  async publish(context: RequestContext, topic: string, event: AnyValue): Promise<void> {
    await Promise.resolve();
    let namespace: string;
    try {
      namespace = requireNamespace(context);
      validateIdentifier(namespace);
    } catch (error) {
      throw withContext("failed publishing event", error);
    }
    validateTopic(topic);
    if (event.typeUrl === "") {
      throw classified("invalid-argument", `event of topic ${goQuote(topic)} has no type URL: invalid argument`);
    }
    const { timestamp, nanos } = this.#now();
    this.#announce({ timestamp, nanos, namespace, topic, event });
  }

  async forward(_context: RequestContext, envelope: Envelope): Promise<void> {
    await Promise.resolve();
    try {
      validateIdentifier(envelope.namespace);
    } catch (error) {
      throw withContext("event envelope has invalid namespace", error);
    }
    validateTopic(envelope.topic);
    const { timestamp } = envelope;
    // The zero time of Go, which clients send for "not set", and the wire's own zero.
    if (Number.isNaN(timestamp.getTime()) || (timestamp.getTime() <= 0 && envelope.nanos === 0)) {
      throw classified("invalid-argument", "timestamp must be set on forwarded event: invalid argument");
    }
    this.#announce(envelope);
  }

  subscribe(context: RequestContext, filters: readonly string[]): AsyncIterable<Envelope> {
    let filter: ReturnType<typeof parseFilters>;
    try {
      filter = parseFilters(filters);
    } catch (error) {
      throw withContext("failed parsing subscription filters", error);
    }
    const fieldOf = (envelope: Envelope, path: readonly string[]): string | undefined => this.#field(envelope, path);
    const subscriber = new Subscriber({
      matches: (envelope) => filter(envelope, fieldOf),
      signal: context.signal,
      maxLength: this.#options.queueLength ?? DEFAULT_QUEUE_LENGTH,
      maxBytes: this.#options.queueBytes ?? DEFAULT_QUEUE_BYTES,
      remove: () => this.#subscribers.delete(subscriber),
    });
    if (!context.signal.aborted) this.#subscribers.add(subscriber);
    return subscriber;
  }

  #announce(envelope: Envelope): void {
    this.#log.trace("event published", {
      ns: envelope.namespace,
      topic: envelope.topic,
      type: envelope.event.typeUrl,
    });
    if (this.#subscribers.size === 0) return;
    const { event } = envelope;
    // A view into a network buffer would keep all of that alive while it waits.
    const own =
      event.value.byteLength === event.value.buffer.byteLength
        ? envelope
        : { ...envelope, event: { typeUrl: event.typeUrl, value: event.value.slice() } };
    for (const subscriber of this.#subscribers) subscriber.offer(own);
  }

  #field(envelope: Envelope, path: readonly string[]): string | undefined {
    const [first, ...rest] = path;
    if (first === "namespace") return envelope.namespace === "" ? undefined : envelope.namespace;
    if (first === "topic") return envelope.topic;
    return first === "event" ? this.#options.eventField?.(envelope, rest) : undefined;
  }

  /** Times are told apart within a microsecond by counting, so that sorting by time keeps the order. */
  #now(): { timestamp: Date; nanos: number } {
    const ms = Math.max(nowMs(), this.#lastMs);
    this.#sequence = ms === this.#lastMs ? this.#sequence + 1 : 0;
    this.#lastMs = ms;
    const timestamp = momentOf(ms);
    return { timestamp, nanos: nanosOf(timestamp) + Math.min(this.#sequence, 999) };
  }
}

interface SubscriberOptions {
  readonly matches: (envelope: Envelope) => boolean;
  readonly signal: AbortSignal;
  readonly maxLength: number;
  readonly maxBytes: number;
  readonly remove: () => void;
}

/** One subscription: it collects from its making on, and is read once. */
class Subscriber implements AsyncIterable<Envelope> {
  readonly #options: SubscriberOptions;
  readonly #queue: Envelope[] = [];
  #read = 0;
  #bytes = 0;
  #wake: (() => void) | undefined;
  #failure: Error | undefined;
  #ended = false;
  readonly #onAbort = (): void => this.#end(undefined);

  constructor(options: SubscriberOptions) {
    this.#options = options;
    if (options.signal.aborted) this.#ended = true;
    else options.signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  offer(envelope: Envelope): void {
    if (this.#ended || !this.#options.matches(envelope)) return;
    const waiting = this.#queue.length - this.#read;
    this.#bytes += envelope.event.value.byteLength;
    if (waiting >= this.#options.maxLength || this.#bytes > this.#options.maxBytes) {
      this.#end(
        classified("resource-exhausted", `event subscriber fell behind by ${waiting} events: resource exhausted`),
      );
      return;
    }
    this.#queue.push(envelope);
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Envelope> {
    try {
      for (;;) {
        const next = this.#take();
        if (next !== undefined) yield next;
        else if (this.#ended) break;
        else await this.#arrival();
      }
      if (this.#failure !== undefined) throw this.#failure;
    } finally {
      this.#end(undefined);
    }
  }

  #take(): Envelope | undefined {
    const envelope = this.#queue[this.#read];
    if (envelope === undefined) return undefined;
    this.#read++;
    this.#bytes -= envelope.event.value.byteLength;
    if (this.#read === this.#queue.length || this.#read >= 1024) {
      this.#queue.splice(0, this.#read);
      this.#read = 0;
    }
    return envelope;
  }

  async #arrival(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
    this.#wake = undefined;
  }

  #end(failure: Error | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#failure = failure;
    // What was taken in before still comes, except when the reader itself left.
    if (failure === undefined) this.#queue.length = this.#read;
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    this.#options.remove();
    this.#wake?.();
  }
}

function validateTopic(topic: string): void {
  const fail = (why: string): never => {
    throw classified("invalid-argument", `envelope topic ${goQuote(topic)}: ${why}: invalid argument`);
  };
  if (topic === "") fail("must not be empty");
  if (!topic.startsWith("/")) fail("must start with '/'");
  if (topic.length === 1) fail("must have at least one component");
  for (const component of topic.slice(1).split("/")) {
    try {
      validateIdentifier(component);
    } catch (error) {
      throw withContext(
        `envelope topic ${goQuote(topic)}`,
        withContext(`failed validation on component ${goQuote(component)}`, error),
      );
    }
  }
}
