import { momentFrom, nanosOf } from "@stevedore/base/moment";
import type { EventLog, LoggedEvent, PendingEvent } from "@stevedore/core";
import type { MetadataDatabase } from "./database.ts";
import type { EventLimits, EventRow } from "./procedures/events.ts";
import { ownBytes } from "./scope.ts";
import { statement } from "./statement.ts";

/** The fact that names the log. */
const LOG_FACT = "event-log";
/** Bytes of random in a log's name: enough to tell the logs of one machine apart. */
const ID_BYTES = 4;
/** Payload handed out by one read. */
const READ_BYTES = 1024 * 1024;

const page = statement<EventRow, [number, number]>(
  "SELECT cursor, namespace, topic, type_url, value, seconds, nanos FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?",
);
const ends = statement<{ oldest: number | null; newest: number | null }, []>(
  "SELECT (SELECT min(cursor) FROM events) AS oldest, (SELECT max(cursor) FROM events) AS newest",
);
const recordedAt = statement<{ recorded: number }, [number]>("SELECT recorded FROM events WHERE cursor = ?");

/** The log in the metadata file. The file stays the caller's. */
export async function openEventLog(database: MetadataDatabase, limits: EventLimits): Promise<EventLog> {
  let id = database.fact(LOG_FACT);
  // What was copied out of a damaged file may lack the newest: its cursors would come again.
  if (id === undefined || database.damage !== undefined) {
    id = Buffer.from(crypto.getRandomValues(new Uint8Array(ID_BYTES))).toString("hex");
    await database.call("setFact", { name: LOG_FACT, value: id });
  }
  database.logEvents(limits);
  return new MetadataEventLog(database, id);
}

class MetadataEventLog implements EventLog {
  readonly id: string;
  readonly #database: MetadataDatabase;

  constructor(database: MetadataDatabase, id: string) {
    this.#database = database;
    this.id = id;
  }

  async append({ namespace, topic, event, stamp, once }: PendingEvent): Promise<void> {
    await this.#database.call("appendEvent", {
      event: {
        namespace,
        topic,
        event: ownBytes(event),
        ...(stamp === undefined
          ? {}
          : { stamp: { seconds: Math.floor(stamp.timestamp.getTime() / 1_000), nanos: stamp.nanos } }),
        ...(once === undefined ? {} : { once }),
      },
    });
  }

  onAppend(listener: (events: readonly LoggedEvent[]) => void): Disposable {
    return this.#database.onEvents((rows) => listener(rows.map(loggedOf)));
  }

  read(after: number, limit: number): readonly LoggedEvent[] {
    const found: LoggedEvent[] = [];
    let bytes = 0;
    for (const row of page(this.#database.reader).iterate(after, limit)) {
      found.push(loggedOf(row));
      bytes += row.value.byteLength;
      if (bytes >= READ_BYTES) break;
    }
    return found;
  }

  bounds(): { readonly oldest: number; readonly newest: number } {
    const { oldest, newest } = ends(this.#database.reader).get() ?? { oldest: null, newest: null };
    return { oldest: oldest ?? 1, newest: newest ?? 0 };
  }

  before(time: Date): number {
    const { oldest, newest } = this.bounds();
    // Cursors have no gaps and what was recorded later has a later time: halving finds the place.
    let low = oldest;
    let high = newest + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const recorded = recordedAt(this.#database.reader).get(middle)?.recorded ?? 0;
      if (recorded < time.getTime()) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}

function loggedOf(row: EventRow): LoggedEvent {
  const timestamp = momentFrom(row.seconds, row.nanos);
  return {
    cursor: row.cursor,
    envelope: {
      timestamp,
      nanos: nanosOf(timestamp),
      namespace: row.namespace,
      topic: row.topic,
      event: { typeUrl: row.type_url, value: row.value },
    },
  };
}
