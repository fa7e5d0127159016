// The quick gate, at most 30 s: every check by itself, side by side, then the unit tests of the packages that changed.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { checkDependencyLists } from "./checks/deps.ts";
import { checkDocs } from "./checks/docs.ts";
import { checkRepository as checkLayers } from "./checks/layers.ts";
import { silencesOf } from "./checks/silences.ts";
import { root, run, say, sources, tool } from "./project.ts";

type Outcome = { readonly problems: readonly string[]; readonly note?: string };
type Check = { readonly name: string; readonly run: () => Promise<Outcome> };

async function command(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const ran = await run(args, { env });
  return { problems: ran.code === 0 ? [] : [`${ran.stdout}${ran.stderr}`.trimEnd()] };
}

async function silences(): Promise<Outcome> {
  const problems: string[] = [];
  let count = 0;
  for (const file of (await sources("packages", "tests", "tools", "bench")).filter(
    (name) => name.endsWith(".ts") && !name.includes("/gen/"),
  )) {
    for (const silence of silencesOf(await readFile(join(root, file), "utf8"))) {
      count += 1;
      if (silence.problem !== undefined) problems.push(`${file}:${silence.line}: ${silence.problem}`);
    }
  }
  return { problems, note: `${count} silences` };
}

async function coverage(): Promise<Outcome> {
  const ran = await run([process.execPath, "tests/coverage/check.ts"]);
  const lines = ran.stdout.trimEnd().split("\n");
  const note = lines.at(-1)?.replace("coverage: ", "") ?? "";
  return { problems: ran.code === 0 ? [] : [ran.stderr + lines.slice(0, -1).join("\n")], note };
}

/** Folders with tests whose files differ from the parent commit (or from it and the working tree). */
async function changedTests(): Promise<string[]> {
  const base = (await run(["git", "rev-parse", "--verify", "-q", "HEAD~1"])).stdout.trim();
  const tracked = base === "" ? await sources() : (await run(["git", "diff", "--name-only", base])).stdout.split("\n");
  const untracked = (await run(["git", "ls-files", "--others", "--exclude-standard"])).stdout.split("\n");
  const folders = new Set<string>();
  for (const file of [...tracked, ...untracked]) {
    const folder = /^(packages\/[^/]+\/src|tools)\//.exec(file)?.[1];
    if (folder !== undefined) folders.add(folder);
  }
  // Timed lanes (`x.fuzz.test.ts`) have their own targets.
  const tests = (await sources(...folders)).filter((file) => /\/[^/.]+\.test\.ts$/.test(file));
  return folders.size === 0 ? [] : tests;
}

async function unitTests(): Promise<Outcome> {
  const tests = await changedTests();
  if (tests.length === 0) return { problems: [], note: "no package changed" };
  const ran = await run(
    [process.execPath, "test", "--only-failures", "--timeout=30000", ...tests.map((file) => `./${file}`)],
    {
      env: { CI: "1" },
    },
  );
  const note = /(\d+) pass\n/.exec(ran.stderr)?.[1] ?? "0";
  return { problems: ran.code === 0 ? [] : [`${ran.stdout}${ran.stderr}`.trimEnd()], note: `${note} passed` };
}

const checks: readonly Check[] = [
  { name: "format", run: () => command([...tool("biome"), "check", "--error-on-warnings", "--reporter=summary"]) },
  { name: "types", run: () => command([...tool("tsc"), "-p", "."]) },
  { name: "lint", run: () => command([...tool("oxlint"), "packages", "tests", "tools", "bench"]) },
  { name: "layers", run: async () => ({ problems: await checkLayers() }) },
  { name: "dependency lists", run: async () => ({ problems: await checkDependencyLists() }) },
  { name: "docs", run: async () => ({ problems: await checkDocs() }) },
  { name: "silences", run: silences },
  { name: "coverage", run: coverage },
  // The whole run has all of them anyway.
  ...(process.argv.includes("--without-tests") ? [] : [{ name: "tests of changed packages", run: unitTests }]),
];

async function report(check: Check): Promise<boolean> {
  const started = performance.now();
  const outcome = await check.run().catch((error: unknown): Outcome => ({ problems: [String(error)] }));
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const note = outcome.note === undefined ? "" : ` (${outcome.note})`;
  say(`${outcome.problems.length === 0 ? "ok  " : "FAIL"} ${check.name}${note} ${seconds} s`);
  for (const problem of outcome.problems) say(problem.replace(/^/gm, "     "));
  return outcome.problems.length === 0;
}

const started = performance.now();
const results = await Promise.all(checks.map(report));
say(
  `make ok: ${results.every(Boolean) ? "all well" : "problems above"} (${((performance.now() - started) / 1000).toFixed(1)} s)`,
);
process.exitCode = results.every(Boolean) ? 0 : 1;
