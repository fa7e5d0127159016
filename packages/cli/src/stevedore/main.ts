/** `stevedore`: what no peer's command line has. */
import { backgroundContext, type RequestContext } from "@stevedore/base";
import type { Client } from "@stevedore/sdk/client";
import type { CommandEntry, CommandIO } from "../kit/command.ts";
import { stringFlag } from "../kit/flags.ts";
import { defineCommand, type Program, runProgram } from "../kit/program.ts";
import { VERSION } from "../version.ts";

/** What every command gets from the global flags. */
export interface StevedoreGlobals {
  /** Opens a connection; nothing connects before its first call. */
  readonly connect: () => Promise<Session>;
}

/** A connected client and the context its calls are made in. Dispose it when the command ends. */
export interface Session extends AsyncDisposable {
  readonly client: Client;
  readonly context: RequestContext;
}

/** Makes a command of `stevedore`. */
export const stevedoreCommand = defineCommand<StevedoreGlobals>();

const FLAGS = {
  address: stringFlag("address", "address of the daemon's GRPC socket", {
    aliases: ["a"],
    env: ["CONTAINERD_ADDRESS"],
    initial: "/run/containerd/containerd.sock",
  }),
  namespace: stringFlag("namespace", "namespace to use with commands", {
    aliases: ["n"],
    env: ["CONTAINERD_NAMESPACE"],
    initial: "default",
  }),
};

const COMMANDS: readonly CommandEntry<StevedoreGlobals>[] = [
  {
    names: ["image"],
    usage: "verify and repair images",
    load: async () => (await import("./image/group.ts")).command,
  },
  {
    names: ["registry"],
    usage: "explain how registries are reached",
    load: async () => (await import("./registry/group.ts")).command,
  },
];

/** Names of the commands, for the dispatch of the binary. */
export const STEVEDORE_COMMANDS: ReadonlySet<string> = new Set(COMMANDS.flatMap(({ names }) => names));

/** `stevedore` as data. */
export const STEVEDORE: Program<typeof FLAGS, StevedoreGlobals> = {
  name: "stevedore",
  usage: "what stevedore does beyond containerd",
  version: VERSION.version,
  versionLine: `stevedore ${VERSION.version} ${VERSION.revision}`,
  flags: FLAGS,
  commands: COMMANDS,
  globals: ({ address, namespace }, { signal }) => ({
    connect: async () => {
      const { connectClient } = await import("@stevedore/sdk/connect");
      const client = connectClient({ address });
      return {
        client,
        context: backgroundContext({ namespace, signal }),
        [Symbol.asyncDispose]: async () => client[Symbol.asyncDispose](),
      };
    },
  }),
};

/** Runs `stevedore` with these arguments (program name left out) and returns the exit code. */
export async function runStevedore(argv: readonly string[], io: CommandIO): Promise<number> {
  return runProgram(STEVEDORE, argv, io);
}
