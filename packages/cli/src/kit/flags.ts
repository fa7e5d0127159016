/**
 * Flags as data. A command declares a record of flags; parsing gives a record of values with the same keys. The syntax
 * is that of Go's `flag` package, which users of the peers' command lines know: one or two dashes, `--name value` or
 * `--name=value`, booleans only by `=`, parsing stops at the first argument that is not a flag or at `--`.
 */

/** One flag. `T` is the type of its value. */
export interface Flag<T> {
  /** Spellings without dashes: the long name first, then its aliases. */
  readonly names: readonly [string, ...string[]];
  readonly usage: string;
  /** Word for the value in help; absent for booleans. */
  readonly placeholder?: string;
  readonly initial: T;
  /** The default as help shows it; absent: not shown. */
  readonly shownDefault?: string;
  /** Environment variables that set it when the flag is absent; the first non-empty one wins. */
  readonly env: readonly string[];
  readonly hidden: boolean;
  /** Whether it may be given many times. */
  readonly repeated: boolean;
  readonly boolean: boolean;
  /** A fresh place for the value of one command line. */
  readonly slot: () => FlagSlot<T>;
}

/** The value of one flag while a command line is parsed. */
export interface FlagSlot<T> {
  /** Takes the next text given for the flag. @throws FlagSyntaxError */
  take(text: string): void;
  value(): T;
}

/** Why a flag's text was refused, without the flag's name. */
export class FlagSyntaxError extends Error {
  override readonly name = "FlagSyntaxError";
}

/** Flags by key. The keys name the values that an action gets. */
export type FlagSet = Readonly<Record<string, Flag<unknown>>>;

/** The values of a flag set, by the same keys. */
export type FlagValues<S extends FlagSet> = { readonly [K in keyof S]: S[K] extends Flag<infer T> ? T : never };

interface FlagOptions {
  readonly aliases?: readonly string[];
  readonly env?: readonly string[];
  readonly hidden?: boolean;
  readonly placeholder?: string;
}

// A repeated flag starts empty, so that the first text given replaces a default and the next ones append.
function slotWith<T>(initial: T, next: (text: string, before: T) => T): () => FlagSlot<T> {
  return () => {
    let value = initial;
    return {
      take: (text) => {
        value = next(text, value);
      },
      value: () => value,
    };
  };
}

function common(name: string, usage: string, options: FlagOptions) {
  const names: [string, ...string[]] = [name, ...(options.aliases ?? [])];
  return { names, usage, env: options.env ?? [], hidden: options.hidden ?? false };
}

function parseBoolean(text: string): boolean {
  if (TRUE.has(text)) return true;
  if (FALSE.has(text)) return false;
  throw new FlagSyntaxError("parse error");
}

const TRUE = new Set(["1", "t", "T", "true", "TRUE", "True"]);
const FALSE = new Set(["0", "f", "F", "false", "FALSE", "False"]);

export function boolFlag(
  name: string,
  usage: string,
  options: FlagOptions & { readonly initial?: boolean } = {},
): Flag<boolean> {
  return {
    ...common(name, usage, options),
    initial: options.initial ?? false,
    ...(options.initial === true ? { shownDefault: "true" } : {}),
    repeated: false,
    boolean: true,
    slot: slotWith(options.initial ?? false, parseBoolean),
  };
}

export function stringFlag(
  name: string,
  usage: string,
  options: FlagOptions & { readonly initial?: string; readonly shownDefault?: string } = {},
): Flag<string> {
  const initial = options.initial ?? "";
  const shown = options.shownDefault ?? (initial === "" ? undefined : JSON.stringify(initial));
  return {
    ...common(name, usage, options),
    placeholder: options.placeholder ?? "value",
    initial,
    ...(shown === undefined ? {} : { shownDefault: shown }),
    repeated: false,
    boolean: false,
    slot: slotWith(initial, (text) => text),
  };
}

export function stringsFlag(name: string, usage: string, options: FlagOptions = {}): Flag<readonly string[]> {
  return {
    ...common(name, usage, options),
    placeholder: options.placeholder ?? "value",
    initial: [],
    repeated: true,
    boolean: false,
    slot: slotWith<readonly string[]>([], (text, before) => [...before, text]),
  };
}

