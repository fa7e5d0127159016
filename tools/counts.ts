// Adds up the counts of several runs, each a JSON argument as tools/test.ts writes it, and prints them as one line.
import { isNumber, shapeOf } from "./json.ts";
import { say } from "./project.ts";

const isCounts = shapeOf({ passed: isNumber, failed: isNumber, skipped: isNumber });

/** The line for the sum: `N passed, N failed`, and what was skipped if anything was. */
export function countLine(runs: readonly { passed: number; failed: number; skipped: number }[]): string {
  const sum = (pick: (run: { passed: number; failed: number; skipped: number }) => number): number =>
    runs.reduce((total, run) => total + pick(run), 0);
  const skipped = sum((run) => run.skipped);
  return `${sum((run) => run.passed)} passed, ${sum((run) => run.failed)} failed${skipped === 0 ? "" : `, ${skipped} skipped`}`;
}

if (import.meta.main) {
  const runs = process.argv.slice(2).map((text) => {
    const value: unknown = JSON.parse(text);
    if (!isCounts(value)) throw new Error(`these are no counts: ${text}`);
    return value;
  });
  // Nothing to add up means that the run broke off before it had a result.
  say(runs.length === 0 ? "0 passed, 1 failed" : countLine(runs));
}
