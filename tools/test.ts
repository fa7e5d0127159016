// Runs the test lanes: `bun tools/test.ts all|unit|e2e|fuzz|crash|scale|vm|soak|calibrate`.
// The lanes run in a mount and a process namespace of their own, with an empty /run/containerd and a TMPDIR that must be empty
// again at the end: whatever is left there, or running, is a leak and fails the run. Counts come from the runner's junit
// reports; the last line printed is the count of the whole run, also written to build/test/counts.json.
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readExpected } from "../tests/harness/expected.ts";
import { leaked, snapshot } from "../tests/harness/leaks.ts";
import { type Calibration, calibratedCases, keepCalibration, ROWS } from "./calibration.ts";
import { countLine } from "./counts.ts";
import { resetInternalSignals } from "./internal-signals.ts";
import { type Case, judge, readJunit } from "./junit.ts";
import { root, say, sources } from "./project.ts";

const only = process.env["ONLY"] ?? "";
const minutes = Number(process.env["MINUTES"] || "10");
const seed = process.env["SEED"] || String(Math.floor(Math.random() * 2 ** 31));
const inside = process.env["STEVEDORE_INSIDE"] === "1";

/** One `bun test` may take this long, besides what its slowest case may; the unit tests of all packages need a fraction. */
const PROCESS_LIMIT_MS = 10 * 60_000;
/** The same for a guest: a boot and one case on the slowest machine, which begin before it is known how slow it is. */
const GUEST_LIMIT_MS = 40 * 60_000;
/** A test that does not say otherwise; end-to-end cases set their own. */
const TEST_LIMIT_MS = 20_000;

const UNSHARE = [
  "unshare",
  "--mount",
  "--propagation",
  "private",
  "--pid",
  "--fork",
  "--mount-proc",
  "--kill-child=KILL",
];

type Lane = {
  readonly folders: readonly string[];
  readonly pattern: RegExp;
  readonly env?: Readonly<Record<string, string>>;
  /** What has a process of its own: one that hangs or crashes does not take the others' results with it. */
  readonly apart: "file" | "package";
  /** Only files whose text has this. */
  readonly holds?: string;
  /**
   * Its files together run for as long as MINUTES says, from SEED. "each": each its part, by its weight. "left": one that does not need
   * its part leaves it to those after it.
   */
  readonly timed?: "each" | "left";
  /** Files that need more of an "each" lane's time than the others, by how many times as much. */
  readonly weights?: Readonly<Record<string, number>>;
};

const TIMED = ["fuzz", "crash", "scale", "vm", "soak"] as const;
/** Ten phases by seven victims on two kinds of kernel need more rounds than anything else. */
const WEIGHTS: Readonly<Record<string, number>> = { "tests/crash/keeper.crash.test.ts": 4 };
const PLAIN = RegExp(`(?<!\\.(?:${TIMED.join("|")}))\\.test\\.ts$`);
const END_TO_END = RegExp(`^tests/(?!harness/|coverage/).*${PLAIN.source}`);
/** In `make test` each of the random lanes has this many minutes. */
const SHORT_MINUTES = 20 / 60;

const lanes: Readonly<Record<string, Lane>> = {
  unit: { folders: ["packages", "tools", "tests/harness", "tests/coverage"], pattern: PLAIN, apart: "package" },
  e2e: { folders: ["tests"], pattern: END_TO_END, apart: "file" },
  calibrate: {
    folders: ["tests"],
    pattern: END_TO_END,
    apart: "file",
    holds: ROWS,
    env: { STEVEDORE_SIDE: "peer" },
  },
  ...Object.fromEntries(
    TIMED.map((name): [string, Lane] => [
      name,
      {
        folders: ["packages", "tests"],
        pattern: RegExp(`\\.${name}\\.test\\.ts$`),
        apart: "file",
        timed: name === "vm" ? "left" : "each",
        weights: WEIGHTS,
      },
    ]),
  ),
};

async function filesOf(lane: Lane): Promise<string[]> {
  const matching = (await sources(...lane.folders)).filter((file) => lane.pattern.test(file));
  const files = lane.holds === undefined ? matching : await holding(matching, lane.holds);
  const named = only === "" ? [] : files.filter((file) => file.includes(only));
  if (only === "" || named.length > 0) return named.length > 0 ? named : files;
  // A row's id: files that do not name it have no case of it.
  return holding(files, only);
}

