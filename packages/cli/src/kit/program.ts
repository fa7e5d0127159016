/** Runs a command line: global flags, the walk down the command tree, errors and exit codes as the peers have them. */
import { messageOf } from "@stevedore/base";
import type { Command, CommandEntry, CommandGroup, CommandIO, CommandSpec } from "./command.ts";
import type { FlagSet, FlagValues } from "./flags.ts";
import { commandHelp, groupHelp, programHelp } from "./help.ts";
import { parseFlags, UsageError } from "./parse.ts";

/** A program: its page, its flags and how global flags become what commands get as `globals`. */
export interface Program<S extends FlagSet, G> {
  readonly name: string;
  readonly usage: string;
  readonly version: string;
  /** The line that `--version` prints. */
  readonly versionLine: string;
  readonly description?: string;
  /** What an error's line begins with; absent: the program's name and a colon. */
  readonly errorPrefix?: string;
  readonly flags: S;
  readonly commands: readonly CommandEntry<G>[];
  /** Turns global flags into what commands see. Must be cheap: it runs for help as well. */
  readonly globals: (flags: FlagValues<S>, io: CommandIO) => G;
  /** What runs when no command is named; absent: the program's page is shown. */
  readonly defaultAction?: (globals: G, io: CommandIO) => Promise<number>;
}

/** Thrown by an action to end with an exit code and no message of its own. */
export class ExitCode extends Error {
  override readonly name = "ExitCode";
  readonly code: number;
  constructor(code: number) {
    super(`exit code ${code}`);
    this.code = code;
  }
}

/** Wraps flags and an action into a {@link Command}, keeping the types of the flags for the action. */
export function defineCommand<G>() {
  return <S extends FlagSet>(spec: CommandSpec<S, G>): Command<G> => ({
    kind: "command",
    flags: spec.flags,
    ...(spec.argsUsage === undefined ? {} : { argsUsage: spec.argsUsage }),
    ...(spec.description === undefined ? {} : { description: spec.description }),
    run: async (call) => {
      const parsed = parseFlags(spec.flags, call.argv, {
        env: call.io.env,
        leadingArguments: spec.leadingArguments ?? 0,
      });
      if (parsed.help) {
        call.showHelp(call.io.stdout);
        return 0;
      }
      return spec.action({
        flags: parsed.values,
        given: parsed.given,
        args: parsed.rest,
        globals: call.globals,
        io: call.io,
        parents: call.parents,
        showHelp: call.showHelp,
      });
    },
  });
}

/**
 * Runs the program. Never throws: failures are printed to stderr after the program's prefix.
 * @returns the exit code.
 */
export async function runProgram<S extends FlagSet, G>(
  program: Program<S, G>,
  argv: readonly string[],
  io: CommandIO,
): Promise<number> {
  try {
    return await dispatch(program, argv, io);
  } catch (error) {
    if (error instanceof ExitCode) return error.code;
    io.stderr.write(`${program.errorPrefix ?? `${program.name}: `}${messageOf(error)}\n`);
    return 1;
  }
}

async function dispatch<S extends FlagSet, G>(
  program: Program<S, G>,
  argv: readonly string[],
  io: CommandIO,
): Promise<number> {
  const page = (): string => programHelp(program);
  const parsed = guardUsage(() => parseFlags({ ...program.flags }, argv, { env: io.env, version: true }), { io, page });
  if (parsed.help) {
    io.stdout.write(page());
    return 0;
  }
  if (parsed.version) {
    io.stdout.write(`${program.versionLine}\n`);
    return 0;
  }
  const [name, ...rest] = parsed.rest;
  if (name === undefined) {
    if (program.defaultAction !== undefined) return program.defaultAction(program.globals(parsed.values, io), io);
    io.stdout.write(page());
    return 0;
  }
  if (name === "help" || name === "h") return showHelpFor({ program, page }, { path: rest, io });
  const entry = findEntry(program.commands, name);
  if (entry === undefined) {
    io.stderr.write(`No help topic for '${name}'\n`);
    return 3;
  }
  return walk(entry, {
    path: `${program.name} ${entry.names[0]}`,
    argv: rest,
    globals: program.globals(parsed.values, io),
    io,
    parents: new Map(),
  });
}

