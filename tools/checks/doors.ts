// Which symbols a package's door (src/index.ts) exports, and whether each has a doc comment where it is declared.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseSync } from "oxc-parser";
import { root, sources } from "../project.ts";
import { resolve } from "./modules.ts";

type Declared = { readonly name: string; readonly documented: boolean; readonly line: number };

/** What a source text declares and exports under its own name. Overloads count as documented when one of them is. */
export function declaredExports(file: string, text: string): Declared[] {
  const parsed = parseSync(file, text);
  const found: Declared[] = [];
  for (const statement of parsed.program.body) {
    if (statement.type !== "ExportNamedDeclaration" || statement.declaration === null) continue;
    const documented = hasDoc(text, statement.start);
    const line = text.slice(0, statement.start).split("\n").length;
    for (const name of namesOf(statement.declaration)) found.push({ name, documented, line });
  }
  const ok = new Set(found.filter((one) => one.documented).map((one) => one.name));
  return found.map((one) => ({ ...one, documented: ok.has(one.name) }));
}

type Declaration = {
  readonly type: string;
  readonly id?: unknown;
  readonly declarations?: readonly { readonly id: unknown }[];
};

function namesOf(declaration: Declaration): string[] {
  if (declaration.declarations !== undefined) return declaration.declarations.flatMap((one) => identifier(one.id));
  return identifier(declaration.id);
}

function identifier(id: unknown): string[] {
  return typeof id === "object" && id !== null && "name" in id && typeof id.name === "string" ? [id.name] : [];
}

function hasDoc(text: string, start: number): boolean {
  return (
    /\*\/\s*$/.test(text.slice(0, start)) &&
    text.slice(0, start).lastIndexOf("/**") >
      text.slice(0, start).lastIndexOf("*/", start - 4 - (start - text.slice(0, start).trimEnd().length))
  );
}

/** The names `file` makes visible to importers, each with where it is declared; `export *` and re-exports are followed. */
async function doorOf(file: string, seen: Set<string>): Promise<(Declared & { readonly file: string })[]> {
  if (seen.has(file)) return [];
  seen.add(file);
  const text = await readFile(join(root, file), "utf8").catch(() => "");
  const found = declaredExports(file, text).map((one) => ({ ...one, file }));
  for (const item of parseSync(file, text).module.staticExports) {
    for (const entry of item.entries) {
      if (entry.moduleRequest === null) continue;
      const target = resolve(file, entry.moduleRequest.value);
      if ("external" in target || target.file.includes("/gen/")) continue;
      const inner = await doorOf(target.file, new Set(seen));
      const all = entry.importName.name === null;
      found.push(...inner.filter((one) => all || one.name === entry.importName.name));
    }
  }
  return found;
}

/** One message per symbol that a door exports without a doc comment. */
export async function undocumentedExports(): Promise<string[]> {
  const problems = new Set<string>();
  for (const door of (await sources("packages")).filter((file) => /^packages\/[^/]+\/src\/index\.ts$/.test(file))) {
    for (const one of await doorOf(door, new Set())) {
      if (!one.documented)
        problems.add(`${one.file}:${one.line}: ${one.name} is exported by ${door} without a doc comment`);
    }
  }
  return [...problems];
}
