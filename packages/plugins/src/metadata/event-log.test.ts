import { describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Announcement, backgroundContext } from "@stevedore/base";
import type { EventLog, LoggedEvent, OnceKey } from "@stevedore/core";
import { MetadataDatabase } from "./database.ts";
import { openEventLog } from "./event-log.ts";
import { MetadataNamespaceStore } from "./namespaces.ts";

const LIMITS = { maxEvents: 1_000, maxAge: 3_600_000, maxBytes: 1_000_000 };

interface Opened extends AsyncDisposable {
  readonly database: MetadataDatabase;
  readonly log: EventLog;
  readonly told: LoggedEvent[];
  /** Closes the file and opens it again. */
  readonly again: () => Promise<Opened>;
}

async function opened(limits: Partial<typeof LIMITS> = {}): Promise<Opened> {
  const directory = await mkdtemp(join(tmpdir(), "stevedore-event-log-"));
  return openIn(directory, { ...LIMITS, ...limits });
}

async function openIn(directory: string, limits: typeof LIMITS): Promise<Opened> {
  const database = await MetadataDatabase.open({ directory });
  const log = await openEventLog(database, limits);
  const told: LoggedEvent[] = [];
  log.onAppend((events) => told.push(...events));
  return {
    database,
    log,
    told,
    again: async () => {
      await database[Symbol.asyncDispose]();
      return openIn(directory, limits);
    },
    [Symbol.asyncDispose]: async () => {
      await database[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

const named = (topic: string, once?: OnceKey, bytes = 1) => ({
  namespace: "default",
  topic,
  event: { typeUrl: "test", value: new Uint8Array(bytes) },
  ...(once === undefined ? {} : { once }),
});

const topics = (events: readonly LoggedEvent[]): string[] => events.map(({ envelope }) => envelope.topic);

describe("openEventLog()", () => {
  test("keeps events in order over a restart, with cursors that go on", async () => {
    const first = await opened();
    await Promise.all(["/a", "/b", "/c"].map(async (topic) => first.log.append(named(topic))));
    expect(topics(first.told)).toEqual(["/a", "/b", "/c"]);
    await using second = await first.again();
    expect(second.log.id).toBe(first.log.id);
    await second.log.append(named("/d"));
    const all = second.log.read(0, 100);
    expect(topics(all)).toEqual(["/a", "/b", "/c", "/d"]);
    expect(all.map(({ cursor }) => cursor)).toEqual([1, 2, 3, 4]);
    expect(topics(second.log.read(2, 1))).toEqual(["/c"]);
    expect(second.log.bounds()).toEqual({ oldest: 1, newest: 4 });
    const times = all.map(({ envelope }) => Math.floor(envelope.timestamp.getTime() / 1_000) * 1e9 + envelope.nanos);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(second.log.before(new Date(0))).toBe(0);
    expect(second.log.before(new Date(Date.now() + 60_000))).toBe(4);
  });

  test("the oldest go when there are too many, or too much of them, and never the newest", async () => {
    await using few = await opened({ maxEvents: 10 });
    for (let i = 0; i < 50; i++) await few.log.append(named(`/n${i}`));
    const kept = few.log.read(0, 100);
    expect(kept.length).toBe(10);
    expect(kept.at(-1)?.cursor).toBe(50);
    await using small = await opened({ maxBytes: 1_000 });
    await small.log.append(named("/a", undefined, 900));
    await small.log.append(named("/b", undefined, 5_000));
    expect(topics(small.log.read(0, 100))).toEqual(["/b"]);
    expect(small.log.bounds()).toEqual({ oldest: 2, newest: 2 });
  });

  test("a read gives at least one event and about a mebibyte at most", async () => {
    await using one = await opened({ maxBytes: 100_000_000 });
    for (let i = 0; i < 5; i++) await one.log.append(named(`/n${i}`, undefined, 600_000));
    expect(topics(one.log.read(0, 100))).toEqual(["/n0", "/n1"]);
    expect(topics(one.log.read(2, 100))).toEqual(["/n2", "/n3"]);
  });

  test("an event with a key is recorded and told once; a new life begins anew", async () => {
    const one = await opened();
    const create = (pid: number): OnceKey => ({
      key: `ns/c//create/${pid}`,
      begins: { prefix: "ns/c/", ended: "ns/c//delete/" },
    });
    const exit: OnceKey = { key: "ns/c//exit/7" };
    const tell = async (log: EventLog, ...events: (readonly [string, OnceKey])[]): Promise<void> => {
      for (const [topic, once] of events) await log.append(named(topic, once));
    };
    await tell(one.log, ["/create", create(7)], ["/create", create(7)], ["/exit", exit], ["/exit", exit]);
    expect(topics(one.told)).toEqual(["/create", "/exit"]);
    await using two = await one.again();
    await tell(two.log, ["/exit", exit], ["/create", create(7)]);
    expect(topics(two.told)).toEqual([]);
    // The same pid in the next life of that name.
    await tell(two.log, ["/delete", { key: "ns/c//delete/7" }], ["/create", create(7)], ["/exit", exit]);
    // And another one, though nobody told of a delete.
    await tell(two.log, ["/create", create(8)], ["/exit", exit], ["/exit", exit]);
    expect(topics(two.told)).toEqual(["/delete", "/create", "/exit", "/create", "/exit"]);
  });

  test("a change tells its event in its own transaction, with what only the store knows, and none when it fails", async () => {
    await using one = await opened();
    const namespaces = new MetadataNamespaceStore(one.database);
    const taken: string[] = [];
    const announcement: Announcement = {
      topic: "/namespaces/create",
      typeUrl: "test",
      // Field 1 "n".
      value: Uint8Array.of(0x0a, 1, 0x6e),
      fields: { 2: "labels", 3: "absent" },
      take: () => taken.push("taken"),
    };
    const context = { ...backgroundContext({ namespace: "n" }), announcement };
    await namespaces.create(context, { name: "n", labels: { k: "v", empty: "" } });
    await namespaces.create(context, { name: "n", labels: {} }).catch(() => undefined);
    expect(taken).toEqual(["taken", "taken"]);
    expect(topics(one.told)).toEqual(["/namespaces/create"]);
    // Field 2 is the map entry k: v.
    expect([...(one.told[0]?.envelope.event.value ?? [])]).toEqual([
      0x0a, 1, 0x6e, 0x12, 6, 0x0a, 1, 0x6b, 0x12, 1, 0x76,
    ]);
  });
});
