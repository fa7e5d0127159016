import type { RequestContext } from "@stevedore/base";
import type { AnyValue } from "./events.ts";

/** Messages in both directions between a client and a call of it elsewhere, in order. Any values stay bytes. */
export interface MessageStream {
  /**
   * Hands a message to the other side; resolves when there is room for the next, so waiting for it is the back-pressure.
   * Calls may overlap; their messages go in the order of the calls.
   *
   * @throws unavailable when the stream has ended on either side.
   */
  send(message: AnyValue): Promise<void>;
  /**
   * The next message; undefined when the other side has said that none follows, and when the stream is closed. Calls must
   * not overlap.
   *
   * @throws canceled or unavailable when the other side is gone
   */
  receive(): Promise<AnyValue | undefined>;
  /** Ends the stream for both sides after what was sent is delivered. May be called twice. */
  close(): void;
  /** Resolves when the carrier has taken everything that was sent before {@link close}, or takes nothing any more. */
  drained(): Promise<void>;
}

/** Streams that clients have registered, by namespace and name, for calls of theirs that name them. */
export interface StreamManager {
  /**
   * Makes a stream known until it is closed. A stream of a context with a lease ends with the lease.
   *
   * @returns what takes it out again without closing it; done by closing as well.
   * @throws already-exists for a name that is taken; resource-exhausted above the limit of streams.
   */
  register(context: RequestContext, name: string, stream: MessageStream): Disposable;
  /** @throws not-found */
  get(context: RequestContext, name: string): MessageStream;
}
