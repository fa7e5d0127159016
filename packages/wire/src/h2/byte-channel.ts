import type { Peer } from "../rpc/types.ts";

/** A byte connection under HTTP/2: a unix socket, TCP, TLS, or a pair in memory. It knows nothing of frames. */
export interface ByteChannel {
  /** Begins delivery to `handler`. Called once, by the connection that takes the channel over. */
  start(handler: ChannelHandler): void;
  /**
   * Takes as much of `bytes` as fits now and returns how much that was; the rest stays the caller's, and `drained` is
   * called when there is room again. The taken bytes are copied or sent before this returns, so the array may be used
   * anew.
   */
  write(bytes: Uint8Array): number;
  /** Sends what was taken, then closes. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
  /** Who is at the other end, where the kernel tells. */
  readonly peer: Peer;
}

/** What a channel tells its owner. None of these may throw. */
export interface ChannelHandler {
  /** Bytes in order; the array is the handler's to keep. */
  data(bytes: Uint8Array): void;
  /** There is room again after a `write` that took less than all. */
  drained(): void;
  /** The channel has ended, for whatever reason. Called once; nothing follows. */
  closed(cause?: Error): void;
}
