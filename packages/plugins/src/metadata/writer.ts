import { Database } from "bun:sqlite";
import { existsSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { classified, messageOf } from "@stevedore/base";
import { microsOf, nowMoment } from "@stevedore/base/moment";
import { Collection, type Removed } from "./collection.ts";
import { type Call, type DamageReport, failureOf, isKnownCall, type Outcome, sqliteCode } from "./messages.ts";
import { type EventLimits, type EventRow, NO_LOG, recordChange, trimEvents } from "./procedures/events.ts";
import {
  type ProcedureArgs,
  type ProcedureName,
  type ProcedureResult,
  procedures,
  UNCOUNTED,
  UNSYNCED,
} from "./procedures.ts";
import { migrate, NewerSchemaError } from "./schema.ts";
import { closeConnection, statement } from "./statement.ts";
import type { Transaction, WriterMemory } from "./transaction.ts";

/** Files up to this size are checked page by page when opened: about 0.3 s at 1 GB/s. Larger ones only by their schema. */
const MAX_CHECKED_BYTES = 256 * 1024 * 1024;
/** The log is cut back to this after a checkpoint, so that one large transaction does not keep the disk. */
const LOG_LIMIT_BYTES = 16 * 1024 * 1024;
/** KiB of pages the write connection may hold. */
const CACHE_KIB = 8 * 1024;
/** Mode of the metadata folder and file: specs hold environment variables with secrets in them. */
const FOLDER_MODE = 0o700;

export interface BatchResult {
  readonly outcomes: readonly Outcome[];
  readonly mutations: number;
  readonly dirty: number;
  readonly appended: readonly EventRow[];
}

/** The owner of the write connection. Everything here is synchronous and belongs to a thread of its own. */
export class Writer implements Disposable {
  readonly created: boolean;
  readonly damage: DamageReport | undefined;
  readonly collection = new Collection();
  readonly #path: string;
  readonly #db: Database;
  readonly #memory: WriterMemory = { reservedIds: new Map(), blocks: new Map(), events: { ...NO_LOG } };
  readonly #noSync: boolean;
  #synced = true;

  private constructor(
    path: string,
    opened: { db: Database; created: boolean; damage: DamageReport | undefined; noSync: boolean },
  ) {
    this.#path = path;
    this.#noSync = opened.noSync;
    if (opened.noSync) opened.db.exec("PRAGMA synchronous = OFF");
    this.#db = opened.db;
    this.created = opened.created;
    this.damage = opened.damage;
  }

  /**
   * Opens or makes the file. A damaged one is put aside and what can be read of it is copied into a new one.
   * @throws Error for a file of a later version, or a folder that cannot be written
   */
  static open(path: string, { noSync = false }: { readonly noSync?: boolean } = {}): Writer {
    mkdirSync(dirname(path), { recursive: true, mode: FOLDER_MODE });
    const created = !existsSync(path);
    try {
      return new Writer(path, { db: openChecked(path), created, damage: undefined, noSync });
    } catch (error) {
      const code = sqliteCode(error);
      if (
        error instanceof NewerSchemaError ||
        !(error instanceof DamagedError || code === "SQLITE_CORRUPT" || code === "SQLITE_NOTADB")
      ) {
        throw error;
      }
      const quarantined = quarantine(path);
      const db = openChecked(path);
      return new Writer(path, { db, created: true, damage: salvage(db, quarantined, messageOf(error)), noSync });
    }
  }

  /** Runs calls in one transaction, each in a savepoint: one that fails leaves the others as they are. */
  run(calls: readonly Call[]): BatchResult {
    this.#setSynced(!calls.every((call) => UNSYNCED.has(call.name)));
    try {
      return this.#runTogether(calls);
    } catch (error) {
      this.#rollback();
      if (calls.length === 1)
        return { outcomes: [{ failure: failureOf(error) }], mutations: 0, dirty: 0, appended: [] };
      // The commit failed (a full disk): one at a time, so that those which fit are done.
      const results = calls.map((call) => this.run([call]));
      return {
        outcomes: results.flatMap((result) => result.outcomes),
        mutations: results.reduce((sum, result) => sum + result.mutations, 0),
        dirty: results.reduce((sum, result) => sum + result.dirty, 0),
        appended: results.flatMap((result) => result.appended),
      };
    }
  }

  /** From now on events are logged, within limits; or no more. */
  setLogLimits(limits: EventLimits): void {
    this.#memory.events.limits = limits;
  }

  /** A connection that only reads, for a snapshot that lasts. The caller closes it. */
  openReader(): Database {
    return openReader(this.#path);
  }

  /** Deletes garbage in one transaction, for as long as `stop` lets it. */
  sweep(garbage: (readonly string[])[], stop: () => boolean): Removed[] {
    this.#setSynced(true);
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      const removed = this.collection.sweep(this.#db, garbage, stop);
      this.#db.exec("COMMIT");
      return removed;
    } catch (error) {
      this.#rollback();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    try {
      this.#db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      // A full disk: the log stays and is read at the next open.
    }
    closeConnection(this.#db);
  }

  #runTogether(calls: readonly Call[]): BatchResult {
    let dirty = 0;
    let mutations = 0;
    const tx: Transaction = {
      db: this.#db,
      now: microsOf(nowMoment()),
      collection: this.collection,
      memory: this.#memory,
      appended: [],
      dirty: () => {
        dirty++;
      },
    };
    const outcomes: Outcome[] = [];
    this.#db.exec("BEGIN IMMEDIATE");
    for (const call of calls) {
      const before = { dirty, appended: tx.appended.length };
      this.#db.exec("SAVEPOINT call");
      try {
        if (!isKnownCall(call)) throw classified("internal", `no metadata procedure "${call.name}"`);
        const value = dispatch(tx, call);
        if (call.event !== undefined) recordChange(tx, call.event, { args: call.args, result: value });
        this.#db.exec("RELEASE call");
        outcomes.push({ value });
        if (!UNCOUNTED.has(call.name)) mutations++;
      } catch (error) {
        dirty = before.dirty;
        tx.appended.length = before.appended;
        // Some failures (disk full) end the whole transaction; then the batch is run again one by one.
        if (!this.#db.inTransaction) throw error;
        this.#db.exec("ROLLBACK TO call; RELEASE call");
        outcomes.push({ failure: failureOf(error) });
      }
    }
    if (tx.appended.length > 0) trimEvents(tx);
    this.#db.exec("COMMIT");
    return { outcomes, mutations, dirty, appended: tx.appended };
  }

  #rollback(): void {
    if (this.#db.inTransaction) this.#db.exec("ROLLBACK");
    // Numbers given inside the lost transaction may be reserved no more.
    this.#memory.blocks.clear();
    this.#memory.events.counted = undefined;
  }

  #setSynced(synced: boolean): void {
    if (this.#noSync || synced === this.#synced) return;
    this.#db.exec(`PRAGMA synchronous = ${synced ? "FULL" : "NORMAL"}`);
    this.#synced = synced;
  }
}

/** A procedure's type and its arguments belong together by name; TypeScript follows that only through this table. */
type Table = { readonly [K in ProcedureName]: (tx: Transaction, args: ProcedureArgs<K>) => ProcedureResult<K> };

function dispatch<K extends ProcedureName>(
  tx: Transaction,
  call: { readonly name: K; readonly args: ProcedureArgs<K> },
): ProcedureResult<K> {
  const table: Table = procedures;
  return table[call.name](tx, call.args);
}

/** A connection that sees every committed change and cannot write. */
export function openReader(path: string): Database {
  const db = new Database(path, { readonly: true });
  db.exec(`PRAGMA query_only = ON; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -${CACHE_KIB}`);
  return db;
}

class DamagedError extends Error {
  override readonly name = "DamagedError";
}

const quickCheck = statement<{ quick_check: string }, []>("PRAGMA quick_check(1)");

function openChecked(path: string): Database {
  const db = new Database(path, { create: true, readwrite: true });
  try {
    db.exec(`PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
      PRAGMA journal_size_limit = ${LOG_LIMIT_BYTES}; PRAGMA cache_size = -${CACHE_KIB}; PRAGMA foreign_keys = OFF`);
    if (statSync(path).size <= MAX_CHECKED_BYTES) {
      const result = quickCheck(db).get()?.quick_check;
      if (result !== "ok") throw new DamagedError(`quick check: ${result ?? "no answer"}`);
    }
    migrate(db);
    return db;
  } catch (error) {
    closeConnection(db);
    throw error;
  }
}

function quarantine(path: string): string {
  const aside = `${path}.damaged-${new Date().toISOString().replaceAll(":", "-")}`;
  for (const suffix of ["", "-wal", "-shm"]) {
    if (existsSync(`${path}${suffix}`)) renameSync(`${path}${suffix}`, `${aside}${suffix}`);
  }
  return aside;
}

/** A table could only be read up to some row. */
class CutOffError extends Error {
  override readonly name = "CutOffError";
  readonly copied: number;

  constructor(copied: number, cause: unknown) {
    super("table cannot be read to its end", { cause });
    this.copied = copied;
  }
}

function copyRows(from: Database, to: Database, table: string): number {
  let copied = 0;
  try {
    const rows = from.prepare<Record<string, string | number | null | Uint8Array>, []>(`SELECT * FROM ${table}`);
    let insert: ReturnType<typeof to.prepare> | undefined;
    let columns: readonly string[] = [];
    for (const row of rows.iterate()) {
      if (insert === undefined) {
        columns = Object.keys(row);
        const marks = columns.map(() => "?").join(", ");
        insert = to.prepare(`INSERT OR IGNORE INTO ${table} (${columns.join(", ")}) VALUES (${marks})`);
      }
      insert.run(...columns.map((column) => row[column] ?? null));
      copied++;
    }
    return copied;
  } catch (error) {
    throw new CutOffError(copied, error);
  }
}

/** Copies every row that can still be read into the new file. */
function salvage(db: Database, quarantined: string, reason: string): DamageReport {
  const kept: Record<string, number> = {};
  const lost: string[] = [];
  const tables = db
    .prepare<{ name: string }, []>("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    .all()
    .map((row) => row.name);
  let old: Database | undefined;
  try {
    old = new Database(quarantined, { readwrite: true });
    // A file this program does not know the schema of is not read from.
    migrate(old);
  } catch {
    old?.close();
    old = undefined;
  }
  for (const table of tables) {
    if (old === undefined) {
      lost.push(table);
      continue;
    }
    kept[table] = 0;
    db.exec("BEGIN IMMEDIATE");
    try {
      kept[table] = copyRows(old, db, table);
    } catch (error) {
      kept[table] = error instanceof CutOffError ? error.copied : 0;
      lost.push(table);
    }
    db.exec("COMMIT");
  }
  old?.close();
  // What has no record any more may still be needed to rebuild it: orphans on disk are kept from now on.
  db.exec("INSERT INTO facts (name, value) VALUES ('orphans', 'keep') ON CONFLICT DO UPDATE SET value = 'keep'");
  return { quarantined, reason, kept, lost };
}
