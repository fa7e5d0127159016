import { expect, test } from "bun:test";
import { checkLayers, type Layers, ownerOf } from "./layers.ts";
import { importsOf } from "./modules.ts";

const layers: Layers = {
  rooms: [
    { name: "base", paths: ["packages/base/src/"], may: [], modules: ["node:path"] },
    { name: "os", paths: ["packages/os/src/"], may: ["base"], blocking: true, ffi: true },
    { name: "plugins/ids", paths: ["packages/plugins/src/ids.ts"], may: ["base"] },
    { name: "plugins/{x}", paths: ["packages/plugins/src/{x}/"], may: ["base", "os", "plugins/ids"] },
    { name: "cli", paths: ["packages/cli/src/"], may: ["base"], lazily: ["daemon"] },
    { name: "daemon", paths: ["packages/daemon/src/"], may: ["base", "plugins/*"] },
  ],
  never: [{ from: "packages/cli/src/", to: ["os"], why: "the command line stays light" }],
};

function check(files: Readonly<Record<string, string>>): string[] {
  return checkLayers(layers, new Map(Object.entries(files).map(([file, text]) => [file, importsOf(file, text)])));
}

test("a room is found by the first path that fits", () => {
  expect(ownerOf(layers, "packages/plugins/src/gc/x.ts")?.name).toBe("plugins/gc");
  expect(ownerOf(layers, "packages/plugins/src/ids.ts")?.name).toBe("plugins/ids");
  expect(ownerOf(layers, "packages/plugins/src/other.ts")).toBeUndefined();
});

test("allowed imports say nothing", () => {
  expect(
    check({
      "packages/base/src/index.ts": "export const a = 1;",
      "packages/os/src/index.ts":
        'import { a } from "@stevedore/base"; import { dlopen } from "bun:ffi"; import { openSync } from "node:fs";',
      "packages/plugins/src/gc/x.ts": 'import { b } from "../ids.ts"; import "./y.ts";',
      "packages/cli/src/main.ts":
        'const d = () => import("@stevedore/daemon"); import type { D } from "@stevedore/daemon";',
    }),
  ).toEqual([]);
});

test("a refused import is told with its line and the chain that leads to it, types included", () => {
  expect(
    check({
      "packages/cli/src/main.ts": 'const d = () => import("@stevedore/daemon");',
      "packages/daemon/src/index.ts": 'import { gc } from "@stevedore/plugins/gc/x";',
      "packages/plugins/src/gc/x.ts": '\nimport type { Other } from "../other/y.ts";',
    }),
  ).toEqual([
    "packages/plugins/src/gc/x.ts:2: plugins/gc may not import plugins/other, only: base, os, plugins/ids\n    packages/cli/src/main.ts\n    -> packages/daemon/src/index.ts\n    -> packages/plugins/src/gc/x.ts\n    -> ../other/y.ts",
  ]);
});

test.each([
  ["packages/base/src/x.ts", 'import "node:fs";', "of outside modules only: node:path"],
  ["packages/cli/src/x.ts", 'import { dlopen } from "bun:ffi";', "only os may"],
  ["packages/cli/src/x.ts", 'import { readFileSync } from "node:fs";', "may not block the event loop: readFileSync"],
  ["packages/cli/src/x.ts", 'import { D } from "@stevedore/daemon";', "only lazily"],
  ["packages/os/src/x.ts", 'import "../../base/src/index.ts";', "import it by name"],
  [
    "packages/os/src/x.ts",
    'import "@stevedore/nowhere";',
    "no rule of tools/layers.json covers packages/nowhere/src/index.ts",
  ],
  ["packages/nowhere/src/x.ts", "", "no rule of tools/layers.json covers this file"],
])("%s with %s is refused", (file, text, message) => {
  expect(check({ [file]: text }).join()).toContain(message);
});

test("what must never be reached is told with the whole chain", () => {
  const [problem] = check({
    "packages/cli/src/main.ts": 'import { a } from "@stevedore/base";',
    "packages/base/src/index.ts": 'import "@stevedore/os";',
    "packages/os/src/index.ts": "",
  }).filter((one) => one.startsWith("the command line"));
  expect(problem).toBe(
    "the command line stays light, but:\n    packages/cli/src/main.ts\n    -> packages/base/src/index.ts\n    -> packages/os/src/index.ts",
  );
});
