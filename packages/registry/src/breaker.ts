import type { HostFailure } from "./failure.ts";
import type { RegistryLimits } from "./limits.ts";

/** What is remembered of one host's failures. */
export interface BreakerState {
  /** Failures since the last answer. */
  readonly failures: number;
  /** Whether the host is passed over while others are left. */
  readonly open: boolean;
  /** Milliseconds of the clock until it is tried again; 0 when it is not open. */
  readonly until: number;
  /** The last failure, also when answers came since. */
  readonly last?: { readonly failure: HostFailure; readonly at: number };
}

interface Entry {
  failures: number;
  until: number;
  /** Length of the next time it stays open. */
  pauseMs: number;
  last?: { readonly failure: HostFailure; readonly at: number };
}

const CLOSED: BreakerState = { failures: 0, open: false, until: 0 };
/** Hosts that are remembered. */
const MAX_ENTRIES = 256;

/**
 * A circuit breaker per host, so that a dead mirror costs its time-out once and not once per blob. An open one only
 * means that others go first: when no other host serves, the host is tried all the same.
 */
export class Breakers {
  readonly #limits: RegistryLimits;
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();

  constructor(limits: RegistryLimits, now: () => number) {
    this.#limits = limits;
    this.#now = now;
  }

  state(endpoint: string): BreakerState {
    const entry = this.#entries.get(endpoint);
    if (entry === undefined) return CLOSED;
    const { failures, until, last } = entry;
    const open = until > this.#now();
    return { failures, open, until: open ? until : 0, ...(last === undefined ? {} : { last }) };
  }

  /** The host answered, whatever it said. */
  answered(endpoint: string): void {
    const entry = this.#entries.get(endpoint);
    if (entry === undefined) return;
    entry.failures = 0;
    entry.until = 0;
    entry.pauseMs = this.#limits.breakerMs;
  }

  /** What it said was no service, or it did not answer. `grave` opens at once: a time-out costs too much to try thrice. */
  failed(endpoint: string, failure: HostFailure, grave: boolean): void {
    const entry = this.#entry(endpoint);
    entry.failures += 1;
    entry.last = { failure, at: this.#now() };
    if (!grave && entry.failures < this.#limits.breakerFailures) return;
    if (entry.until > this.#now()) return;
    entry.until = this.#now() + entry.pauseMs;
    entry.pauseMs = Math.min(entry.pauseMs * 2, this.#limits.breakerMs * 10);
  }

  /** Remembers a failure that says nothing of the host's health: a refusal, a wrong digest. */
  remember(endpoint: string, failure: HostFailure): void {
    this.#entry(endpoint).last = { failure, at: this.#now() };
  }

  #entry(endpoint: string): Entry {
    const known = this.#entries.get(endpoint);
    if (known !== undefined) return known;
    if (this.#entries.size >= MAX_ENTRIES) this.#entries.clear();
    const made: Entry = { failures: 0, until: 0, pauseMs: this.#limits.breakerMs };
    this.#entries.set(endpoint, made);
    return made;
  }
}
