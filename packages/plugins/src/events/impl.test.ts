import { describe, expect, test } from "bun:test";
import { backgroundContext } from "@stevedore/base";
import { createEventExchange } from "./impl.ts";

const context = backgroundContext({ namespace: "ns" });
const event = { typeUrl: "t", value: new Uint8Array([1]) };

function exchange() {
  return createEventExchange({
    eventField: (envelope, path) => (path[0] === "type" ? envelope.event.typeUrl : undefined),
  });
}

describe("createEventExchange()", () => {
  test("a subscription exists before its first event is read", async () => {
    const events = exchange();
    const stop = new AbortController();
    const seen = events.subscribe({ ...context, signal: stop.signal }, []);
    await events.publish(context, "/a/b", event);
    for await (const envelope of seen) {
      expect(envelope).toMatchObject({ namespace: "ns", topic: "/a/b", event });
      stop.abort();
    }
  });
  test("filters by topic, namespace and fields of the event", async () => {
    const events = exchange();
    const stop = new AbortController();
    const seen = events.subscribe({ ...context, signal: stop.signal }, [
      'topic~="/tasks/.*",event.type==t',
      "namespace==other",
    ]);
    await events.publish(context, "/images/create", event);
    await events.publish(context, "/tasks/start", event);
    await events.publish(backgroundContext({ namespace: "other" }), "/x/y", event);
    const topics: string[] = [];
    for await (const { topic } of seen) {
      topics.push(topic);
      if (topics.length === 2) stop.abort();
    }
    expect(topics).toEqual(["/tasks/start", "/x/y"]);
  });
  test.each(["", "a", "/", "/a//b", "/a b"])("refuses topic %p", async (topic) => {
    expect(exchange().publish(context, topic, event)).rejects.toThrow();
  });
  test("refuses an event without type and a call without namespace", async () => {
    expect(exchange().publish(context, "/a", { typeUrl: "", value: new Uint8Array() })).rejects.toThrow(
      "type_url must be set",
    );
    expect(exchange().publish(backgroundContext(), "/a", event)).rejects.toThrow("namespace is required");
  });
  test("a subscriber that does not read is ended, others are not", async () => {
    const events = exchange();
    const lazy = events.subscribe(context, [])[Symbol.asyncIterator]();
    for (let count = 0; count <= 10_001; count++) await events.publish(context, "/a", event);
    expect(lazy.next()).rejects.toThrow("events behind");
  });
});
