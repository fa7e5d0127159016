// Per-binary dependency lists: tools/deps/<name>.txt holds what a name loads at its start, so that growth shows in review.
// A name's entry is the module that main.ts imports lazily for it; its list is the closure over static, non-type imports.
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isString, readJson, recordOf } from "../json.ts";
import { root, sources } from "../project.ts";
import { type ImportFact, importGraph, resolve } from "./modules.ts";

/** Repository files and outside modules that loading `entry` loads, sorted. */
export function closureOf(graph: ReadonlyMap<string, readonly ImportFact[]>, entry: string): string[] {
  const seen = new Set<string>();
  const queue = [entry];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    for (const fact of graph.get(file) ?? []) {
      if (fact.kind !== "static") continue;
      const target = resolve(file, fact.specifier);
      if ("external" in target) seen.add(target.external);
      else queue.push(target.file);
    }
  }
  return [...seen].sort();
}

async function lists(): Promise<Map<string, string>> {
  const entries = await readJson("tools/deps/entries.json", recordOf(isString));
  const files = (await sources("packages")).filter((file) => file.endsWith(".ts") && !file.endsWith(".test.ts"));
  const graph = await importGraph(files);
  const made = new Map<string, string>();
  for (const [name, entry] of Object.entries(entries)) {
    if (!graph.has(entry)) continue;
    made.set(`tools/deps/${name}.txt`, `${closureOf(graph, entry).join("\n")}\n`);
  }
  return made;
}

/** One message per list that differs from the sources. */
export async function checkDependencyLists(): Promise<string[]> {
  const problems: string[] = [];
  for (const [path, wanted] of await lists()) {
    const found = existsSync(join(root, path)) ? await readFile(join(root, path), "utf8") : "";
    if (found === wanted) continue;
    const before = new Set(found.split("\n"));
    const after = new Set(wanted.split("\n"));
    const added = [...after].filter((line) => !before.has(line)).map((line) => `\n  + ${line}`);
    const gone = [...before].filter((line) => !after.has(line)).map((line) => `\n  - ${line}`);
    problems.push(`${path} is not what the sources say (make fix writes it):${[...added, ...gone].join("")}`);
  }
  return problems;
}

/** Writes every list anew. */
export async function writeDependencyLists(): Promise<void> {
  await mkdir(join(root, "tools/deps"), { recursive: true });
  for (const [path, text] of await lists()) await writeFile(join(root, path), text);
}
