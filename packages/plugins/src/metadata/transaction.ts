import type { Database } from "bun:sqlite";
import type { Collection } from "./collection.ts";
import type { EventRow, LogMemory } from "./procedures/events.ts";

/** What a procedure has in hand: the write connection inside a transaction, and what the writer keeps in memory. */
export interface Transaction {
  readonly db: Database;
  /** Microseconds since the epoch, the same for all calls of a batch. */
  readonly now: number;
  /** Marks, pins and sweeps of garbage collection. Writes report the objects they name to it. */
  readonly collection: Collection;
  /** What may be lost with the process without harm. */
  readonly memory: WriterMemory;
  /** Events recorded by the batch so far. */
  readonly appended: EventRow[];
  /** Says that this call may have left garbage. */
  dirty(): void;
}

export interface WriterMemory {
  /** Highest snapshot id given to each backend, recorded or not. */
  readonly reservedIds: Map<string, number>;
  /** Numbers of a sequence that are reserved in the file but not given yet. */
  readonly blocks: Map<string, { next: number; end: number }>;
  /** The event log's bounds and what is in it. */
  readonly events: LogMemory;
}

/** A time after `previous`: clients compare the two. */
export function later(previous: number, now: number): number {
  return now > previous ? now : previous + 1;
}
