import { microsOf, nowMoment } from "@stevedore/base/moment";
import type { AnyValue, OnceKey } from "@stevedore/core";
import { statement } from "../statement.ts";
import type { Transaction } from "../transaction.ts";

/** What the log may keep at most; the oldest events go first. The newest always stays, so that cursors never come again. */
export interface EventLimits {
  /** 0 for no log. */
  readonly maxEvents: number;
  /** Milliseconds. */
  readonly maxAge: number;
  /** Bytes of payload. */
  readonly maxBytes: number;
}

/** An event that is not stamped by its teller: seconds and nanoseconds are set when it is recorded. */
export interface NewEvent {
  readonly namespace: string;
  readonly topic: string;
  readonly event: AnyValue;
  readonly stamp?: { readonly seconds: number; readonly nanos: number };
  readonly once?: OnceKey;
}

/** An event of a change, with the fields of its message that come out of the change: their names by number. */
export interface ChangeEvent extends NewEvent {
  readonly fields: Readonly<Record<number, string>>;
}

export interface EventRow {
  cursor: number;
  namespace: string;
  topic: string;
  type_url: string;
  value: Uint8Array;
  seconds: number;
  nanos: number;
}

/** What the writer knows of the log without asking the file. */
export interface LogMemory {
  limits: EventLimits;
  /** How much is kept; undefined until it has been counted. */
  counted: { events: number; bytes: number } | undefined;
  /** The last stamp given, so that the order of events is the order of their times. */
  lastMicros: number;
  sequence: number;
  /** When age was looked at last, milliseconds. */
  agedAt: number;
}

export const NO_LOG: LogMemory = {
  limits: { maxEvents: 0, maxAge: 0, maxBytes: 0 },
  counted: undefined,
  lastMicros: 0,
  sequence: 0,
  agedAt: 0,
};

/** Events of a commit that are looked at while trimming: bounds how long a commit may take for it. */
const TRIM_ROWS = 2_048;
/** How far over a limit the log may be before it is trimmed, as a part of the limit: trimming one by one costs a write each. */
const TRIM_SLACK = 1 / 16;
/** How often events are looked at for their age, milliseconds. */
const AGE_EVERY_MS = 60_000;

const insert = statement<
  { cursor: number },
  [number, string, string, string, Uint8Array, number, number, string | null]
>(
  `INSERT INTO events (recorded, namespace, topic, type_url, value, seconds, nanos, once)
   VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING cursor`,
);
const known = statement<{ one: number }, [string]>("SELECT 1 AS one FROM events WHERE once = ?");
const anyWith = statement<{ one: number }, [string, string]>(
  "SELECT 1 AS one FROM events WHERE once >= ? AND once < ? LIMIT 1",
);
const forget = statement<never, [string, string]>("UPDATE events SET once = NULL WHERE once >= ? AND once < ?");

/** Records an event by itself. */
export function appendEvent(tx: Transaction, args: { readonly event: NewEvent }): undefined {
  append(tx, args.event);
}

/** Records what is told of a change that was just made; nothing when it turned out that there was nothing to change. */
export function recordChange(
  tx: Transaction,
  change: ChangeEvent,
  made: { readonly args: object; readonly result: unknown },
): void {
  if (fieldOf(made.result, "existed") === true) return;
  const parts = [change.event.value];
  for (const [number, name] of Object.entries(change.fields)) {
    parts.push(encodeField(Number(number), fieldOf(made.result, name) ?? fieldOf(made.args, name)));
  }
  const event = { typeUrl: change.event.typeUrl, value: new Uint8Array(Buffer.concat(parts)) };
  append(tx, { namespace: change.namespace, topic: change.topic, event });
}

function append(tx: Transaction, { namespace, topic, event, stamp, once }: NewEvent): void {
  if (tx.memory.events.limits.maxEvents === 0) return;
  if (once !== undefined && isRepeated(tx, once)) return;
  const { seconds, nanos } = stamp ?? stampNow(tx.memory.events);
  const recorded = Math.floor(tx.now / 1_000);
  const { typeUrl, value } = event;
  const row = insert(tx.db).get(recorded, namespace, topic, typeUrl, value, seconds, nanos, once?.key ?? null);
  if (row === null) throw new Error(`record event ${topic}: no row was made`);
  tx.appended.push({ cursor: row.cursor, namespace, topic, type_url: typeUrl, value, seconds, nanos });
}

