import { expect, test } from "bun:test";
import { countLine } from "./counts.ts";
import { type Case, judge, readJunit } from "./junit.ts";

test("reads passed, failed and skipped cases with their file and full name", () => {
  const xml = `<testsuites><testsuite name="x"><testcase name="a &lt;b&gt;" classname="outer" file="t.test.ts" />
    <testcase name="c" file="t.test.ts"><failure type="AssertionError" message="expected 1&#10;got 2">long</failure></testcase>
    <testcase name="d" file="t.test.ts"><skipped message="TODO" /></testcase></testsuite></testsuites>`;
  expect(readJunit(xml)).toEqual([
    { file: "t.test.ts", name: "outer > a <b>", state: "passed" },
    { file: "t.test.ts", name: "c", state: "failed", message: "expected 1\ngot 2" },
    { file: "t.test.ts", name: "d", state: "skipped" },
  ]);
});

const expected = (key: string): { key: string; cause: string; where: string } => ({
  key,
  cause: "not yet",
  where: "list.txt:1",
});
const one = (name: string, state: Case["state"]): Case => ({ file: "t.test.ts", name, state });

test("a listed case that fails is skipped, one that passes fails, one that is gone fails a whole run", () => {
  const cases = [one("a", "failed"), one("b", "passed"), one("c", "failed")];
  const list = [expected("t.test.ts > a"), expected("t.test.ts > b"), expected("t.test.ts > gone")];
  const states = (complete: boolean): string[] => judge(cases, list, complete).map((found) => found.state);
  expect(states(false)).toEqual(["skipped", "failed", "failed"]);
  expect(states(true)).toEqual(["skipped", "failed", "failed", "failed"]);
});

test("counts of several runs are one line", () => {
  expect(countLine([{ passed: 2, failed: 0, skipped: 0 }])).toBe("2 passed, 0 failed");
  expect(
    countLine([
      { passed: 2, failed: 0, skipped: 1 },
      { passed: 3, failed: 1, skipped: 0 },
    ]),
  ).toBe("5 passed, 1 failed, 1 skipped");
});
