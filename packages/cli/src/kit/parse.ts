import { type FlagSet, type FlagSlot, FlagSyntaxError, type FlagValues } from "./flags.ts";

/** A command line that does not fit; the message is Go's. The caller prints usage and exits with 1. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** What parsing found. */
export interface Parsed<S extends FlagSet> {
  readonly values: FlagValues<S>;
  /** Keys of flags that were given on the command line or by environment. */
  readonly given: ReadonlySet<keyof S>;
  /** Arguments after the flags. */
  readonly rest: readonly string[];
  /** Whether `--help` or `-h` was among the flags. */
  readonly help: boolean;
  /** Whether `--version` or `-v` was, where {@link ParseOptions.version} asked for it. */
  readonly version: boolean;
}

/** A flag's slot and what parsing needs to know of the flag. */
interface Slot extends FlagSlot<unknown> {
  readonly boolean: boolean;
}

/** How a command line is read. */
export interface ParseOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  /**
   * How many arguments may stand before flags. Go's rule is 0: the first argument ends the flags. Commands of the older
   * peer took flags behind their first arguments, and walk-throughs still do.
   */
  readonly leadingArguments?: number;
  /** Take `--version` and `-v`, which only a whole program has. */
  readonly version?: boolean;
}

/**
 * Parses `args` by Go's rules.
 * @throws UsageError `flag provided but not defined: -x`, `flag needs an argument: -x`, `invalid value "v" for flag -x: parse error`
 */
export function parseFlags<S extends FlagSet>(
  flags: S,
  args: readonly string[],
  { env, leadingArguments = 0, version: takesVersion = false }: ParseOptions,
): Parsed<S> {
  const byName = new Map<string, { key: string; slot: Slot }>();
  const slots = new Map<string, Slot>();
  const given = new Set<keyof S>();
  for (const [key, flag] of Object.entries(flags)) {
    const slot: Slot = { ...flag.slot(), boolean: flag.boolean };
    slots.set(key, slot);
    for (const name of flag.names) byName.set(name, { key, slot });
    const fromEnv = flag.env.map((name) => env[name]).find((text) => text !== undefined && text !== "");
    if (fromEnv !== undefined) {
      setValue(slot, fromEnv, { name: flag.names[0], from: `environment variable "${flag.env.join(", ")}"` });
      given.add(key);
    }
  }
  let at = 0;
  let help = false;
  let version = false;
  const leading: string[] = [];
  for (; at < args.length; at++) {
    const arg = args[at];
    if (arg === undefined) break;
    if (arg.length < 2 || !arg.startsWith("-")) {
      if (leading.length >= leadingArguments) break;
      leading.push(arg);
      continue;
    }
    if (arg === "--") {
      at++;
      break;
    }
    const body = arg.slice(arg.startsWith("--") ? 2 : 1);
    const equals = body.indexOf("=");
    const name = equals < 0 ? body : body.slice(0, equals);
    if (name === "" || name.startsWith("-")) throw new UsageError(`bad flag syntax: ${arg}`);
    const found = byName.get(name);
    if (found === undefined) {
      if (name === "help" || name === "h") {
        help = true;
        continue;
      }
      if (takesVersion && (name === "version" || name === "v")) {
        version = true;
        continue;
      }
      throw new UsageError(`flag provided but not defined: -${name}`);
    }
    given.add(found.key);
    if (equals >= 0) {
      setValue(found.slot, body.slice(equals + 1), { name });
    } else if (found.slot.boolean) {
      found.slot.take("true");
    } else {
      const next = args[at + 1];
      if (next === undefined) throw new UsageError(`flag needs an argument: -${name}`);
      at++;
      setValue(found.slot, next, { name });
    }
  }
  return { values: valuesOf<S>(slots), given, rest: [...leading, ...args.slice(at)], help, version };
}

function setValue(slot: Slot, text: string, of: { readonly name: string; readonly from?: string }): void {
  try {
    slot.take(text);
  } catch (error) {
    if (!(error instanceof FlagSyntaxError)) throw error;
    const kind = slot.boolean ? "invalid boolean value" : "invalid value";
    throw new UsageError(
      of.from === undefined
        ? `${kind} ${JSON.stringify(text)} for ${slot.boolean ? "" : "flag "}-${of.name}: ${error.message}`
        : `could not parse ${JSON.stringify(text)} as value from ${of.from} for flag ${of.name}: ${error.message}`,
    );
  }
}

function valuesOf<S extends FlagSet>(slots: ReadonlyMap<string, Slot>): FlagValues<S> {
  const values: Record<string, unknown> = {};
  for (const [key, slot] of slots) values[key] = slot.value();
  return asValues<S>(values);
}

// The table was built from the same record, key by key, so the values have the types that the record promises; the
// compiler cannot follow that through the map.
function asValues<S extends FlagSet>(values: object): FlagValues<S>;
function asValues(values: object): object {
  return values;
}
