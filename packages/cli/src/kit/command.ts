import type { FlagSet, FlagValues } from "./flags.ts";
import type { Output } from "./output.ts";

/** What an action may touch of the world. */
export interface CommandIO {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Ends when the user interrupts or `--timeout` passes. */
  readonly signal: AbortSignal;
}

/** What a command was called with. `G` is the type of the values of the program's global flags. */
export interface Invocation<S extends FlagSet, G> {
  readonly flags: FlagValues<S>;
  readonly given: ReadonlySet<keyof S>;
  readonly args: readonly string[];
  readonly globals: G;
  readonly io: CommandIO;
}

/**
 * A command: flags → action → exit code. The action never exits and never reads `process.argv`.
 * A thrown error is printed as `<program>: <message>` and exits with 1.
 */
export interface Command<G> {
  readonly kind: "command";
  readonly argsUsage?: string;
  readonly description?: string;
  readonly flags: FlagSet;
  readonly run: (call: RawInvocation<G>) => Promise<number>;
}

/** What the program hands a command before its own flags are parsed. */
export interface RawInvocation<G> {
  readonly argv: readonly string[];
  readonly globals: G;
  readonly io: CommandIO;
  /** Prints the command's help. */
  readonly showHelp: (out: Output) => void;
  /** Values of the flags of the groups above this command, by group name. */
  readonly parents: ReadonlyMap<string, Readonly<Record<string, unknown>>>;
}

export interface CommandGroup<G> {
  readonly kind: "group";
  readonly description?: string;
  readonly flags: FlagSet;
  readonly commands: readonly CommandEntry<G>[];
}

/** A line in a command list; the module behind it loads only when the command is called. */
export interface CommandEntry<G> {
  /** The name, then its aliases. */
  readonly names: readonly [string, ...string[]];
  readonly usage: string;
  readonly hidden?: boolean;
  readonly load: () => Promise<Command<G> | CommandGroup<G>>;
}

export interface CommandSpec<S extends FlagSet, G> {
  readonly argsUsage?: string;
  /** How many arguments may stand before flags; default 0. */
  readonly leadingArguments?: number;
  readonly description?: string;
  readonly flags: S;
  readonly action: (call: Invocation<S, G> & Pick<RawInvocation<G>, "parents" | "showHelp">) => Promise<number>;
}
