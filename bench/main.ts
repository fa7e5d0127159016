// Both sides in one interleaved run: ours first, theirs first, alternating, so that a busy machine slows both alike.
// `make bench` runs all, `make bench ONLY=run PAIRS=5` one case for a quick look. A table goes to standard output, the raw
// samples to build/bench/<case>.json. Needs root, Debian's containerd under build/peer, runc and python3-grpcio.
import { mkdir, writeFile } from "node:fs/promises";
import { loadavg } from "node:os";
import { join } from "node:path";
import type { Maker } from "../tests/harness/daemon.ts";
import { CASES, type Case, KEPT, type Row } from "./cases.ts";
import { floors } from "./floors.ts";
import { PULL_CASES } from "./pulls.ts";
import { MAKERS, sweepNamespaces } from "./world.ts";

/** Fewer say little of the tail. */
const USUAL_PAIRS = 31;

const ALL: readonly Case[] = [...CASES, ...PULL_CASES];

function out(text: string): void {
  process.stdout.write(`${text}\n`);
}

function complain(text: string): void {
  process.stderr.write(`${text}\n`);
}

type Samples = Record<Maker, number[]>;

function at(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

function shown(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 1_000 ? 1 : 0).padStart(8);
}

function line({ name, unit, asked }: Row, { ours, debian }: Samples): string {
  const ratio = at(ours, 0.5) / at(debian, 0.5);
  const verdict = asked === undefined ? "" : `asked ${asked.toFixed(2)}  ${ratio <= asked ? "met" : "NOT met"}`;
  const side = (values: readonly number[]): string => `${shown(at(values, 0.5))} ${shown(at(values, 0.99))}`;
  return `${name.padEnd(30)} ${unit} ${side(ours)}  ${side(debian)}  ${ratio.toFixed(2).padStart(5)}  ${verdict}`;
}

async function compare(one: Case, wanted: number): Promise<void> {
  const pairs = Math.min(wanted, one.pairs ?? wanted);
  const before = loadavg()[0] ?? 0;
  const samples = one.rows.map((): Samples => ({ ours: [], debian: [] }));
  {
    await using stack = new AsyncDisposableStack();
    const measure = await one.prepare(stack);
    if (one.pairs === undefined) for (const maker of MAKERS) await measure(maker);
    for (let pair = 0; pair < pairs; pair += 1) {
      for (const maker of pair % 2 === 0 ? MAKERS : MAKERS.toReversed()) {
        const values = await measure(maker);
        for (const [index, row] of samples.entries()) row[maker].push(values[index] ?? Number.NaN);
      }
    }
  }
  const load = `load ${before.toFixed(1)} before, ${(loadavg()[0] ?? 0).toFixed(1)} after`;
  for (const [index, row] of one.rows.entries()) out(line(row, samples[index] ?? { ours: [], debian: [] }));
  out(`    ${pairs} pairs, ${load}. ${one.note}`);
  const rows = one.rows.map((row, index) => ({ ...row, samples: samples[index] }));
  const kept = { name: one.name, date: new Date().toISOString(), pairs, load, note: one.note, rows };
  await writeFile(join(KEPT, `${one.name}.json`), `${JSON.stringify(kept, undefined, 1)}\n`);
}

async function showFloors(rounds: number): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const all = (await floors(stack)).map((floor) => ({ ...floor, ms: new Array<number>() }));
  for (let round = 0; round < rounds; round += 1) for (const floor of all) floor.ms.push(await floor.measure());
  out("floors (best, median, p99 in ms)");
  for (const { name, ms } of all) {
    out(`    ${name.padEnd(38)} ${shown(at(ms, 0))} ${shown(at(ms, 0.5))} ${shown(at(ms, 0.99))}`);
  }
  await writeFile(
    join(KEPT, "floors.json"),
    `${JSON.stringify(
      all.map(({ name, ms }) => ({ name, ms })),
      undefined,
      1,
    )}\n`,
  );
}

async function main(): Promise<number> {
  const wanted = Number(process.env["PAIRS"] ?? USUAL_PAIRS);
  if (!Number.isInteger(wanted) || wanted < 1)
    throw new Error(`PAIRS is a number of pairs from 1, not ${process.env["PAIRS"]}`);
  const only = process.env["ONLY"] ?? "";
  const names = [...ALL.map(({ name }) => name), "floors"];
  if (only !== "" && !names.includes(only)) throw new Error(`ONLY is one of ${names.join(", ")}, not ${only}`);
  const leaks = join(KEPT, "leaks");
  await mkdir(KEPT, { recursive: true });
  await writeFile(leaks, "");
  process.env["STEVEDORE_LEAKS"] = leaks;
  out(`${"".padEnd(30)}      ours:             theirs:`);
  out(`${"".padEnd(30)}      median      p99    median      p99   ratio`);
  let failed = 0;
  for (const one of ALL.filter(({ name }) => only === "" || name === only)) {
    // One that fails must not take the others' figures with it.
    await compare(one, wanted).catch((error: unknown) => {
      failed += 1;
      complain(`${one.name}: ${error instanceof Error ? error.message : String(error)}`);
    });
  }
  if (only === "" || only === "floors") await showFloors(wanted);
  await sweepNamespaces();
  const left = await Bun.file(leaks).text();
  if (left !== "") complain(`left behind:\n${left}`);
  return failed === 0 && left === "" ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    complain(`bench: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(2);
  },
);