interface Step<G> {
  readonly path: string;
  readonly argv: readonly string[];
  readonly globals: G;
  readonly io: CommandIO;
  readonly parents: ReadonlyMap<string, Readonly<Record<string, unknown>>>;
}

async function walk<G>(entry: CommandEntry<G>, step: Step<G>): Promise<number> {
  const node = await entry.load();
  if (node.kind === "command") return runCommand({ node, entry }, step);
  const page = (): string => groupPage({ node, entry }, step.path);
  const parsed = guardUsage(() => parseFlags(node.flags, step.argv, { env: step.io.env }), { io: step.io, page });
  const [name, ...rest] = parsed.rest;
  if (parsed.help || name === undefined) {
    step.io.stdout.write(page());
    return 0;
  }
  if (name === "help" || name === "h") {
    const child = rest[0] === undefined ? undefined : findEntry(node.commands, rest[0]);
    step.io.stdout.write(child === undefined ? page() : await pageOf(child, `${step.path} ${child.names[0]}`));
    return 0;
  }
  const child = findEntry(node.commands, name);
  if (child === undefined) {
    step.io.stderr.write(`No help topic for '${name}'\n`);
    return 3;
  }
  const parents = new Map(step.parents).set(entry.names[0], parsed.values);
  return walk(child, { ...step, path: `${step.path} ${child.names[0]}`, argv: rest, parents });
}

async function runCommand<G>(found: { node: Command<G>; entry: CommandEntry<G> }, step: Step<G>): Promise<number> {
  const page = (): string => commandPage(found, step.path);
  const showHelp = (out: { write(text: string): void }): void => out.write(page());
  try {
    return await found.node.run({
      argv: step.argv,
      globals: step.globals,
      io: step.io,
      parents: step.parents,
      showHelp,
    });
  } catch (error) {
    if (error instanceof UsageError) step.io.stdout.write(`Incorrect Usage: ${error.message}\n\n${page()}`);
    throw error;
  }
}

function guardUsage<T>(parse: () => T, of: { readonly io: CommandIO; readonly page: () => string }): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof UsageError) of.io.stdout.write(`Incorrect Usage: ${error.message}\n\n${of.page()}`);
    throw error;
  }
}

function findEntry<G>(entries: readonly CommandEntry<G>[], name: string): CommandEntry<G> | undefined {
  return entries.find((entry) => entry.names.includes(name));
}

async function showHelpFor<S extends FlagSet, G>(
  of: { readonly program: Program<S, G>; readonly page: () => string },
  asked: { readonly path: readonly string[]; readonly io: CommandIO },
): Promise<number> {
  const [name] = asked.path;
  if (name === undefined) {
    asked.io.stdout.write(of.page());
    return 0;
  }
  const entry = findEntry(of.program.commands, name);
  if (entry === undefined) {
    asked.io.stderr.write(`No help topic for '${name}'\n`);
    return 3;
  }
  asked.io.stdout.write(await pageOf(entry, `${of.program.name} ${entry.names[0]}`));
  return 0;
}

async function pageOf<G>(entry: CommandEntry<G>, path: string): Promise<string> {
  const node = await entry.load();
  return node.kind === "group" ? groupPage({ node, entry }, path) : commandPage({ node, entry }, path);
}

function groupPage<G>(of: { readonly node: CommandGroup<G>; readonly entry: CommandEntry<G> }, path: string): string {
  const { description } = of.node;
  return groupHelp({
    path,
    usage: of.entry.usage,
    commands: of.node.commands,
    flags: of.node.flags,
    ...(description === undefined ? {} : { description }),
  });
}

function commandPage<G>(of: { readonly node: Command<G>; readonly entry: CommandEntry<G> }, path: string): string {
  const { argsUsage, description } = of.node;
  return commandHelp({
    path,
    usage: of.entry.usage,
    flags: of.node.flags,
    ...(argsUsage === undefined ? {} : { argsUsage }),
    ...(description === undefined ? {} : { description }),
  });
}
