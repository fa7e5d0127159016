import { classified } from "./errors.ts";
import type { Span } from "./trace.ts";

/**
 * An event that tells of a change, handed down with the call to the store that makes the change, so that both are
 * recorded in one transaction. A store that takes it tells it; one that does not leaves that to the caller.
 */
export interface Announcement {
  readonly topic: string;
  readonly typeUrl: string;
  /** The event's message, without the fields below. */
  readonly value: Uint8Array;
  /** Fields that only the store knows, as names in its record (a text, or a map of texts), by their number in the message. */
  readonly fields: Readonly<Record<number, string>>;
  /** Called by the store that records the event with its change. */
  take(): void;
}

/**
 * What travels with every call, as one explicit argument: who asks, until when, and under which lease. There is no
 * ambient storage; a function that waits, loops or calls another takes the context and hands it on.
 */
export interface RequestContext {
  /** Ends when the caller gives up, its deadline passes or the daemon stops. Its reason is the error to report. */
  readonly signal: AbortSignal;
  /** The containerd namespace of the call; absent for calls that have none. */
  readonly namespace?: string;
  /** The lease new objects are added to; absent when the caller holds none. */
  readonly lease?: string;
  /** What is to be told of the change that the call makes; absent when the caller tells it, or nobody does. */
  readonly announcement?: Announcement;
  /** Fields for every log line written on behalf of this call. */
  readonly logFields?: Readonly<Record<string, unknown>>;
  /** The span this work belongs to; absent unless tracing is on. */
  readonly span?: Span;
}

const NEVER = new AbortController().signal;

/** A context for work the daemon does on its own behalf: no caller, no deadline. */
export function backgroundContext(fields: Partial<RequestContext> = {}): RequestContext {
  return { signal: NEVER, ...fields };
}

/**
 * The namespace of a call.
 *
 * @throws failed-precondition "namespace is required" when the call named none, as the peer says it.
 */
export function requireNamespace(context: RequestContext): string {
  if (context.namespace === undefined || context.namespace === "") {
    throw classified("failed-precondition", "namespace is required: failed precondition");
  }
  return context.namespace;
}
