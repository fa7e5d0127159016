import { describe, expect, test } from "bun:test";
import { backgroundContext, isErrorClass, type RequestContext } from "@stevedore/base";
import type { AnyValue, Envelope, EventLog, LoggedEvent, PendingEvent } from "@stevedore/core";
import { createEventExchange } from "./exchange.ts";

const event = (text = ""): AnyValue => ({ typeUrl: "containerd.events.Test", value: Buffer.from(text) });
const inDefault = backgroundContext({ namespace: "default" });

function cancellable(): { context: RequestContext; cancel: () => void } {
  const controller = new AbortController();
  return { context: { signal: controller.signal }, cancel: () => controller.abort() };
}

async function take(events: AsyncIterable<Envelope>, count: number): Promise<Envelope[]> {
  const taken: Envelope[] = [];
  for await (const each of events) {
    taken.push(each);
    if (taken.length === count) break;
  }
  return taken;
}

async function messageOf(attempt: () => Promise<unknown>): Promise<string> {
  try {
    await attempt();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  throw new Error("the call succeeded");
}

describe("createEventExchange()", () => {
  test("a subscription holds events from its making on, in order, with rising times", async () => {
    const exchange = createEventExchange();
    await exchange.publish(inDefault, "/early", event());
    const events = exchange.subscribe(backgroundContext(), []);
    for (let i = 0; i < 100; i++) await exchange.publish(inDefault, `/tasks/n${i}`, event(`${i}`));
    const taken = await take(events, 100);
    expect(taken.map((each) => each.topic)).toEqual(Array.from({ length: 100 }, (_, i) => `/tasks/n${i}`));
    expect(taken.every((each) => each.namespace === "default")).toBe(true);
    const times = taken.map((each) => Math.floor(each.timestamp.getTime() / 1000) * 1e9 + each.nanos);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
  });

  test("filters choose by topic, namespace and payload", async () => {
    const exchange = createEventExchange({
      eventField: ({ event }, path) => (path.join(".") === "id" ? Buffer.from(event.value).toString() : undefined),
    });
    const other = backgroundContext({ namespace: "other" });
    const byTopic = exchange.subscribe(backgroundContext(), ["topic~=|^/tasks/|,namespace==other", 'topic=="/x"']);
    const byField = exchange.subscribe(backgroundContext(), ["event.id==b"]);
    await exchange.publish(inDefault, "/tasks/start", event("a"));
    await exchange.publish(other, "/tasks/start", event("b"));
    await exchange.publish(inDefault, "/x", event("c"));
    expect((await take(byTopic, 2)).map((each) => each.topic)).toEqual(["/tasks/start", "/x"]);
    expect((await take(byField, 1)).map((each) => each.namespace)).toEqual(["other"]);
    expect(() => exchange.subscribe(backgroundContext(), ["topic=="])).toThrow(
      "failed parsing subscription filters: filters: parse error: [topic==]: expected value or quoted: invalid argument",
    );
  });

  test("forward() keeps the envelope as it is", async () => {
    const exchange = createEventExchange();
    const events = exchange.subscribe(backgroundContext(), []);
    const envelope: Envelope = {
      timestamp: new Date(1_700_000_000_123),
      nanos: 123_456_789,
      namespace: "ns",
      topic: "/tasks/exit",
      event: event("payload"),
    };
    await exchange.forward(backgroundContext(), envelope);
    expect((await take(events, 1))[0]).toMatchObject({
      timestamp: envelope.timestamp,
      nanos: 123_456_789,
      namespace: "ns",
      topic: "/tasks/exit",
    });
    expect(await messageOf(() => exchange.forward(backgroundContext(), { ...envelope, namespace: "" }))).toBe(
      "event envelope has invalid namespace: identifier must not be empty: invalid argument",
    );
    expect(
      await messageOf(() => exchange.forward(backgroundContext(), { ...envelope, timestamp: new Date(0), nanos: 0 })),
    ).toBe("timestamp must be set on forwarded event: invalid argument");
  });

  test.each([
    ["", 'envelope topic "": must not be empty: invalid argument'],
    ["tasks", "envelope topic \"tasks\": must start with '/': invalid argument"],
    ["/", 'envelope topic "/": must have at least one component: invalid argument'],
    [
      "/a//b",
      'envelope topic "/a//b": failed validation on component "": identifier must not be empty: invalid argument',
    ],
    [
      "/a/b c",
      'envelope topic "/a/b c": failed validation on component "b c": identifier "b c" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument',
    ],
  ])("refuses topic %j in containerd's words", async (topic, message) => {
    expect(await messageOf(() => createEventExchange().publish(inDefault, topic, event()))).toBe(message);
  });

  test("publishing needs a namespace", async () => {
    expect(await messageOf(() => createEventExchange().publish(backgroundContext(), "/a", event()))).toBe(
      "failed publishing event: namespace is required: failed precondition",
    );
  });

  test("without a log a subscriber that falls behind is ended, the others are not", async () => {
    const exchange = createEventExchange({ tail: { events: 10, bytes: 1_000_000 } });
    const slow = exchange.subscribe(backgroundContext(), []);
    const fast = exchange.subscribe(backgroundContext(), []);
    const got: string[] = [];
    const reading = (async (): Promise<void> => {
      for await (const each of fast) {
        got.push(each.topic);
        if (got.length === 30) return;
      }
    })();
    for (let i = 0; i < 30; i++) {
      await exchange.publish(inDefault, `/n${i}`, event());
      await Bun.sleep(0);
    }
    await reading;
    expect(got).toHaveLength(30);
    const seen: string[] = [];
    let failure: unknown;
    try {
      for await (const each of slow) seen.push(each.topic);
    } catch (error) {
      failure = error;
    }
    expect(seen).toEqual([]);
    expect(isErrorClass(failure, "resource-exhausted")).toBe(true);
  });

  test("a cancelled subscription ends without an error, also while it waits", async () => {
    const exchange = createEventExchange();
    const { context, cancel } = cancellable();
    const events = exchange.subscribe(context, []);
    const reading = take(events, 1);
    await Bun.sleep(1);
    cancel();
    expect(await reading).toEqual([]);
    await exchange.publish(inDefault, "/late", event());
  });

  test("with a log a subscriber reads on from there, gets each event once, and a replay does not end before it has all", async () => {
    const eventLog = new MemoryLog();
    const exchange = createEventExchange({ eventLog, tail: { events: 4, bytes: 1_000_000 } });
    const slow = exchange.subscribe(backgroundContext(), []);
    const reading = slow[Symbol.asyncIterator]();
    const seen: string[] = [];
    const next = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        const { value, done } = await reading.next();
        if (done === true) throw new Error("the subscription ended");
        seen.push(value.topic);
      }
    };
    const publish = async (from: number, to: number): Promise<void> => {
      for (let i = from; i < to; i++) await exchange.publish(inDefault, `/n${i}`, event());
    };
    await publish(0, 3);
    await next(2);
    // Far behind, then up with it again, then behind again.
    await publish(3, 300);
    await next(200);
    await publish(300, 302);
    await next(100);
    await publish(302, 310);
    await next(8);
    expect(seen).toEqual(Array.from({ length: 310 }, (_, i) => `/n${i}`));
    // An event that is in the log before its news has come is not told twice.
    eventLog.holdNews = true;
    await publish(310, 312);
    const all = await Array.fromAsync(
      exchange.replay(backgroundContext(), { from: { kind: "oldest" }, filters: [], follow: false }),
    );
    expect(all).toHaveLength(312);
    const following = exchange
      .replay(backgroundContext(), {
        from: { kind: "after", cursor: all[309]?.cursor ?? "" },
        filters: [],
        follow: true,
      })
      [Symbol.asyncIterator]();
    const first = [await following.next(), await following.next()].map(({ value }) => value?.envelope.topic);
    const third = following.next();
    eventLog.releaseNews();
    await publish(312, 313);
    expect([...first, (await third).value?.envelope.topic]).toEqual(["/n310", "/n311", "/n312"]);
    // What is gone from the log ends who is behind it, and is refused to who asks for it.
    eventLog.events.splice(0, 312);
    eventLog.first = 313;
    const late = exchange.replay(backgroundContext(), {
      from: { kind: "after", cursor: all[0]?.cursor ?? "" },
      filters: [],
      follow: false,
    });
    expect(await messageOf(async () => Array.fromAsync(late))).toContain("the next events are not kept any more");
  });
});