/** An integer in Go's syntax (decimal, 0x, 0o, 0b, leading 0 for octal, `_` between digits). */
function parseInteger(text: string): number {
  const match = /^([+-]?)(0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]+|[0-9][0-9_]*)$/.exec(text);
  const body = match?.[2];
  if (match === null || body === undefined) throw new FlagSyntaxError("parse error");
  const digits = body.replaceAll("_", "");
  const value = Number(/^0[0-7]+$/.test(digits) ? `0o${digits.slice(1)}` : digits);
  if (!Number.isSafeInteger(value)) throw new FlagSyntaxError("value out of range");
  return match[1] === "-" ? -value : value;
}

interface NumberOptions extends FlagOptions {
  readonly initial?: number;
  /** Refuse negative values, as an unsigned flag of the peer does. */
  readonly unsigned?: boolean;
}

function numberFlag(
  name: string,
  usage: string,
  given: { options: NumberOptions; parse: (text: string) => number },
): Flag<number> {
  const { options, parse } = given;
  const initial = options.initial ?? 0;
  return {
    ...common(name, usage, options),
    placeholder: options.placeholder ?? "value",
    initial,
    shownDefault: String(initial),
    repeated: false,
    boolean: false,
    slot: slotWith(initial, (text) => {
      const value = parse(text);
      if (options.unsigned === true && value < 0) throw new FlagSyntaxError("parse error");
      return value;
    }),
  };
}

export function intFlag(name: string, usage: string, options: NumberOptions = {}): Flag<number> {
  return numberFlag(name, usage, { options, parse: parseInteger });
}

export function floatFlag(name: string, usage: string, options: NumberOptions = {}): Flag<number> {
  const parse = (text: string): number => {
    if (!/^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text)) throw new FlagSyntaxError("parse error");
    return Number(text);
  };
  return numberFlag(name, usage, { options, parse });
}

const DURATION_UNIT_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Milliseconds of a Go duration (`1h30m`, `1.5s`, `0`). @throws FlagSyntaxError */
export function parseDuration(text: string): number {
  const match = /^([+-]?)(0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)$/.exec(text);
  const body = match?.[2];
  if (match === null || body === undefined) throw new FlagSyntaxError("parse error");
  let total = 0;
  for (const [, amount, unit] of body.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g)) {
    total += Number(amount) * (DURATION_UNIT_MS[unit ?? ""] ?? 0);
  }
  return match[1] === "-" ? -total : total;
}

/** A duration as Go prints it: `1h0m0s`, `30s`, `0s`. `ms` is in milliseconds. */
export function formatDuration(ms: number): string {
  if (ms === 0) return "0s";
  const sign = ms < 0 ? "-" : "";
  const size = Math.abs(ms);
  if (size < 1e-3) return `${sign}${Math.round(size * 1e6)}ns`;
  if (size < 1) return `${sign}${trimZeros(size * 1e3)}µs`;
  if (size < 1000) return `${sign}${trimZeros(size)}ms`;
  const hours = Math.floor(size / 3_600_000);
  const minutes = Math.floor((size % 3_600_000) / 60_000);
  const seconds = trimZeros((size % 60_000) / 1000);
  if (hours > 0) return `${sign}${hours}h${minutes}m${seconds}s`;
  return minutes > 0 ? `${sign}${minutes}m${seconds}s` : `${sign}${seconds}s`;
}

function trimZeros(value: number): string {
  return String(Number(value.toFixed(9)));
}

/** A duration flag; the value is in milliseconds. */
export function durationFlag(
  name: string,
  usage: string,
  options: FlagOptions & { readonly initialMs?: number } = {},
): Flag<number> {
  const initial = options.initialMs ?? 0;
  return {
    ...common(name, usage, options),
    placeholder: options.placeholder ?? "value",
    initial,
    shownDefault: formatDuration(initial),
    repeated: false,
    boolean: false,
    slot: slotWith(initial, parseDuration),
  };
}
