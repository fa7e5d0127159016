/** Refuses keys and values that the configuration does not know, saying where they stand and what was meant. */
import { classified } from "@stevedore/base";
import { isTable, type TomlTable, type TomlValue } from "./types.ts";

/** Something wrong with a configuration, at a path of keys. */
export interface Finding {
  readonly path: readonly string[];
  readonly message: string;
}

/**
 * Compares `config` with `schema`, whose values are the defaults.
 * @param open tells whether a path may hold anything.
 */
export function findProblems(
  config: TomlTable,
  schema: TomlTable,
  open: (path: readonly string[]) => boolean,
): Finding[] {
  const findings: Finding[] = [];
  const walk = (given: TomlTable, known: TomlTable, path: readonly string[]): void => {
    for (const [key, value] of Object.entries(given)) {
      const here = [...path, key];
      const expected = known[key];
      if (expected === undefined) {
        if (!open(here)) findings.push({ path: here, message: unknownKey(key, Object.keys(known)) });
      } else if (isTable(expected) && isTable(value)) {
        walk(value, expected, here);
      } else if (typeName(expected) !== typeName(value)) {
        findings.push({ path: here, message: `key "${key}" takes ${typeName(expected)}, found ${typeName(value)}` });
      } else if (Array.isArray(value)) {
        const wrong = value.find((item) => typeof item !== "string");
        if (wrong !== undefined)
          findings.push({ path: here, message: `key "${key}" takes strings, found ${typeName(wrong)}` });
      }
    }
  };
  walk(config, schema, []);
  return findings;
}

function typeName(value: TomlValue): string {
  if (Array.isArray(value)) return "a list";
  if (value instanceof Date) return "a date";
  if (typeof value === "string") return "a string";
  if (typeof value === "boolean") return "true or false";
  return typeof value === "object" ? "a table" : "a number";
}

function unknownKey(key: string, known: readonly string[]): string {
  const near = nearest(key, known);
  return near === undefined ? `unknown key "${key}"` : `unknown key "${key}", did you mean "${near}"?`;
}

/** The known word closest to `word`, if it is close enough to be a slip: at most a third of it differs. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let distance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const found = editDistance(word, candidate);
    if (found < distance) {
      distance = found;
      best = candidate;
    }
  }
  return best;
}

/** Edits (insert, remove, replace) that turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}

/** Whether `path` is opened by one of `patterns`: a path by itself, or all below a path that ends in `.**`. */
export function isOpen(path: readonly string[], patterns: readonly string[]): boolean {
  const joined = path.join(".");
  return patterns.some((pattern) =>
    pattern.endsWith(".**") ? `${joined}.`.startsWith(pattern.slice(0, -2)) : joined === pattern,
  );
}

/** Turns findings into one error. @throws invalid-argument */
export function refuse(findings: readonly string[]): never {
  throw classified("invalid-argument", `load config: ${findings.join("; ")}`);
}
