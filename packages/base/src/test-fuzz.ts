/**
 * What a fuzz test of the timed lanes runs by: `MINUTES` (of its file, 0.1 without it) and `SEED` of the environment,
 * as parameters of fast-check. `parts` is the number of tests that share the file's time.
 */
export function fuzzing(parts = 1): {
  readonly seed: number;
  readonly numRuns: number;
  readonly interruptAfterTimeLimit: number;
  readonly markInterruptAsFailure: false;
} {
  return {
    seed: setting("SEED", 1) | 0,
    numRuns: Number.MAX_SAFE_INTEGER,
    interruptAfterTimeLimit: (setting("MINUTES", 0.1) * 60_000) / parts,
    markInterruptAsFailure: false,
  };
}

/** make exports its variables, empty ones too. */
function setting(name: string, otherwise: number): number {
  const text = process.env[name] ?? "";
  return text === "" ? otherwise : Number(text);
}

/** Milliseconds a fuzz test may take as a whole: its time and a minute for a slow machine. */
export function fuzzLimitMs(): number {
  return fuzzing().interruptAfterTimeLimit + 60_000;
}