/** Whether the event was recorded before; the beginning of a new life forgets the one before. */
function isRepeated(tx: Transaction, { key, begins }: OnceKey): boolean {
  const isKnown = known(tx.db).get(key) !== null;
  if (begins === undefined) return isKnown;
  if (isKnown && anyWith(tx.db).get(begins.ended, after(begins.ended)) === null) return true;
  forget(tx.db).run(begins.prefix, after(begins.prefix));
  return false;
}

/** The first text behind all that begin with a prefix. */
function after(prefix: string): string {
  const last = prefix.length - 1;
  return prefix.slice(0, last) + String.fromCharCode(prefix.charCodeAt(last) + 1);
}

/** Times are told apart within a microsecond by counting, so that sorting by time keeps the order. */
function stampNow(memory: LogMemory): { seconds: number; nanos: number } {
  const micros = Math.max(microsOf(nowMoment()), memory.lastMicros);
  memory.sequence = micros === memory.lastMicros ? Math.min(memory.sequence + 1, 999) : 0;
  memory.lastMicros = micros;
  const seconds = Math.floor(micros / 1_000_000);
  return { seconds, nanos: (micros - seconds * 1_000_000) * 1_000 + memory.sequence };
}

const count = statement<{ events: number; bytes: number }, []>(
  "SELECT count(*) AS events, coalesce(sum(length(value)), 0) AS bytes FROM events",
);
const oldest = statement<{ cursor: number; recorded: number; bytes: number }, [number]>(
  `SELECT cursor, recorded, length(value) AS bytes FROM events
   WHERE cursor < (SELECT max(cursor) FROM events) ORDER BY cursor LIMIT ?`,
);
const drop = statement<never, [number]>("DELETE FROM events WHERE cursor <= ?");

/** Takes the oldest events out as far as the limits ask. Called in the transaction that added some. */
export function trimEvents(tx: Transaction): void {
  const memory = tx.memory.events;
  const { limits } = memory;
  if (memory.counted === undefined) memory.counted = count(tx.db).get() ?? { events: 0, bytes: 0 };
  else {
    memory.counted.events += tx.appended.length;
    memory.counted.bytes += tx.appended.reduce((sum, { value }) => sum + value.byteLength, 0);
  }
  const { counted } = memory;
  const now = Math.floor(tx.now / 1_000);
  const aged = now - memory.agedAt >= AGE_EVERY_MS;
  const over = (kept: number, limit: number): boolean => kept > limit + Math.floor(limit * TRIM_SLACK);
  if (!aged && !over(counted.events, limits.maxEvents) && !over(counted.bytes, limits.maxBytes)) return;
  let last = 0;
  let looked = 0;
  for (const row of oldest(tx.db).all(TRIM_ROWS)) {
    const keeps =
      counted.events <= limits.maxEvents && counted.bytes <= limits.maxBytes && now - row.recorded <= limits.maxAge;
    if (keeps) break;
    last = row.cursor;
    counted.events -= 1;
    counted.bytes -= row.bytes;
    looked += 1;
  }
  // What is left over its age goes with the next event.
  if (looked < TRIM_ROWS) memory.agedAt = now;
  if (last > 0) drop(tx.db).run(last);
}

function fieldOf(record: unknown, name: string): unknown {
  return typeof record === "object" && record !== null && Object.hasOwn(record, name)
    ? Reflect.get(record, name)
    : undefined;
}

/** Wire type of what carries its length, in a tag of protobuf. */
const LENGTH_DELIMITED = 2;

/** A text, or a map of texts, as a field of a message; nothing for "" and what is neither. */
function encodeField(number: number, value: unknown): Uint8Array {
  if (typeof value === "string") return value === "" ? new Uint8Array() : delimited(number, Buffer.from(value));
  if (typeof value !== "object" || value === null) return new Uint8Array();
  const entries = Object.entries(value).map(([key, text]) =>
    delimited(number, Buffer.concat([delimited(1, Buffer.from(key)), delimited(2, Buffer.from(String(text)))])),
  );
  return Buffer.concat(entries);
}

function delimited(number: number, bytes: Uint8Array): Uint8Array {
  return Buffer.concat([varint(number * 8 + LENGTH_DELIMITED), varint(bytes.byteLength), bytes]);
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) + 0x80);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}