async function holding(files: readonly string[], text: string): Promise<string[]> {
  const texts = await Promise.all(files.map(async (file) => readFile(join(root, file), "utf8")));
  return files.filter((_, index) => texts[index]?.includes(text) === true);
}

async function runLane(
  name: string,
  lane: Lane,
  more: { env?: Readonly<Record<string, string>>; minutes?: number } = {},
): Promise<Case[]> {
  const files = await filesOf(lane);
  if (files.length === 0) return [];
  const limit = more.minutes ?? minutes;
  say(
    `--- ${name}: ${files.length} files${lane.timed !== undefined ? `, MINUTES=${limit.toFixed(2)} SEED=${seed}` : ""}`,
  );
  const begun = performance.now();
  const cases: Case[] = [];
  // What a file found out about this machine's speed, for the next one.
  const slowness = join(root, "build/test", `${name}.slowness`);
  await rm(slowness, { force: true });
  const groups = Map.groupBy(files, (file) =>
    lane.apart === "file" ? file : (/^packages\/[^/]+|^[^/]+/.exec(file)?.[0] ?? file),
  );
  let waiting = files.length;
  const weightOf = (file: string): number => lane.weights?.[file] ?? 1;
  const whole = files.reduce((sum, file) => sum + weightOf(file), 0);
  for (const group of groups.values()) {
    const left = limit - (performance.now() - begun) / 60_000;
    const weight = group.reduce((sum, file) => sum + weightOf(file), 0);
    const share = lane.timed === "left" ? Math.max(0, left / waiting) : (limit * weight) / whole;
    waiting -= group.length;
    const timed = lane.timed === undefined ? {} : { MINUTES: String(share), SEED: seed, STEVEDORE_SLOWNESS: slowness };
    const testLimit = TEST_LIMIT_MS + (lane.timed === undefined ? 0 : Math.ceil(share * 60_000));
    cases.push(...(await runFiles(name, group, { ...lane.env, ...timed, ...more.env }, testLimit)));
    for (const line of await snapshot()) if (!firstSeen.has(line)) firstSeen.set(line, group.join(", "));
  }
  return cases;
}

async function runFiles(
  lane: string,
  files: readonly string[],
  env: Readonly<Record<string, string>>,
  testLimit: number,
): Promise<Case[]> {
  const report = join(root, "build/test", `${lane}.xml`);
  const skipped = join(root, "build/test", `${lane}.skipped`);
  for (const old of [report, skipped]) await rm(old, { force: true });
  const byName = only === "" || files.some((file) => file.includes(only)) ? [] : [`--test-name-pattern=\\b${only}\\b`];
  const child = Bun.spawn(
    [
      process.execPath,
      "test",
      `--timeout=${Math.ceil(testLimit)}`,
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      ...byName,
      ...files.map((file) => `./${file}`),
    ],
    {
      cwd: root,
      env: { ...process.env, CI: "1", STEVEDORE_SKIPPED: skipped, ...env },
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      timeout: Math.ceil((lane === "vm" ? GUEST_LIMIT_MS : PROCESS_LIMIT_MS) + testLimit),
    },
  );
  const code = await child.exited;
  // Cases that found while running that there is no time for them: the runner has no word for it.
  const told = new Set((await readFile(skipped, "utf8").catch(() => "")).split("\n"));
  const cases = readJunit(await readFile(report, "utf8").catch(() => "")).map(
    (one): Case => (one.state === "passed" && told.has(one.name) ? { ...one, state: "skipped" } : one),
  );
  // The runner itself failed: a file that does not load, a crash, the time limit.
  if (code !== 0 && !(byName.length > 0 && cases.length === 0) && !cases.some((one) => one.state === "failed")) {
    cases.push({
      file: files.length === 1 ? (files[0] ?? lane) : lane,
      name: `the test runner ended with status ${code}`,
      state: "failed",
    });
  }
  return cases;
}

