/**
 * A byte connection under ttrpc: a unix socket, one direction of a multiplexed socket (NRI), or a pair in memory. It
 * knows nothing of frames.
 */
export interface Carrier {
  /** Begins delivery to `handler`. Called once, by the client or server that takes the carrier over. */
  start(handler: CarrierHandler): void;
  /**
   * Takes all of `bytes`, which it owns from here. Returns undefined when it is ready for more, else a promise that
   * settles when it is; the promise never rejects, not even when the connection ends.
   */
  write(bytes: Uint8Array): Promise<void> | undefined;
  /** Stops delivery, so that the other side's writes wait. What was read before may still arrive. */
  pause(): void;
  resume(): void;
  /** Sends what was written, then closes. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
  /** Who is at the other end, where the kernel tells; asked once, at the start. */
  readonly peer: PeerCredentials;
}

/** What a carrier tells its owner. Neither function may throw. */
export interface CarrierHandler {
  /** Bytes in order; the array is the handler's to keep. */
  data(bytes: Uint8Array): void;
  /** The connection has ended, for whatever reason. Called once; nothing follows. */
  closed(cause?: Error): void;
}

/** The other process by SO_PEERCRED; empty where that is not known. */
export interface PeerCredentials {
  readonly uid?: number;
  readonly gid?: number;
  readonly pid?: number;
}