/** A log whose news can be held back, as between a commit and the message about it. */
class MemoryLog implements EventLog {
  readonly id = "0123abcd";
  readonly events: LoggedEvent[] = [];
  first = 1;
  holdNews = false;
  readonly #held: LoggedEvent[] = [];
  readonly #listeners = new Set<(events: readonly LoggedEvent[]) => void>();

  async append({ namespace, topic, event: told }: PendingEvent): Promise<void> {
    await Promise.resolve();
    const cursor = this.first + this.events.length;
    const logged = { cursor, envelope: { timestamp: new Date(), nanos: 0, namespace, topic, event: told } };
    this.events.push(logged);
    this.#held.push(logged);
    if (!this.holdNews) this.releaseNews();
  }

  releaseNews(): void {
    this.holdNews = false;
    const news = this.#held.splice(0);
    for (const listener of this.#listeners) listener(news);
  }

  onAppend(listener: (events: readonly LoggedEvent[]) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  read(after: number, limit: number): readonly LoggedEvent[] {
    return this.events.filter(({ cursor }) => cursor > after).slice(0, limit);
  }

  bounds(): { readonly oldest: number; readonly newest: number } {
    return { oldest: this.first, newest: this.first + this.events.length - 1 };
  }

  before(): number {
    return this.first - 1;
  }
}
