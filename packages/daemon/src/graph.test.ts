// The plugin graph: order, what a failure takes with it, and what keeps the daemon from starting.
import { expect, test } from "bun:test";
import { createLogger } from "@stevedore/base";
import { isErrorClass } from "@stevedore/base/errors";
import { type AnyPlugin, inOrder, PluginGraph, plugin, pluginKey, SkipPlugin } from "./graph.ts";

/** Makes plugins that write down when they start and when they are stopped. */
function recording(): {
  readonly events: string[];
  readonly of: (id: string, requires?: readonly string[], fails?: Error) => AnyPlugin;
} {
  const events: string[] = [];
  return {
    events,
    of: (id, requires = [], fails) =>
      plugin({
        key: pluginKey<string>("t.v1", id),
        requires: requires.map((other) => ({ type: "t.v1", id: other })),
        start: ({ cleanup }) => {
          events.push(`start ${id}`);
          cleanup.defer(() => void events.push(`stop ${id}`));
          return fails === undefined ? Promise.resolve(id) : Promise.reject(fails);
        },
      }),
  };
}

const options = { log: createLogger(), disabled: [], required: [], configOf: () => ({}) };

test("a plugin starts after what it requires, and stops before it", async () => {
  const { events, of } = recording();
  await (await PluginGraph.start([of("b", ["a"]), of("a")], options))[Symbol.asyncDispose]();
  expect(events).toEqual(["start a", "start b", "stop b", "stop a"]);
});

test("one that fails or has nothing to do is told of, and the rest goes on", async () => {
  const { events, of } = recording();
  const plugins = [of("a", [], new Error("no disk")), of("b", [], new SkipPlugin("no address")), of("c")];
  await using graph = await PluginGraph.start(plugins, options);
  expect(events).toEqual(["start a", "stop a", "start b", "stop b", "start c"]);
  const records = graph.records({ os: "linux", architecture: "amd64", variant: "" });
  expect(records.map(({ id, initError }) => [id, initError?.message])).toEqual([
    ["a", "no disk"],
    ["b", "no address: skip plugin"],
    ["c", undefined],
  ]);
});

test("a required plugin that is unknown or disabled: nothing starts at all", async () => {
  const { events, of } = recording();
  const started = PluginGraph.start([of("a"), of("b")], {
    ...options,
    disabled: ["t.v1.b"],
    required: ["t.v1.a", "t.v1.b", "t.v1.none"],
  });
  const error: unknown = await started.catch((reason: unknown) => reason);
  expect(isErrorClass(error, "failed-precondition")).toBe(true);
  expect(String(error)).toContain("load required plugin t.v1.b (unknown or disabled), t.v1.none (unknown or disabled)");
  expect(events).toEqual([]);
});

test("a required plugin that fails: what comes after it does not start, what came before is stopped", async () => {
  const { events, of } = recording();
  const plugins = [of("a"), of("b", [], new Error("no disk")), of("server")];
  const error: unknown = await PluginGraph.start(plugins, { ...options, required: ["t.v1.b"] }).catch(
    (reason: unknown) => reason,
  );
  expect(String(error)).toContain("load required plugin t.v1.b (no disk): failed precondition");
  expect(events).toEqual(["start a", "start b", "stop b", "stop a"]);
});

test("plugins that require each other are refused, with the circle", () => {
  const { of } = recording();
  expect(() => inOrder([of("a", ["b"]), of("b", ["a"])])).toThrow("t.v1.a -> t.v1.b -> t.v1.a");
});
