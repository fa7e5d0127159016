import {
  classified,
  createLogger,
  type Logger,
  messageOf,
  type RequestContext,
  requireNamespace,
  withContext,
} from "@stevedore/base";
import { momentOf, nanosOf, nowMs } from "@stevedore/base/moment";
import {
  type AnyValue,
  type Envelope,
  type EventExchange,
  type EventHistory,
  type EventLog,
  type FieldOf,
  goQuote,
  type HistoryInfo,
  type OnceKey,
  type PendingEvent,
  parseFilters,
  type ReplayedEvent,
  type ReplayStart,
  validateIdentifier,
} from "@stevedore/core";
import { Subscription } from "./subscription.ts";
import { type Bounds, EventTail } from "./tail.ts";

/** With a log: what is in memory for subscribers that keep up. A burst of container starts makes some hundred events a second. */
const TAIL_WITH_LOG: Bounds = { events: 1_024, bytes: 4 * 1024 * 1024 };
/** Without a log this is as far as a subscriber may be behind. Events carry whole specs at worst. */
const TAIL_ALONE: Bounds = { events: 16_384, bytes: 64 * 1024 * 1024 };

export interface EventExchangeOptions {
  /**
   * The value at a path inside an event's own message, for filters like `event.container_id==x`; undefined if there is
   * none. Decoding is not the exchange's business.
   */
  readonly eventField?: FieldOf<Envelope>;
  /** Says which forwarded events are told once however often a shim repeats them. */
  readonly onceKey?: (envelope: Envelope) => OnceKey | undefined;
  /** Where events are recorded before anybody hears of them; absent: they are in memory only. */
  readonly eventLog?: EventLog;
  readonly log?: Logger;
  /** How much of the newest is in memory. */
  readonly tail?: Bounds;
}

/**
 * An exchange: publishers wait until their event is recorded and for nobody's reading, subscribers get all events in the
 * order of the log. Its history is that of the log.
 */
export function createEventExchange(options: EventExchangeOptions = {}): EventExchange & EventHistory {
  return new Exchange(options);
}

class Exchange implements EventExchange, EventHistory {
  readonly #options: EventExchangeOptions;
  readonly #log: Logger;
  readonly #eventLog: EventLog | undefined;
  readonly #tail: EventTail;
  readonly #subscriptions = new Set<Subscription>();
  #lastMs = 0;
  #sequence = 0;
  #logFails = false;

  constructor(options: EventExchangeOptions) {
    this.#options = options;
    this.#log = options.log ?? createLogger();
    const { eventLog } = options;
    this.#eventLog = eventLog;
    this.#tail = new EventTail(options.tail ?? (eventLog === undefined ? TAIL_ALONE : TAIL_WITH_LOG));
    eventLog?.onAppend((events) => {
      for (const { cursor, envelope } of events) this.#deliver(envelope, cursor);
    });
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
    await this.#announce({ namespace, topic, event });
  }

