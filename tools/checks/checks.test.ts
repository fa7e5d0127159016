import { expect, test } from "bun:test";
import { closureOf } from "./deps.ts";
import { linksOf, targetsOf } from "./docs.ts";
import { declaredExports } from "./doors.ts";
import { importsOf } from "./modules.ts";
import { silencesOf } from "./silences.ts";

const lint = ["oxlint", "disable-next-line"].join("-");

test.each([
  [`// ${lint} typescript/no-explicit-any -- the peer sends anything here`, undefined],
  [`// ${lint} typescript/no-explicit-any`, "gives no reason"],
  [`// ${lint} -- because`, "does not name its rule"],
  [["// @ts", "ignore -- because"].join("-"), "is not used here"],
  [["// @ts", "expect-error -- the type is wrong upstream"].join("-"), undefined],
  [`/* ${["oxlint", "disable"].join("-")} no-console */`, "gives no reason"],
])("the silence %s", (line, problem) => {
  const [found] = silencesOf(`const a = 1;\n${line}\n`);
  expect(found?.line).toBe(2);
  if (problem === undefined) expect(found?.problem).toBeUndefined();
  else expect(found?.problem).toContain(problem);
});

test("what is loaded at start is the closure over imports that are neither lazy nor types", () => {
  const graph = new Map(
    Object.entries({
      "packages/a/src/main.ts":
        'import "./b.ts"; import type { T } from "./t.ts"; const l = () => import("./l.ts"); import { x } from "@stevedore/base";',
      "packages/a/src/b.ts": 'import fs from "node:fs";',
      "packages/base/src/index.ts": "",
    }).map(([file, text]) => [file, importsOf(file, text)]),
  );
  expect(closureOf(graph, "packages/a/src/main.ts")).toEqual([
    "node:fs",
    "packages/a/src/b.ts",
    "packages/a/src/main.ts",
    "packages/base/src/index.ts",
  ]);
});

test("links and make targets of a document", () => {
  expect(linksOf("[a](docs/a.md#x) [b](https://example.org) `[c](c.md)` [d](#here)\n```\n[e](e.md)\n```\n")).toEqual([
    "docs/a.md",
  ]);
  expect(targetsOf("```\nmake demo\nsudo make install PREFIX=/usr\n```\nSee `make ok`.")).toEqual([
    "demo",
    "install",
    "ok",
  ]);
});

test("a door's symbols and whether they are documented", () => {
  const text =
    "/** Says a. */\nexport function a(): void {}\n// not a doc\nexport const b = 1;\n/** Of c. */\nconst c = 1;\nexport class D {}\n";
  expect(declaredExports("x.ts", text).map((one) => [one.name, one.documented])).toEqual([
    ["a", true],
    ["b", false],
    ["D", false],
  ]);
});
