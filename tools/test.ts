// Runs the test lanes: `bun tools/test.ts all|unit|e2e|fuzz|crash|scale|vm|soak|calibrate`.
// Counts come from the runner's own junit report; the last line printed is the count of the whole run.
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Case, readJunit } from "./junit.ts";
import { root, say, sources } from "./project.ts";

const only = process.env["ONLY"] ?? "";

/** Minutes one test file may take before it is stopped; the longest end-to-end file needs three. */
const FILE_LIMIT_MS = 10 * 60_000;

async function runFiles(lane: string, files: readonly string[], env: Record<string, string>): Promise<Case[]> {
  if (files.length === 0) return [];
  const folder = join(root, "build/test", lane);
  await mkdir(folder, { recursive: true });
  const report = join(folder, "junit.xml");
  await rm(report, { force: true });
  const select =
    only === "" || files.some((file) => file.includes(only)) ? [] : ["--test-name-pattern", `\\b${only}\\b`];
  const child = Bun.spawn(
    [
      process.execPath,
      "test",
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      ...select,
      ...files.map((file) => `./${file}`),
    ],
    {
      cwd: root,
      env: { ...process.env, CI: "1", ...env },
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      timeout: FILE_LIMIT_MS * 3,
    },
  );
  const code = await child.exited;
  const cases = readJunit(await readFile(report, "utf8").catch(() => ""));
  if (code !== 0 && !cases.some((one) => one.state === "failed")) {
    // The runner itself failed: a file that does not load, a crash, a time-out.
    cases.push({ file: lane, name: `the test runner ended with status ${code}`, state: "failed" });
  }
  return cases;
}

async function testFiles(...folders: readonly string[]): Promise<string[]> {
  const files = (await sources(...folders)).filter((file) => file.endsWith(".test.ts"));
  const chosen = files.filter((file) => file.includes(only));
  return only === "" || chosen.length === 0 ? files : chosen;
}

const lanes: Readonly<Record<string, () => Promise<Case[]>>> = {
  unit: async () => runFiles("unit", await testFiles("packages", "tools", "tests/harness"), {}),
  e2e: async () => runFiles("e2e", await testFiles("tests/e2e", "tests/interop"), {}),
};

async function gate(): Promise<Case[]> {
  const child = Bun.spawn([process.execPath, "tools/ok.ts"], {
    cwd: root,
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  return [{ file: "tools/ok.ts", name: "make ok", state: (await child.exited) === 0 ? "passed" : "failed" }];
}

async function main(): Promise<void> {
  const wanted = process.argv[2] ?? "all";
  const cases: Case[] = [];
  if (wanted === "all") {
    if (only === "") cases.push(...(await gate()));
    for (const lane of ["unit", "e2e"]) cases.push(...((await lanes[lane]?.()) ?? []));
  } else {
    const lane = lanes[wanted];
    if (lane === undefined) {
      say(`there is no ${wanted} lane yet`);
      process.exitCode = 2;
      return;
    }
    cases.push(...(await lane()));
  }
  const count = (state: Case["state"]): number => cases.filter((one) => one.state === state).length;
  for (const one of cases) if (one.state === "failed") say(`failed: ${one.file}: ${one.name}`);
  say(
    `${count("passed")} passed, ${count("failed")} failed${count("skipped") === 0 ? "" : `, ${count("skipped")} skipped`}`,
  );
  process.exitCode = count("failed") === 0 && cases.length > 0 ? 0 : 1;
}

await main();