async function gate(): Promise<Case[]> {
  const child = Bun.spawn([process.execPath, "tools/ok.ts", "--without-tests"], {
    cwd: root,
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  return [{ file: "tools/ok.ts", name: "make ok", state: (await child.exited) === 0 ? "passed" : "failed" }];
}

/** What was on the machine after a group of files ran, with that group: what is left at the end is told with who left it. */
const firstSeen = new Map<string, string>();

async function leaksOf(before: ReadonlySet<string>, wanted: string): Promise<Case> {
  // The file system of cgroups is the whole machine's. The VM lane makes its own in the guests, which look after them: one here is another run's.
  const found = async (): Promise<string[]> =>
    leaked(before, await snapshot()).filter((line) => wanted !== "vm" || !line.startsWith("cgroup "));
  // What was told to end may need a moment.
  let left = await found();
  for (let tries = 0; left.length > 0 && tries < 20; tries += 1) {
    await Bun.sleep(100);
    left = await found();
  }
  const told = (await readFile(process.env["STEVEDORE_LEAKS"] ?? "", "utf8").catch(() => ""))
    .split("\n")
    .filter((line) => line !== "");
  const all = [...told, ...left];
  for (const line of all) {
    const by = firstSeen.get(line);
    say(`left behind${by === undefined ? "" : ` by ${by}`}: ${line}`);
  }
  return { file: "tools/test.ts", name: "nothing is left behind", state: all.length === 0 ? "passed" : "failed" };
}

async function inNamespaces(lane: string): Promise<number> {
  const made = !existsSync("/run/containerd");
  await mkdir("/run/containerd", { recursive: true });
  const temporary = await mkdtemp(join(tmpdir(), "stevedore-test-"));
  const leaks = join(root, "build/test/leaks.txt");
  await rm(leaks, { force: true });
  const script = 'mount -t tmpfs -o mode=0711 tmpfs /run/containerd && "$@"; status=$?; exit $status';
  const child = Bun.spawn([...UNSHARE, "bash", "-c", script, "bash", process.execPath, "tools/test.ts", lane], {
    cwd: root,
    env: { ...process.env, STEVEDORE_INSIDE: "1", STEVEDORE_LEAKS: leaks, TMPDIR: temporary, SEED: seed },
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  const code = await child.exited;
  await rm(temporary, { recursive: true, force: true });
  if (made) await rmdir("/run/containerd").catch(() => undefined);
  return code;
}

async function runAll(wanted: string): Promise<Case[]> {
  const before = await snapshot();
  const cases: Case[] = [];
  const calibration: Calibration = await calibratedCases();
  const product = calibration.complete ? { STEVEDORE_SIDE: "product" } : {};
  if (wanted === "all" && only === "") cases.push(...(await gate()));
  for (const name of wanted === "all" ? ["unit", "e2e", "fuzz", "crash"] : [wanted]) {
    const lane = lanes[name];
    const short = wanted === "all" ? { minutes: SHORT_MINUTES } : {};
    if (lane !== undefined)
      cases.push(...(await runLane(name, lane, { ...short, env: name === "e2e" ? product : {} })));
  }
  if (wanted === "calibrate" && lanes[wanted] !== undefined) await keepCalibration(await filesOf(lanes[wanted]), cases);
  const judged = judge(
    cases,
    wanted === "calibrate" ? [] : await readExpected(join(root, "tests/expected-failures")),
    wanted === "all" && only === "",
  );
  return [...judged, await leaksOf(before, wanted)];
}

async function main(): Promise<number> {
  const wanted = process.argv[2] ?? "all";
  const lane = lanes[wanted];
  if (wanted !== "all" && (lane === undefined || (await filesOf(lane)).length === 0)) {
    say(`there is no ${wanted} lane yet`);
    return 2;
  }
  await mkdir(join(root, "build/test"), { recursive: true });
  if (!inside) {
    if (process.getuid?.() === 0) return inNamespaces(wanted);
    say("tests start containers: they need root");
    return 2;
  }
  resetInternalSignals();
  const cases = await runAll(wanted);
  const count = (state: Case["state"]): number => cases.filter((one) => one.state === state).length;
  for (const one of cases)
    if (one.state === "failed")
      say(`failed: ${one.file} > ${one.name}${one.message === undefined ? "" : `\n  ${one.message.split("\n")[0]}`}`);
  const counts = { passed: count("passed"), failed: count("failed"), skipped: count("skipped") };
  await writeFile(join(root, "build/test/counts.json"), JSON.stringify(counts));
  await writeFile(join(root, "build/test", `results-${wanted}.json`), JSON.stringify(cases, undefined, 1));
  say(countLine([counts]));
  return counts.failed === 0 && counts.passed > 1 ? 0 : 1;
}

process.exitCode = await main();
