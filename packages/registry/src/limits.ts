/** Bounds of what one registry may cost. Every one can be changed by the caller; the defaults say where they come from. */
export interface RegistryLimits {
  /** Largest manifest or index that is resolved or read, bytes. */
  readonly manifestBytes: number;
  /** Largest body of a list (tags, catalog, referrers), bytes a page. */
  readonly listBytes: number;
  /** Pages of one list that are followed. */
  readonly listPages: number;
  /** Entries of one list in all. */
  readonly listEntries: number;
  /** Bytes of an error's body that are read. */
  readonly errorBytes: number;
  /** Bytes of a response's head. */
  readonly headBytes: number;
  /** Bytes of a token server's answer. */
  readonly tokenBytes: number;
  /** Redirects that one request follows. */
  readonly redirects: number;
  /** Times a request is sent to the last host that is left, the first one included. */
  readonly attempts: number;
  /** First pause before a request is sent again, milliseconds; it doubles each time, with jitter. */
  readonly backoffMs: number;
  /** Longest such pause, milliseconds. */
  readonly backoffMaxMs: number;
  /** Longest Retry-After that is waited for, milliseconds; a longer one ends the attempts at that host. */
  readonly retryAfterMaxMs: number;
  /** Time for name look-up and TCP, milliseconds. */
  readonly dialMs: number;
  /** Time for the TLS handshake, or a proxy's answer to CONNECT, milliseconds. */
  readonly handshakeMs: number;
  /** Time from the end of a request to the head of its answer, milliseconds. */
  readonly answerMs: number;
  /** The same for the request that ends an upload: registries store and hash the blob before they answer. */
  readonly commitMs: number;
  /** A body must bring `stallBytes` in each `stallMs` that the reader spends waiting for it. */
  readonly stallBytes: number;
  readonly stallMs: number;
  /** Times one fetch goes on after a broken body. Attempts without `stallBytes` of progress count against `attempts`. */
  readonly resumes: number;
  /** Connections to one host at a time; more requests wait for one. */
  readonly connections: number;
  /** Time an idle connection is kept, milliseconds. */
  readonly idleMs: number;
  /** Failures in a row that open a host's breaker. One time-out opens it at once. */
  readonly breakerFailures: number;
  /** Time a breaker stays open, milliseconds; it doubles with each failed probe, up to ten times this. */
  readonly breakerMs: number;
}

/** The limits without other wishes. */
export const DEFAULT_LIMITS: RegistryLimits = {
  // containerd's MaxManifestSize, spelled there as 4 * 1048 * 1048.
  manifestBytes: 4 * 1048 * 1048,
  // 1,000 tags of 128 bytes are far below this.
  listBytes: 4 << 20,
  listPages: 1000,
  // The largest public repositories have some 100,000 tags.
  listEntries: 1_000_000,
  errorBytes: 64 << 10,
  // Real heads stay below 8 KiB, signed redirects included.
  headBytes: 64 << 10,
  // Tokens of large organisations reach some 10 KiB.
  tokenBytes: 1 << 20,
  // Go's http client.
  redirects: 10,
  attempts: 5,
  backoffMs: 500,
  backoffMaxMs: 10_000,
  retryAfterMaxMs: 60_000,
  // containerd's transport: 30 s to dial, 10 s for the handshake.
  dialMs: 30_000,
  handshakeMs: 10_000,
  answerMs: 60_000,
  // Users of large layers on S3-backed registries saw minutes.
  commitMs: 600_000,
  // 2 KiB/s: below any usable line, above what a dying one trickles.
  stallBytes: 64 << 10,
  stallMs: 30_000,
  resumes: 1000,
  connections: 64,
  // containerd's transport.
  idleMs: 30_000,
  breakerFailures: 3,
  breakerMs: 30_000,
};
