import type { Database, SQLQueryBindings } from "bun:sqlite";

function prepare<Row, Params extends SQLQueryBindings[]>(db: Database, sql: string) {
  return db.prepare<Row, Params>(sql);
}

type Prepared<Row, Params extends SQLQueryBindings[]> = ReturnType<typeof prepare<Row, Params>>;

/** What has to be finalized before a connection lets go of its files. */
const finalizable = new WeakMap<Database, { finalize(): void }[]>();

/** Closes a connection at once; with live statements SQLite would keep its files open. */
export function closeConnection(db: Database): void {
  for (const each of finalizable.get(db) ?? []) each.finalize();
  finalizable.delete(db);
  db.close();
}

/**
 * A statement prepared once per connection. Bun's own cache (`query`) holds twenty.
 *
 * The row type is a claim about the SQL next to it; nothing else checks it.
 */
export function statement<Row, Params extends SQLQueryBindings[]>(
  sql: string,
): (db: Database) => Prepared<Row, Params> {
  const prepared = new WeakMap<Database, Prepared<Row, Params>>();
  return (db) => {
    const known = prepared.get(db);
    if (known !== undefined) return known;
    const made = prepare<Row, Params>(db, sql);
    prepared.set(db, made);
    const all = finalizable.get(db);
    if (all === undefined) finalizable.set(db, [made]);
    else all.push(made);
    return made;
  };
}