  async forward(_context: RequestContext, envelope: Envelope): Promise<void> {
    await Promise.resolve();
    try {
      validateIdentifier(envelope.namespace);
    } catch (error) {
      throw withContext("event envelope has invalid namespace", error);
    }
    validateTopic(envelope.topic);
    const { timestamp, nanos, namespace, topic, event } = envelope;
    // The zero time of Go, which clients send for "not set", and the wire's own zero.
    if (Number.isNaN(timestamp.getTime()) || (timestamp.getTime() <= 0 && nanos === 0)) {
      throw classified("invalid-argument", "timestamp must be set on forwarded event: invalid argument");
    }
    const once = this.#options.onceKey?.(envelope);
    await this.#announce({
      namespace,
      topic,
      event,
      stamp: { timestamp, nanos },
      ...(once === undefined ? {} : { once }),
    });
  }

  subscribe(context: RequestContext, filters: readonly string[]): AsyncIterable<Envelope> {
    return envelopesOf(this.#subscribe(context, filters, { follow: true }));
  }

  async info(_context: RequestContext): Promise<HistoryInfo> {
    await Promise.resolve();
    const eventLog = this.#history();
    const { oldest, newest } = eventLog.bounds();
    return { oldest: cursorText(eventLog, oldest - 1), newest: cursorText(eventLog, newest) };
  }

  async *replay(
    context: RequestContext,
    {
      from,
      filters,
      follow,
    }: { readonly from: ReplayStart; readonly filters: readonly string[]; readonly follow: boolean },
  ): AsyncGenerator<ReplayedEvent> {
    const eventLog = this.#history();
    const after = startOf(eventLog, from);
    const earliest = from.kind === "since" ? from.time.getTime() : Number.NEGATIVE_INFINITY;
    for await (const { cursor, envelope } of this.#subscribe(context, filters, { follow, after })) {
      if (cursor === undefined || envelope.timestamp.getTime() < earliest) continue;
      yield { cursor: cursorText(eventLog, cursor), envelope };
    }
  }

  #history(): EventLog {
    if (this.#eventLog !== undefined) return this.#eventLog;
    throw classified(
      "not-implemented",
      "this daemon keeps no event log (max_events is 0, or the plugin is disabled): not implemented",
    );
  }

  #subscribe(
    context: RequestContext,
    filters: readonly string[],
    { follow, after }: { readonly follow: boolean; readonly after?: number },
  ): Subscription {
    let filter: ReturnType<typeof parseFilters>;
    try {
      filter = parseFilters(filters);
    } catch (error) {
      throw withContext("failed parsing subscription filters", error);
    }
    const fieldOf = (envelope: Envelope, path: readonly string[]): string | undefined => this.#field(envelope, path);
    const subscription = new Subscription({
      tail: this.#tail,
      eventLog: this.#eventLog,
      matches: (envelope) => filter(envelope, fieldOf),
      signal: context.signal,
      follow,
      after,
      remove: () => this.#subscriptions.delete(subscription),
    });
    if (!context.signal.aborted) this.#subscriptions.add(subscription);
    return subscription;
  }

  async #announce(pending: PendingEvent): Promise<void> {
    if (this.#eventLog !== undefined) {
      try {
        await this.#eventLog.append(pending);
        this.#logFails = false;
        return;
      } catch (error) {
        // A full disk must not keep exits from those who wait for them. Said once, not with each event.
        if (!this.#logFails) this.#log.error("events are not recorded", { error: messageOf(error) });
        this.#logFails = true;
      }
    }
    const { namespace, topic, event } = pending;
    const { timestamp, nanos } = pending.stamp ?? this.#now();
    // A view into a network buffer would keep all of that alive while it waits.
    const own =
      event.value.byteLength === event.value.buffer.byteLength
        ? event
        : { typeUrl: event.typeUrl, value: event.value.slice() };
    this.#deliver({ timestamp, nanos, namespace, topic, event: own }, undefined);
  }

  #deliver(envelope: Envelope, cursor: number | undefined): void {
    const { namespace: ns, topic, event } = envelope;
    this.#log.trace("event published", { ns, topic, type: event.typeUrl });
    this.#tail.push({ envelope, cursor });
    for (const subscription of this.#subscriptions) subscription.wake();
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

async function* envelopesOf(subscription: Subscription): AsyncGenerator<Envelope> {
  for await (const { envelope } of subscription) yield envelope;
}

/** A cursor as clients see it: the log's name and the place. */
function cursorText({ id }: EventLog, cursor: number): string {
  return `${id}-${cursor}`;
}

/** The place after which a replay begins. @throws invalid-argument, out-of-range */
function startOf(eventLog: EventLog, from: ReplayStart): number {
  const { oldest, newest } = eventLog.bounds();
  switch (from.kind) {
    case "oldest":
      return oldest - 1;
    case "since":
      return eventLog.before(from.time);
    case "after": {
      const [, id = "", digits = ""] = /^([0-9a-f]+)-(\d{1,15})$/.exec(from.cursor) ?? [];
      if (digits === "") {
        throw classified(
          "invalid-argument",
          `read events after ${goQuote(from.cursor)}: no cursor, which looks like ${goQuote(cursorText(eventLog, newest))}: invalid argument`,
        );
      }
      const after = Number(digits);
      if (id !== eventLog.id || after > newest) {
        throw classified(
          "out-of-range",
          `read events after ${goQuote(from.cursor)}: it is of another log than this daemon's, ${goQuote(eventLog.id)}; read from a time instead: out of range`,
        );
      }
      if (after < oldest - 1) {
        throw classified(
          "out-of-range",
          `read events after ${goQuote(from.cursor)}: the next events are not kept any more; the oldest come after ${goQuote(cursorText(eventLog, oldest - 1))}: out of range`,
        );
      }
      return after;
    }
    default:
      return from satisfies never;
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
