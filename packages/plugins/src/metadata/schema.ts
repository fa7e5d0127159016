import type { Database } from "bun:sqlite";
import { statement } from "./statement.ts";

const userVersion = statement<{ user_version: number }, []>("PRAGMA user_version");

/**
 * The numbered steps from an empty file to today's schema. A step is never changed once released: the file's
 * `user_version` says how many of them it has, and each has a test.
 */
export const MIGRATIONS: readonly string[] = [
  // 1: everything issue 1 stores. Times are milliseconds since the epoch; labels, annotations and extensions are JSON.
  `
  CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE sequences (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE namespaces (name TEXT PRIMARY KEY, labels TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE images (
    namespace TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL, media_type TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, annotations TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE containers (
    namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL, image TEXT NOT NULL, runtime TEXT NOT NULL,
    runtime_options_type TEXT, runtime_options BLOB, spec_type TEXT, spec BLOB, snapshotter TEXT NOT NULL,
    snapshot_key TEXT NOT NULL, sandbox TEXT NOT NULL, extensions TEXT NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, PRIMARY KEY (namespace, id)
  ) STRICT;
  CREATE TABLE sandboxes (
    namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL, sandboxer TEXT NOT NULL, runtime TEXT NOT NULL,
    runtime_options_type TEXT, runtime_options BLOB, spec_type TEXT, spec BLOB, extensions TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, PRIMARY KEY (namespace, id)
  ) STRICT;
  CREATE TABLE content (
    namespace TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, labels TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, PRIMARY KEY (namespace, digest)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX content_by_digest ON content (digest);
  CREATE TABLE ingests (
    namespace TEXT NOT NULL, ref TEXT NOT NULL, backend_ref TEXT NOT NULL, expected TEXT NOT NULL,
    expire_at INTEGER, PRIMARY KEY (namespace, ref)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX ingests_by_expected ON ingests (expected) WHERE expected <> '';
  CREATE TABLE leases (
    namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE lease_resources (
    namespace TEXT NOT NULL, lease TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, type, id)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE snapshots (
    namespace TEXT NOT NULL, snapshotter TEXT NOT NULL, name TEXT NOT NULL, parent TEXT NOT NULL,
    backend_key TEXT NOT NULL, labels TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, snapshotter, name)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX snapshots_by_parent ON snapshots (namespace, snapshotter, parent);
  -- A commit that was handed to the backend and whose outcome is not recorded yet.
  CREATE TABLE snapshot_commits (
    namespace TEXT NOT NULL, snapshotter TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, parent TEXT NOT NULL,
    backend_name TEXT NOT NULL, labels TEXT NOT NULL, PRIMARY KEY (namespace, snapshotter, key)
  ) STRICT, WITHOUT ROWID;
  -- What snapshotter backends keep for themselves, below namespaces.
  CREATE TABLE backend_snapshots (
    snapshotter TEXT NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL, kind TEXT NOT NULL, parent TEXT NOT NULL,
    labels TEXT NOT NULL, inodes INTEGER, size INTEGER, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    PRIMARY KEY (snapshotter, name)
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX backend_snapshots_by_id ON backend_snapshots (snapshotter, id);
  CREATE INDEX backend_snapshots_by_parent ON backend_snapshots (snapshotter, parent);
  `,
  // Moments of objects in microseconds; they were milliseconds. (Expiry stays.)
  `
  UPDATE images SET created_at = created_at * 1000, updated_at = updated_at * 1000;
  UPDATE containers SET created_at = created_at * 1000, updated_at = updated_at * 1000;
  UPDATE sandboxes SET created_at = created_at * 1000, updated_at = updated_at * 1000;
  UPDATE content SET created_at = created_at * 1000, updated_at = updated_at * 1000;
  UPDATE snapshots SET created_at = created_at * 1000, updated_at = updated_at * 1000;
  UPDATE backend_snapshots SET created_at = created_at * 1000, updated_at = updated_at * 1000;
  UPDATE leases SET created_at = created_at * 1000;
  `,
  // The event log. `recorded` is milliseconds by the writer's clock and never falls; `once` keeps what shims repeat out.
  `
  CREATE TABLE events (
    cursor INTEGER PRIMARY KEY, recorded INTEGER NOT NULL, namespace TEXT NOT NULL, topic TEXT NOT NULL,
    type_url TEXT NOT NULL, value BLOB NOT NULL, seconds INTEGER NOT NULL, nanos INTEGER NOT NULL, once TEXT
  ) STRICT;
  CREATE UNIQUE INDEX events_once ON events (once) WHERE once IS NOT NULL;
  `,
];

/** The schema version this program writes. */
export const SCHEMA_VERSION = MIGRATIONS.length;

/** The schema version of an open file: how many migrations it has. */
export function schemaVersion(db: Database): number {
  return userVersion(db).get()?.user_version ?? 0;
}

/**
 * Brings a file to {@link SCHEMA_VERSION} (or `to`, for tests), each step in a transaction of its own.
 *
 * @throws Error if the file is of a later version, which this program could not keep consistent.
 */
export function migrate(db: Database, to = SCHEMA_VERSION): void {
  const from = schemaVersion(db);
  if (from > to) throw new NewerSchemaError(from, to);
  for (let version = from; version < to; version++) {
    const step = MIGRATIONS[version] ?? "";
    db.transaction(() => {
      db.exec(step);
      db.exec(`PRAGMA user_version = ${version + 1}`);
    }).immediate();
  }
}

/** The file was written by a later version: it is not damaged, and must not be touched. */
export class NewerSchemaError extends Error {
  override readonly name = "NewerSchemaError";

  constructor(found: number, known: number) {
    super(`metadata schema ${found} is newer than ${known}, the newest this version knows`);
  }
}
