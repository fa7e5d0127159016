import { expect, test } from "bun:test";
import { importsOf, resolve } from "./modules.ts";

const facts = (text: string): string[] =>
  importsOf("packages/a/src/x.ts", text).map((one) => `${one.line} ${one.kind} ${one.specifier}`);

test("finds every form of import and tells what is loaded from what is only a type", () => {
  expect(
    facts(`import type { A } from "./a.ts";
import { type B } from "./b.ts";
import c, { type D } from "./c.ts";
export * from "./d.ts";
export type { E } from "./e.ts";
import "./f.ts";
const g = () => import("./g.ts");
type H = import("./h.ts").T;
const i = require("./i.ts");
const w = new Worker(new URL("./w.ts", import.meta.url));`),
  ).toEqual([
    "1 type ./a.ts",
    "2 type ./b.ts",
    "3 static ./c.ts",
    "6 static ./f.ts",
    "4 static ./d.ts",
    "5 type ./e.ts",
    "7 lazy ./g.ts",
    "8 type ./h.ts",
    "9 static ./i.ts",
    "10 lazy ./w.ts",
  ]);
});

test("names what is imported, as the exporting module calls it", () => {
  expect(
    importsOf("x.ts", 'import { readFileSync as read, type Stats } from "node:fs"; import * as all from "m";'),
  ).toMatchObject([{ names: ["readFileSync"] }, { names: ["*"] }]);
});

test("refuses an import whose name is computed", () => {
  expect(() => importsOf("x.ts", "const a = import(name);")).toThrow("computed name");
});

test("resolves doors, relative paths and outside modules", () => {
  expect(resolve("packages/a/src/x.ts", "@stevedore/base")).toEqual({ file: "packages/base/src/index.ts" });
  expect(resolve("packages/a/src/x.ts", "@stevedore/core/content")).toEqual({ file: "packages/core/src/content.ts" });
  expect(resolve("packages/a/src/x.ts", "@stevedore/wire/gen/a/b_pb")).toEqual({ file: "packages/wire/gen/a/b_pb.ts" });
  expect(resolve("packages/a/src/deep/x.ts", "../y.ts")).toEqual({ file: "packages/a/src/y.ts" });
  expect(resolve("packages/a/src/x.ts", "node:fs")).toEqual({ external: "node:fs" });
});
