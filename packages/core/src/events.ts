import type { RequestContext } from "@stevedore/base";

/** A protobuf Any whose bytes are kept as they came. */
export interface AnyValue {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** An event with where and when it happened. The payload is opaque here. */
export interface Envelope {
  readonly timestamp: Date;
  /** Nanoseconds within the second of {@link timestamp}, since a Date only holds milliseconds. */
  readonly nanos: number;
  readonly namespace: string;
  /** Path-like, starts with "/": `/tasks/start`. */
  readonly topic: string;
  readonly event: AnyValue;
}

/**
 * Events announce what happened; nobody waits on one to know what to do next, except for task exit.
 *
 * A subscriber that does not keep up is ended with `resource-exhausted` once its queue is full; it never slows the
 * publisher or other subscribers.
 */
export interface EventExchange {
  /**
   * Announces an event in the context's namespace, stamped now.
   * @throws invalid-argument for a topic that is not `/a/b` or an empty type URL; failed-precondition without namespace.
   */
  publish(context: RequestContext, topic: string, event: AnyValue): Promise<void>;
  /**
   * Announces an event that already has its envelope (from a shim or another daemon).
   * @throws invalid-argument if the envelope is incomplete.
   */
  forward(context: RequestContext, envelope: Envelope): Promise<void>;
  /**
   * All events from now on that match any of the filters (containerd's filter grammar over topic, namespace and event
   * fields); without filters, all. The subscription exists when this returns, before the first `next()`.
   * Ends when the context's signal does.
   * @throws invalid-argument for a filter that does not parse.
   */
  subscribe(context: RequestContext, filters: readonly string[]): AsyncIterable<Envelope>;
}
