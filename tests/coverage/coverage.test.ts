import { expect, test } from "bun:test";
import { weigh } from "./check.ts";
import { coversOf } from "./covers.ts";

test("reads covers lists and @covers comments without running the test", () => {
  const text = `
// @covers cmd:ctr run, flag:ctr run --rm
/** @covers rpc:a.B/C */
row("F1", "x", { covers: ["flag:ctr run --tty", "config:root"] }, async () => {});`;
  expect(coversOf("x.test.ts", text).sort()).toEqual([
    "cmd:ctr run",
    "config:root",
    "flag:ctr run --rm",
    "flag:ctr run --tty",
    "rpc:a.B/C",
  ]);
});

test("an item has tests, or an issue, or neither; a claim on nothing is told", () => {
  const covers = new Map([
    ["flag:ctr * --help", ["help.test.ts"]],
    ["cmd:ctr rnu", ["typo.test.ts"]],
  ]);
  const verdict = weigh(["cmd:ctr run", "flag:ctr run --help", "cmd:ctr pull"], covers, { "cmd:ctr pu*": "issue 5" });
  expect(verdict.standings).toEqual([
    { item: "cmd:ctr run", tests: [] },
    { item: "flag:ctr run --help", tests: ["help.test.ts"] },
    { item: "cmd:ctr pull", tests: [], waits: "issue 5" },
  ]);
  expect(verdict.unknown).toEqual(["cmd:ctr rnu"]);
});
