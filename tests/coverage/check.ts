// The coverage gate: every RPC, command, flag and configuration key is shown by a test or waits for an issue (waits.json); one that
// is neither fails. `--list` prints every item with its tests.
import { isString, readJson, recordOf } from "../../tools/json.ts";
import { say } from "../../tools/project.ts";
import { allCovers } from "./covers.ts";
import { allItems } from "./items.ts";

/** How an item stands. */
export type Standing = { readonly item: string; readonly tests: readonly string[]; readonly waits?: string };

export type Verdict = {
  readonly standings: readonly Standing[];
  /** Named by a test but in no list of items: a spelling mistake. */
  readonly unknown: readonly string[];
};

function matcher(pattern: string): (item: string) => boolean {
  // A section of the configuration stands for its keys.
  if (pattern.startsWith("config:") && !pattern.includes("*"))
    return (item) => item === pattern || item.startsWith(`${pattern}.`);
  if (!pattern.includes("*")) return (item) => item === pattern;
  const regular = RegExp(
    `^${pattern
      .split("*")
      .map((part) => part.replace(/[.+?^$(){}|[\]\\]/g, "\\$&"))
      .join(".*")}$`,
  );
  return (item) => regular.test(item);
}

/** The issue an item waits for, or undefined. */
export function waitsFor(waits: Readonly<Record<string, string>>, item: string): string | undefined {
  return Object.entries(waits).find(([pattern]) => matcher(pattern)(item))?.[1];
}

/** Puts items, tests' claims and waiting lists together. */
export function weigh(
  items: readonly string[],
  covers: ReadonlyMap<string, readonly string[]>,
  waits: Readonly<Record<string, string>>,
): Verdict {
  // Configuration keys hold stars of their own (stream_processors.*.path), so an exact name goes before a pattern.
  const exact = new Set(items);
  const patterns = [...covers].map(([pattern, tests]) => ({
    tests,
    fits: exact.has(pattern) ? (item: string) => item === pattern : matcher(pattern),
    pattern,
  }));
  const standings = items.map((item): Standing => {
    const tests = [...new Set(patterns.filter((one) => one.fits(item)).flatMap((one) => one.tests))];
    const issue = waitsFor(waits, item);
    return tests.length > 0 || issue === undefined ? { item, tests } : { item, tests, waits: issue };
  });
  return { standings, unknown: patterns.filter((one) => !items.some(one.fits)).map((one) => one.pattern) };
}

async function main(): Promise<void> {
  const verdict = weigh(
    await allItems(),
    await allCovers(),
    await readJson("tests/coverage/waits.json", recordOf(isString)),
  );
  const open = verdict.standings
    .filter((one) => one.tests.length === 0 && one.waits === undefined)
    .map((one) => one.item);
  if (process.argv.includes("--list")) {
    for (const one of verdict.standings)
      say(`${one.item}\t${one.waits === undefined ? one.tests.join(" ") || "-" : `waits: ${one.waits}`}`);
  }
  for (const item of open) say(`no test shows ${item}, and no issue awaits it`);
  for (const item of verdict.unknown) say(`a test claims to show "${item}", which is nothing this product has`);
  const shown = verdict.standings.filter((one) => one.tests.length > 0).length;
  const waits = verdict.standings.filter((one) => one.waits !== undefined).length;
  say(
    `coverage: of ${verdict.standings.length} items ${shown} shown by tests, ${waits} wait for an issue, ${open.length} without either`,
  );
  process.exitCode = open.length + verdict.unknown.length === 0 ? 0 : 1;
}

if (import.meta.main) await main();
