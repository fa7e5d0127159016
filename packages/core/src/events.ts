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

/** An event as the log has it. */
export interface LoggedEvent {
  /** Its place: each event's is one more than that of the event before. */
  readonly cursor: number;
  readonly envelope: Envelope;
}

/** Says that an event is to be recorded once, however often it is told. */
export interface OnceKey {
  /** What makes it that event. */
  readonly key: string;
  /**
   * The event begins a life (of a task, of an exec): keys that begin with `prefix` are forgotten, so that the same pid may
   * come again. Not when `key` is known and no known key begins with `ended`: then it is the same beginning, told twice.
   */
  readonly begins?: { readonly prefix: string; readonly ended: string };
}

/** An event on its way into the log. Without a timestamp the log stamps it. */
export interface PendingEvent {
  readonly namespace: string;
  readonly topic: string;
  readonly event: AnyValue;
  readonly stamp?: { readonly timestamp: Date; readonly nanos: number };
  readonly once?: OnceKey;
}

/** The durable log of events: bounded, in the order in which events were told. */
export interface EventLog {
  /** Names this log; a log that had to begin anew has another name. */
  readonly id: string;
  /**
   * Records an event, and hands it to the listeners before this resolves. One with a known once key is neither recorded
   * nor handed on.
   */
  append(event: PendingEvent): Promise<void>;
  /** Called with what was recorded, in order, also by changes of the store that tell their own events. */
  onAppend(listener: (events: readonly LoggedEvent[]) => void): Disposable;
  /** Events after a cursor, oldest first, at most so many and at most about 1 MiB of payload. Empty at the end. */
  read(after: number, limit: number): readonly LoggedEvent[];
  /** Cursors of the oldest and the newest event that is kept; newest 0 and oldest 1 for an empty log. */
  bounds(): { readonly oldest: number; readonly newest: number };
  /** The cursor after which the events recorded at that time or later are. */
  before(time: Date): number;
}

/** Where a replay begins: after a cursor, at a time, or with the oldest event that is kept. */
export type ReplayStart =
  | { readonly kind: "after"; readonly cursor: string }
  | { readonly kind: "since"; readonly time: Date }
  | { readonly kind: "oldest" };

/** An event of a replay, with the cursor after which the next one is. */
export interface ReplayedEvent {
  readonly cursor: string;
  readonly envelope: Envelope;
}

/** What the log holds, as its readers see it. */
export interface HistoryInfo {
  /** The cursor to read from for all that is kept, and the one of the newest event. */
  readonly oldest: string;
  readonly newest: string;
}

/** Events that were told earlier. */
export interface EventHistory {
  info(context: RequestContext): Promise<HistoryInfo>;
  /**
   * Events from a start on that match any of the filters, oldest first; with `follow` it goes on with what comes. A
   * reader that is slow reads from the log: it misses nothing and makes nobody wait.
   * @throws invalid-argument for a cursor or filter that does not parse; out-of-range for a cursor whose next event is not
   * kept any more, or that is of another log
   */
  replay(
    context: RequestContext,
    options: { readonly from: ReplayStart; readonly filters: readonly string[]; readonly follow: boolean },
  ): AsyncIterable<ReplayedEvent>;
}

/**
 * Events announce what happened; nobody waits on one to know what to do next, except for task exit.
 *
 * A subscriber that does not keep up reads on from the log; it never slows the publisher or other subscribers. Without a
 * log, or when that no longer has what it missed, it is ended with `resource-exhausted`.
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
