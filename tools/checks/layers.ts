// The layer check: every import must be allowed by tools/layers.json. A refused one is printed with the chain that leads to it.
import { isBoolean, isString, listOf, maybe, readJson, shapeOf } from "../json.ts";
import { say, sources } from "../project.ts";
import { type ImportFact, importGraph, resolve } from "./modules.ts";

/** One room of the house: which files are in it and what they may import. */
export type Room = {
  /** May hold `{x}`, filled with what the path's `{x}` matched. */
  readonly name: string;
  /** Files, or folders ending in `/`. */
  readonly paths: readonly string[];
  /** Rooms it may import; `*` for any, `a/*` for any below a. Its own room always. */
  readonly may: readonly string[];
  /** Rooms it may import with `import()` and as types only. */
  readonly lazily?: readonly string[] | undefined;
  /** Modules from outside the repository it may import; absent means any but those that need a mark. */
  readonly modules?: readonly string[] | undefined;
  /** May block the event loop: import functions whose name ends in Sync. */
  readonly blocking?: boolean | undefined;
  /** Of the blocking functions, those it may import: they take microseconds and wait for nothing. */
  readonly sync?: readonly string[] | undefined;
  /** May import bun:ffi. */
  readonly ffi?: boolean | undefined;
};

/** What must not be reachable by any number of static imports, and why. */
export type Never = { readonly from: string; readonly to: readonly string[]; readonly why: string };

const isLayers = shapeOf({
  rooms: listOf(
    shapeOf({
      name: isString,
      paths: listOf(isString),
      may: listOf(isString),
      lazily: maybe(listOf(isString)),
      modules: maybe(listOf(isString)),
      blocking: maybe(isBoolean),
      sync: maybe(listOf(isString)),
      ffi: maybe(isBoolean),
    }),
  ),
  never: listOf(shapeOf({ from: isString, to: listOf(isString), why: isString })),
});

/** The table of tools/layers.json. */
export type Layers = { readonly rooms: readonly Room[]; readonly never: readonly Never[] };
type Owned = { readonly room: Room; readonly name: string };

/** The room that owns a file, or undefined. */
export function ownerOf(layers: Layers, file: string): Owned | undefined {
  for (const room of layers.rooms) {
    for (const path of room.paths) {
      const pattern = RegExp(
        `^${path.replace(/[.+]/g, "\\$&").replace("{x}", "([^/]*)")}${path.endsWith("/") ? "" : "$"}`,
      );
      const match = pattern.exec(file);
      if (match === null) continue;
      const folder = path.endsWith("/") ? (match[0].split("/").at(-2) ?? "") : (match[1] ?? "");
      return { room, name: room.name.replace("{x}", folder) };
    }
  }
  return undefined;
}

function allows(list: readonly string[], name: string): boolean {
  return list.some(
    (item) => item === "*" || item === name || (item.endsWith("/*") && name.startsWith(item.slice(0, -1))),
  );
}

function refusal(layers: Layers, file: string, fact: ImportFact): string | undefined {
  const from = ownerOf(layers, file);
  if (from === undefined) return undefined;
  const target = resolve(file, fact.specifier);
  if ("external" in target) {
    if (target.external === "bun:ffi" && from.room.ffi !== true)
      return `${from.name} may not import bun:ffi, only os may`;
    if (from.room.modules !== undefined && !from.room.modules.includes(target.external)) {
      return `${from.name} may import of outside modules only: ${from.room.modules.join(", ")}`;
    }
    const blocking = fact.names.find((name) => name.endsWith("Sync") && from.room.sync?.includes(name) !== true);
    if (from.room.blocking !== true && blocking !== undefined && !file.endsWith(".test.ts")) {
      return `${from.name} may not block the event loop: ${blocking} of ${target.external} (only os and the metadata store may)`;
    }
    return undefined;
  }
  const to = ownerOf(layers, target.file);
  if (to === undefined) return `no rule of tools/layers.json covers ${target.file}`;
  if (fact.specifier.startsWith(".") && !fact.byPath && packageOf(file) !== packageOf(target.file)) {
    return `${target.file} belongs to another package: import it by name`;
  }
  if (to.name === from.name || allows(from.room.may, to.name)) return undefined;
  if (allows(from.room.lazily ?? [], to.name)) {
    if (fact.kind !== "static") return undefined;
    return `${from.name} may import ${to.name} only lazily (import()) or as a type`;
  }
  return `${from.name} may not import ${to.name}, only: ${[...from.room.may, ...(from.room.lazily ?? [])].join(", ") || "nothing"}`;
}

function packageOf(file: string): string {
  // Tests and tools outside packages/ are one house, without doors between them.
  return /^packages\/[^/]+/.exec(file)?.[0] ?? "";
}

/** The shortest way by imports from a file that `isStart` accepts to `goal`, following `kinds`. */
function chainTo(
  graph: ReadonlyMap<string, readonly ImportFact[]>,
  starts: readonly string[],
  isGoal: (file: string) => boolean,
  follow: (fact: ImportFact) => boolean,
): string[] | undefined {
  const cameFrom = new Map<string, string | undefined>(starts.map((file) => [file, undefined]));
  const queue = [...starts];
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
    if (isGoal(file)) {
      const chain: string[] = [];
      for (let at: string | undefined = file; at !== undefined; at = cameFrom.get(at)) chain.unshift(at);
      return chain;
    }
    for (const fact of graph.get(file) ?? []) {
      const target = resolve(file, fact.specifier);
      if (!follow(fact) || "external" in target || cameFrom.has(target.file)) continue;
      cameFrom.set(target.file, file);
      queue.push(target.file);
    }
  }
  return undefined;
}

/** Checks a graph of imports. @returns one message per problem; empty when all is well. */
export function checkLayers(layers: Layers, graph: ReadonlyMap<string, readonly ImportFact[]>): string[] {
  const problems: string[] = [];
  const entries = [...graph.keys()].filter((file) => file === "packages/cli/src/main.ts");
  for (const [file, facts] of graph) {
    if (ownerOf(layers, file) === undefined) problems.push(`${file}: no rule of tools/layers.json covers this file`);
    for (const fact of facts) {
      const why = refusal(layers, file, fact);
      if (why === undefined) continue;
      const chain = chainTo(
        graph,
        entries,
        (at) => at === file,
        () => true,
      ) ?? [file];
      problems.push(`${file}:${fact.line}: ${why}\n    ${[...chain, fact.specifier].join("\n    -> ")}`);
    }
  }
  for (const rule of layers.never) {
    const starts = [...graph.keys()].filter((file) => file.startsWith(rule.from) && !file.endsWith(".test.ts"));
    const forbidden = (file: string): boolean => {
      const owner = ownerOf(layers, file);
      return owner !== undefined && allows(rule.to, owner.name);
    };
    const chain = chainTo(graph, starts, forbidden, (fact) => fact.kind === "static");
    if (chain !== undefined) problems.push(`${rule.why}, but:\n    ${chain.join("\n    -> ")}`);
  }
  return problems;
}

/** Reads tools/layers.json and every source file. */
export async function checkRepository(): Promise<string[]> {
  const layers = await readJson("tools/layers.json", isLayers);
  const files = (await sources("packages", "tests", "tools", "bench")).filter((file) => file.endsWith(".ts"));
  return checkLayers(layers, await importGraph(files));
}

if (import.meta.main) {
  const problems = await checkRepository();
  for (const problem of problems) say(problem);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
