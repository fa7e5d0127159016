/** Help pages in the layout of the peers' command lines (urfave/cli v2), so that scripts and eyes find what they know. */
import type { CommandEntry } from "./command.ts";
import type { FlagSet } from "./flags.ts";
import { tabwrite } from "./tabwriter.ts";

/** urfave/cli writes its pages through `tabwriter.NewWriter(out, 1, 8, 2, ' ', 0)`. */
const HELP_TABLE = { minWidth: 1, tabWidth: 8, padding: 2, padChar: " " };

const HELP_FLAG_LINE = "   --help, -h\tshow help\n";

/** One line a flag: names, placeholder, usage, default and environment. */
export function flagLines(flags: FlagSet): string {
  const lines: string[] = [];
  for (const flag of Object.values(flags)) {
    if (flag.hidden) continue;
    const word = flag.placeholder === undefined ? "" : ` ${flag.placeholder}`;
    const names = flag.names.map((name) => `${name.length === 1 ? "-" : "--"}${name}${word}`);
    const spelled = flag.repeated ? `${names.join(", ")} [ ${names.join(", ")} ]` : names.join(", ");
    const shown = flag.shownDefault === undefined || flag.boolean ? "" : ` (default: ${flag.shownDefault})`;
    const onByDefault = flag.boolean && flag.shownDefault !== undefined ? ` (default: ${flag.shownDefault})` : "";
    const env = flag.env.length === 0 ? "" : ` [${flag.env.map((name) => `$${name}`).join(", ")}]`;
    lines.push(`   ${spelled}\t${flag.usage}${shown}${onByDefault}${env}\n`);
  }
  return lines.join("");
}

function commandLines<G>(commands: readonly CommandEntry<G>[]): string {
  const lines = commands
    .filter((entry) => entry.hidden !== true)
    .map((entry) => `   ${entry.names.join(", ")}\t${entry.usage}\n`);
  return `${lines.join("")}   help, h\tShows a list of commands or help for one command\n`;
}

export interface ProgramPage<G> {
  readonly name: string;
  readonly usage: string;
  readonly version: string;
  readonly description?: string;
  readonly commands: readonly CommandEntry<G>[];
  readonly flags: FlagSet;
}

/** The page of the whole program. */
export function programHelp<G>(page: ProgramPage<G>): string {
  const description = page.description === undefined ? "" : `\nDESCRIPTION:\n${indent(page.description)}\n`;
  return tabwrite(
    `NAME:\n   ${page.name} - ${page.usage}\n\nUSAGE:\n   ${page.name} [global options] command [command options]\n` +
      `\nVERSION:\n   ${page.version}\n${description}\nCOMMANDS:\n${commandLines(page.commands)}` +
      `\nGLOBAL OPTIONS:\n${flagLines(page.flags)}${HELP_FLAG_LINE}   --version, -v\tprint the version\n`,
    HELP_TABLE,
  );
}

export interface GroupPage<G> {
  readonly path: string;
  readonly usage: string;
  readonly description?: string;
  readonly commands: readonly CommandEntry<G>[];
  readonly flags: FlagSet;
}

/** The page of a command with subcommands. */
export function groupHelp<G>(page: GroupPage<G>): string {
  const description = page.description === undefined ? "" : `\nDESCRIPTION:\n${indent(page.description)}\n`;
  return tabwrite(
    `NAME:\n   ${page.path} - ${page.usage}\n\nUSAGE:\n   ${page.path} [command options]\n${description}` +
      `\nCOMMANDS:\n${commandLines(page.commands)}\nOPTIONS:\n${flagLines(page.flags)}${HELP_FLAG_LINE}`,
    HELP_TABLE,
  );
}

export interface CommandPage {
  readonly path: string;
  readonly usage: string;
  readonly argsUsage?: string;
  readonly description?: string;
  readonly flags: FlagSet;
}

/** The page of one command. */
export function commandHelp(page: CommandPage): string {
  const args = page.argsUsage === undefined || page.argsUsage === "" ? "" : ` ${page.argsUsage}`;
  const description = page.description === undefined ? "" : `\nDESCRIPTION:\n${indent(page.description)}\n`;
  return tabwrite(
    `NAME:\n   ${page.path} - ${page.usage}\n\nUSAGE:\n   ${page.path} [command options]${args}\n${description}` +
      `\nOPTIONS:\n${flagLines(page.flags)}${HELP_FLAG_LINE}`,
    HELP_TABLE,
  );
}

function indent(text: string): string {
  return text
    .split("\n")
    .map((line) => (line === "" ? line : `   ${line}`))
    .join("\n");
}
