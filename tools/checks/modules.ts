// Reads what each source file imports, in every form the language has: static, type-only, re-export, `import("x")`,
// `import("x").T`, `import x = require("x")`, require() and `new URL("./x.ts", import.meta.url)` (how workers are named).
import { readFile } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";
import { parseSync, Visitor } from "oxc-parser";
import { root } from "../project.ts";

/** How an import is made. Only "static" ones are loaded with the importing module. */
export type ImportKind = "static" | "type" | "lazy";

export type ImportFact = {
  /** As written. */
  readonly specifier: string;
  readonly kind: ImportKind;
  /** 1-based. */
  readonly line: number;
  /** Names imported from it, as the exporting module calls them; "*" for all. */
  readonly names: readonly string[];
  /** Named as a file for another thread or process to load (`new URL("./x.ts", import.meta.url)`), not imported here. */
  readonly byPath: boolean;
};

/** Imports of one file. Throws on a syntax error, and on an import whose name is computed. */
export function importsOf(file: string, text: string): ImportFact[] {
  const parsed = parseSync(file, text);
  const [problem] = parsed.errors;
  if (problem !== undefined) throw new Error(`${file}: ${problem.message}`);
  const found: ImportFact[] = [];
  const add = (
    specifier: string,
    kind: ImportKind,
    at: number,
    names: readonly string[] = [],
    byPath = false,
  ): void => {
    found.push({ specifier, kind, line: text.slice(0, at).split("\n").length, names, byPath });
  };

  for (const item of parsed.module.staticImports) {
    const typeOnly = item.entries.length > 0 && item.entries.every((entry) => entry.isType);
    const names = item.entries.filter((entry) => !entry.isType).map((entry) => entry.importName.name ?? "*");
    add(item.moduleRequest.value, typeOnly ? "type" : "static", item.start, names);
  }
  for (const item of parsed.module.staticExports) {
    for (const entry of item.entries) {
      if (entry.moduleRequest === null) continue;
      const names = entry.isType ? [] : [entry.importName.name ?? "*"];
      add(entry.moduleRequest.value, entry.isType ? "type" : "static", entry.start, names);
    }
  }
  new Visitor({
    ImportExpression(node) {
      if (node.source.type !== "Literal" || typeof node.source.value !== "string") {
        throw new Error(`${file}: import() of a computed name cannot be checked`);
      }
      add(node.source.value, "lazy", node.start, ["*"]);
    },
    TSImportType(node) {
      add(node.source.value, "type", node.start);
    },
    TSExternalModuleReference(node) {
      add(node.expression.value, "static", node.start, ["*"]);
    },
    CallExpression(node) {
      const [first] = node.arguments;
      if (node.callee.type !== "Identifier" || node.callee.name !== "require" || first === undefined) return;
      if (first.type !== "Literal" || typeof first.value !== "string") {
        throw new Error(`${file}: require() of a computed name cannot be checked`);
      }
      add(first.value, "static", node.start, ["*"]);
    },
    NewExpression(node) {
      const [first, second] = node.arguments;
      if (node.callee.type !== "Identifier" || node.callee.name !== "URL" || second?.type !== "MemberExpression")
        return;
      if (second.object.type !== "MetaProperty" || first?.type !== "Literal" || typeof first.value !== "string") return;
      if (/\.(ts|js)$/.test(first.value)) add(first.value, "lazy", node.start, ["*"], true);
    },
  }).visit(parsed.program);
  return found;
}

/** Where a specifier leads: a file of the repository, or a module from outside (npm package, node: or bun: module). */
export type Target = { readonly file: string } | { readonly external: string };

/** Resolves by the project's own rules: doors are `@stevedore/<room>` and `@stevedore/<room>/<path>`; relative paths name the file in full. */
export function resolve(from: string, specifier: string): Target {
  if (specifier.startsWith(".")) return { file: normalize(join(dirname(from), specifier)) };
  const door = /^@stevedore\/([^/]+)(?:\/(.+))?$/.exec(specifier);
  if (door === null) return { external: specifier };
  const [, name = "", path] = door;
  const home = name === "tests" || name === "bench" ? name : `packages/${name}`;
  if (path === undefined) return { file: `${home}/src/index.ts` };
  return { file: path.startsWith("gen/") ? `${home}/${path}.ts` : `${home}/src/${path}.ts` };
}

/** The imports of many files by path (relative to the repository). */
export async function importGraph(files: readonly string[]): Promise<Map<string, ImportFact[]>> {
  const graph = new Map<string, ImportFact[]>();
  for (const file of files) graph.set(file, importsOf(file, await readFile(join(root, file), "utf8")));
  return graph;
}
