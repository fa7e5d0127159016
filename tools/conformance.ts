// Makes docs/conformance.md from the last whole run of the tests: per feature row its cases, and how each went for each cast.
// `bun tools/conformance.ts` prints it, `--write` puts it into docs/.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { calibratedCases } from "./calibration.ts";
import { isString, listOf, maybe, readJson, recordOf, shapeOf } from "./json.ts";
import { root, say, sources } from "./project.ts";

const CASTS = ["peer", "ours", "our-daemon", "our-ctr", "our-shim", "their-shim"] as const;
type CastName = (typeof CASTS)[number];

const isResults = listOf(shapeOf({ file: isString, name: isString, state: isString, message: maybe(isString) }));

export type Outcome = {
  readonly file: string;
  readonly name: string;
  readonly state: string;
  readonly message?: string | undefined;
};
type Line = { readonly title: string; readonly casts: Map<CastName, string> };

function castOf(name: string): CastName | undefined {
  return CASTS.find((cast) => cast === name);
}

function mark(outcome: Outcome): string {
  if (outcome.state === "passed") return "yes";
  if (outcome.state === "skipped")
    return outcome.message?.startsWith("expected: ") === true ? `no: ${outcome.message.slice(10)}` : "not run";
  return "**no**";
}

/** The text of the page. `bySource` holds titles of cases that no live peer can show. */
export function conformancePage(
  rows: Readonly<Record<string, string>>,
  outcomes: readonly Outcome[],
  bySource: ReadonlySet<string>,
): string {
  const lines = new Map<string, Map<string, Line>>();
  for (const outcome of outcomes) {
    const match = /^([A-Z]\d+(?: [A-Z]\d+)*): (.*?)(?: \[([\w-]+)\])?$/s.exec(outcome.name.split(" > ").at(-1) ?? "");
    if (match === null) continue;
    const [, named = "", title = "", cast = ""] = match;
    // A case may show several rows.
    for (const row of named.split(" ")) {
      const known = lines.get(row) ?? new Map<string, Line>();
      const line = known.get(title) ?? { title, casts: new Map<CastName, string>() };
      line.casts.set(castOf(cast) ?? "ours", mark(outcome));
      known.set(title, line);
      lines.set(row, known);
    }
  }
  const out = [
    "# Conformance",
    "",
    "Made by `make conformance` from the last whole test run; do not edit. A row is a line of the feature list, a case a test named by it. The columns say",
    "who took part: *peer* is Debian's containerd with its own client and shim (the calibration), *ours* everything ours, *our daemon* with Debian's ctr,",
    "*our ctr* on Debian's daemon, *our shim* under Debian's daemon, *their shim* under ours. \"By source\": no live peer has it; the case cites what decides.",
    "",
  ];
  const ids = [...new Set([...Object.keys(rows), ...lines.keys()])].sort((a, b) => (a < b ? -1 : 1));
  const without = ids.filter((id) => !lines.has(id));
  out.push(
    `${ids.length - without.length} rows have tests. Without any yet: ${without.length === 0 ? "none" : without.join(", ")}.`,
    "",
  );
  out.push(
    "| row | case | peer | ours | our daemon | our ctr | our shim | their shim |",
    "|---|---|---|---|---|---|---|---|",
  );
  for (const id of ids) {
    for (const line of lines.get(id)?.values() ?? []) {
      const cells = CASTS.map(
        (cast) => line.casts.get(cast) ?? (cast === "peer" && bySource.has(`${id}: ${line.title}`) ? "by source" : ""),
      );
      out.push(
        `| ${id} | ${line.title.replaceAll("|", "\\|")} | ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`,
      );
    }
  }
  return `${out.join("\n")}\n`;
}

/** Titles (`row: title`) of the cases that name a source, read from the tests' text. */
async function titlesBySource(): Promise<Set<string>> {
  const found = new Set<string>();
  for (const file of (await sources("tests")).filter((name) => name.endsWith(".test.ts"))) {
    const text = await readFile(join(root, file), "utf8");
    for (const match of text.matchAll(/\brow\(\s*"([\w ]+)",\s*"((?:[^"\\]|\\.)*)",\s*\{((?:[^{}]|\{[^{}]*\})*)\}/g)) {
      if (/\bsource:/.test(match[3] ?? ""))
        for (const id of (match[1] ?? "").split(" ")) found.add(`${id}: ${match[2]}`);
    }
  }
  return found;
}

if (import.meta.main) {
  const outcomes: Outcome[] = [];
  for (const lane of ["all", "e2e"]) {
    const results = await readJson(`build/test/results-${lane}.json`, isResults).catch(() => []);
    if (outcomes.length === 0) outcomes.push(...results);
  }
  for (const key of (await calibratedCases()).cases)
    outcomes.push({ file: key.split(" > ")[0] ?? "", name: key.split(" > ").slice(1).join(" > "), state: "passed" });
  const page = conformancePage(
    await readJson("tests/coverage/rows.json", recordOf(isString)),
    outcomes,
    await titlesBySource(),
  );
  if (process.argv.includes("--write")) await writeFile(join(root, "docs/conformance.md"), page);
  else say(page);
}
