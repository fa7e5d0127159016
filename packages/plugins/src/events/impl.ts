/** The event exchange: every event of the daemon to every subscriber that wants it, in memory. */
import { classified, createLogger, type Logger, type RequestContext, requireNamespace } from "@stevedore/base";
import type { Envelope, EventExchange } from "@stevedore/core/events";
import { type FieldOf, matcher } from "@stevedore/core/filters";
import { validateIdentifier } from "@stevedore/core/identifiers";

/**
 * Events a subscriber may be behind. A client that reads again after a pause of some seconds on a busy node finds all it
 * missed; one that never reads costs a few MiB at most.
 */
const MAX_QUEUED = 10_000;

export interface EventExchangeOptions {
  /** A field of the event's own message (`event.container_id`), which only those who know the messages can read. */
  readonly eventField: FieldOf<Envelope>;
  readonly log?: Logger;
}

/** Makes an exchange. It holds nothing but its subscribers. */
export function createEventExchange(options: EventExchangeOptions): EventExchange {
  const log = options.log ?? createLogger();
  const subscribers = new Set<Subscriber>();
  const field: FieldOf<Envelope> = (envelope, path) => {
    if (path[0] === "namespace") return present(envelope.namespace);
    if (path[0] === "topic") return present(envelope.topic);
    return path[0] === "event" ? options.eventField(envelope, path.slice(1)) : undefined;
  };
  const send = (envelope: Envelope): void => {
    log.trace("event published", { ns: envelope.namespace, topic: envelope.topic, type: envelope.event.typeUrl });
    for (const subscriber of subscribers) subscriber.offer(envelope);
  };
  return {
    publish: async (context, topic, event) => {
      const namespace = requireNamespace(context);
      const now = Date.now();
      const envelope = { timestamp: new Date(now), nanos: subSecondNanos(now), namespace, topic, event };
      validateEnvelope(envelope);
      send(envelope);
    },
    forward: async (_context, envelope) => {
      validateEnvelope(envelope);
      send(envelope);
    },
    subscribe: (context, filters) => {
      const subscriber = new Subscriber(matcher(filters, field));
      subscribers.add(subscriber);
      return subscription(subscriber, context, () => subscribers.delete(subscriber));
    },
  };
}

function present(value: string): string | undefined {
  return value === "" ? undefined : value;
}

/** Nanoseconds within the second; the clock's own microseconds stand in for what a Date cannot hold. */
function subSecondNanos(nowMs: number): number {
  const micros = Math.floor((performance.timeOrigin + performance.now()) * 1000) % 1000;
  return (nowMs % 1000) * 1_000_000 + Math.max(0, micros) * 1000;
}

/** @throws invalid-argument; failed-precondition for an envelope without namespace */
function validateEnvelope(envelope: Envelope): void {
  try {
    validateIdentifier(envelope.namespace);
  } catch (error) {
    throw classified("invalid-argument", `event envelope has invalid namespace: ${String(error)}`, { cause: error });
  }
  validateTopic(envelope.topic);
  if (envelope.event.typeUrl === "") {
    throw classified("invalid-argument", "envelope.event.type_url must be set: invalid argument");
  }
}

function validateTopic(topic: string): void {
  if (topic === "") throw classified("invalid-argument", "must not be empty: invalid argument");
  if (!topic.startsWith("/"))
    throw classified("invalid-argument", `must start with '/', got ${topic}: invalid argument`);
  if (topic.length === 1) {
    throw classified("invalid-argument", "must have at least one component: invalid argument");
  }
  for (const component of topic.slice(1).split("/")) {
    try {
      validateIdentifier(component);
    } catch (error) {
      throw classified(
        "invalid-argument",
        `failed validation on component ${JSON.stringify(component)}: ${String(error)}`,
        {
          cause: error,
        },
      );
    }
  }
}

class Subscriber {
  readonly #wants: (envelope: Envelope) => boolean;
  readonly #queue: Envelope[] = [];
  #wake: (() => void) | undefined;
  #overflowed = false;

  constructor(wants: (envelope: Envelope) => boolean) {
    this.#wants = wants;
  }

  offer(envelope: Envelope): void {
    if (this.#overflowed || !this.#wants(envelope)) return;
    if (this.#queue.length >= MAX_QUEUED) {
      this.#overflowed = true;
      this.#queue.length = 0;
    } else {
      this.#queue.push(envelope);
    }
    this.wake();
  }

  wake(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  /** The next event, or undefined when there is none yet. @throws resource-exhausted after an overflow */
  take(): Envelope | undefined {
    if (this.#overflowed) {
      throw classified("resource-exhausted", `subscriber is more than ${MAX_QUEUED} events behind: resource exhausted`);
    }
    return this.#queue.shift();
  }

  async waiting(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    return promise;
  }
}

async function* subscription(
  subscriber: Subscriber,
  { signal }: RequestContext,
  leave: () => void,
): AsyncGenerator<Envelope> {
  const wake = (): void => subscriber.wake();
  signal.addEventListener("abort", wake, { once: true });
  try {
    while (!signal.aborted) {
      const next = subscriber.take();
      if (next === undefined) await subscriber.waiting();
      else yield next;
    }
  } finally {
    signal.removeEventListener("abort", wake);
    leave();
  }
}
