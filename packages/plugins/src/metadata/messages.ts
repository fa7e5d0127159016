import { CLASS_TEXT, ClassifiedError, type ErrorClass, errorClassOf, messageOf } from "@stevedore/base";
import type { Removed } from "./collection.ts";
import type { ChangeEvent, EventLimits, EventRow } from "./procedures/events.ts";
import { isProcedureName, type ProcedureArgs, type ProcedureName } from "./procedures.ts";

/** What the loop and the writer thread send each other. Both are this program; shapes are checked, contents are not. */

export type Call = {
  readonly [K in ProcedureName]: {
    readonly name: K;
    readonly args: ProcedureArgs<K>;
    /** An event that tells of the change, recorded with it. */
    readonly event?: ChangeEvent;
  };
}[ProcedureName];

export type ToWriter =
  | { readonly kind: "open"; readonly path: string; readonly sliceMs: number; readonly noSync: boolean }
  | { readonly kind: "log-limits"; readonly limits: EventLimits }
  | { readonly kind: "batch"; readonly id: number; readonly calls: readonly Call[] }
  | { readonly kind: "collect" }
  | { readonly kind: "close" };

/** A failure as data: errors do not keep their class across threads. */
export interface Failure {
  readonly errorClass: ErrorClass;
  readonly message: string;
}

export type Outcome = { readonly value: unknown } | { readonly failure: Failure };

/** What was found wrong with a file at open, and what became of it. */
export interface DamageReport {
  /** Where the damaged file is kept. */
  readonly quarantined: string;
  readonly reason: string;
  /** Rows that could be read from it, by table, and are in the new file. */
  readonly kept: Readonly<Record<string, number>>;
  /** Tables that could not be read to their end. */
  readonly lost: readonly string[];
}

export type FromWriter =
  | { readonly kind: "opened"; readonly created: boolean; readonly damage?: DamageReport }
  | { readonly kind: "failed"; readonly failure: Failure }
  | {
      readonly kind: "batch";
      readonly id: number;
      readonly outcomes: readonly Outcome[];
      /** Calls that changed something, and those of them that may have left garbage. */
      readonly mutations: number;
      readonly dirty: number;
      /** Events that were recorded, in order. */
      readonly appended: readonly EventRow[];
    }
  | { readonly kind: "swept"; readonly removed: readonly Removed[] }
  | { readonly kind: "collected"; readonly markMs: number; readonly sweepMs: number }
  | { readonly kind: "collect-failed"; readonly failure: Failure }
  | { readonly kind: "closed" };

const TO_WRITER: ReadonlySet<unknown> = new Set(["open", "log-limits", "batch", "collect", "close"]);
const FROM_WRITER: ReadonlySet<unknown> = new Set([
  "opened",
  "failed",
  "batch",
  "swept",
  "collected",
  "collect-failed",
  "closed",
]);

function kindOf(message: unknown): unknown {
  return typeof message === "object" && message !== null && "kind" in message ? message.kind : undefined;
}

export function isToWriter(message: unknown): message is ToWriter {
  return TO_WRITER.has(kindOf(message));
}

export function isFromWriter(message: unknown): message is FromWriter {
  return FROM_WRITER.has(kindOf(message));
}

export function isKnownCall(call: Call): boolean {
  return isProcedureName(call.name);
}

export function failureOf(error: unknown): Failure {
  const sqlite = sqliteCode(error);
  if (sqlite !== undefined) {
    const errorClass = SQLITE_CLASSES.get(sqlite) ?? "internal";
    return { errorClass, message: `metadata: ${messageOf(error)}: ${CLASS_TEXT[errorClass]}` };
  }
  return { errorClass: errorClassOf(error), message: messageOf(error) };
}

export function errorOf(failure: Failure): ClassifiedError {
  return new ClassifiedError(failure.errorClass, failure.message);
}

/** SQLite's result codes by the class a client should see. Everything else is internal. */
const SQLITE_CLASSES: ReadonlyMap<string, ErrorClass> = new Map([
  ["SQLITE_FULL", "resource-exhausted"],
  ["SQLITE_IOERR", "unavailable"],
  ["SQLITE_READONLY", "failed-precondition"],
  ["SQLITE_CORRUPT", "data-loss"],
  ["SQLITE_NOTADB", "data-loss"],
]);

/** The primary result code of an SQLite error (`SQLITE_IOERR` for `SQLITE_IOERR_WRITE`). */
export function sqliteCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return undefined;
  return /^SQLITE_[A-Z]+/.exec(error.code)?.[0];
}
