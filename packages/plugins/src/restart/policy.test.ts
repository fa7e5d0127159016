import { describe, expect, test } from "bun:test";
import { backOff, decide, parsePolicy, type TaskFacts } from "./policy.ts";

const label = (name: string): string => `containerd.io/restart.${name}`;
const running = (more: Readonly<Record<string, string>> = {}): Record<string, string> => ({
  [label("status")]: "running",
  ...Object.fromEntries(Object.entries(more).map(([name, value]) => [label(name), value])),
});
const ended = (exitStatus: number): TaskFacts => ({ status: "stopped", exitStatus });
const none: TaskFacts = { status: "none", exitStatus: 0 };

describe("decide()", () => {
  test.each([
    ["no labels", {}, ended(1), "leave"],
    ["always", running(), ended(0), "start"],
    ["always, no task", running({ policy: "always" }), none, "start"],
    ["it runs", running(), { status: "running", exitStatus: 0 }, "leave"],
    ["it is paused", running(), { status: "paused", exitStatus: 0 }, "leave"],
    ["no", running({ policy: "no" }), ended(1), "leave"],
    ["on-failure, success", running({ policy: "on-failure" }), ended(0), "leave"],
    ["on-failure", running({ policy: "on-failure" }), ended(3), "start"],
    ["on-failure, no task", running({ policy: "on-failure" }), none, "leave"],
    ["on-failure:2 after one", running({ policy: "on-failure:2", count: "1" }), ended(3), "start"],
    ["on-failure:2 after two", running({ policy: "on-failure:2", count: "2" }), ended(3), "leave"],
    ["unless-stopped", running({ policy: "unless-stopped" }), ended(0), "start"],
    ["unless-stopped, stopped", running({ policy: "unless-stopped", "explicitly-stopped": "true" }), ended(0), "leave"],
    ["stopped is wanted", { [label("status")]: "stopped" }, { status: "running", exitStatus: 0 }, "stop"],
    ["stopped is wanted and is", { [label("status")]: "stopped" }, ended(0), "leave"],
    ["stopped is wanted of nothing", { [label("status")]: "stopped" }, none, "leave"],
    ["another status", { [label("status")]: "dancing" }, ended(0), "leave"],
  ] as const)("%s", (_name, labels, task, decision) => {
    expect(decide(labels, task)).toBe(decision);
  });

  test("refuses what it cannot read", () => {
    expect(() => parsePolicy("always:3")).toThrow('restart policy "always" not support max retry count');
    expect(() => parsePolicy("on-failure:x")).toThrow("invalid max retry count: x");
    expect(() => parsePolicy("sometimes")).toThrow('restart policy "sometimes" not supported');
    expect(() => decide(running({ policy: "on-failure:2", count: "many" }), ended(1))).toThrow("is no number");
  });
});

test("backOff() doubles up to the interval", () => {
  expect([0, 1, 2, 6, 7, 1_000].map((failures) => backOff(failures, 10_000))).toEqual([
    100, 200, 400, 6_400, 10_000, 10_000,
  ]);
  expect(backOff(3, 50)).toBe(50);
});
