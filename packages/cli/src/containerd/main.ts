/** `containerd`: the daemon, and the commands about its configuration and for its hooks. */
import type { CommandEntry, CommandIO } from "../kit/command.ts";
import { stringFlag } from "../kit/flags.ts";
import { type Program, runProgram } from "../kit/program.ts";
import { VERSION } from "../version.ts";
import { daemonArguments } from "./arguments.ts";
import type { ContainerdGlobals } from "./globals.ts";

const DEFAULT_CONFIG_PATH = "/etc/containerd/config.toml";

const FLAGS = {
  config: stringFlag("config", "path to the configuration file", {
    aliases: ["c"],
    initial: DEFAULT_CONFIG_PATH,
  }),
  logLevel: stringFlag("log-level", "set the logging level [trace, debug, info, warn, error, fatal, panic]", {
    aliases: ["l"],
  }),
  address: stringFlag("address", "address for containerd's GRPC server", { aliases: ["a"] }),
  root: stringFlag("root", "containerd root directory"),
  state: stringFlag("state", "containerd state directory"),
};

const BANNER = `
                    __        _                     __
  _________  ____  / /_____ _(_)___  ___  _________/ /
 / ___/ __ \\/ __ \\/ __/ __ \`/ / __ \\/ _ \\/ ___/ __  /
/ /__/ /_/ / / / / /_/ /_/ / / / / /  __/ /  / /_/ /
\\___/\\____/_/ /_/\\__/\\__,_/_/_/ /_/\\___/_/   \\__,_/

high performance container runtime
`;

const DESCRIPTION = `
containerd is a high performance container runtime whose daemon can be started
by using this command. If none of the *config*, *publish*, *oci-hook*, or *help* commands
are specified, the default action of the **containerd** command is to start the
containerd daemon in the foreground.

A default configuration is used if no TOML configuration is specified or located
at the default file location. The *containerd config* command can be used to
generate the default configuration for containerd. The output of that command
can be used and modified as necessary as a custom configuration.`;

const COMMANDS: readonly CommandEntry<ContainerdGlobals>[] = [
  {
    names: ["config"],
    usage: "information on the containerd config",
    load: async () => (await import("./config/group.ts")).command,
  },
  {
    names: ["publish"],
    usage: "binary to publish events to containerd",
    load: async () => (await import("./publish.ts")).command,
  },
  {
    names: ["oci-hook"],
    usage: "provides a base for OCI runtime hooks to allow arguments to be injected.",
    load: async () => (await import("./oci-hook.ts")).command,
  },
];

const CONTAINERD: Program<typeof FLAGS, ContainerdGlobals> = {
  name: "containerd",
  usage: BANNER,
  version: VERSION.version,
  versionLine: `containerd ${VERSION.package} ${VERSION.version} ${VERSION.revision}`,
  description: DESCRIPTION,
  flags: FLAGS,
  commands: COMMANDS,
  globals: ({ config, logLevel, address, root, state }) => ({
    // The default file may be missing, one that was named may not.
    config: config === DEFAULT_CONFIG_PATH ? undefined : config,
    logLevel,
    address,
    root,
    state,
  }),
  defaultAction: async (globals) => {
    const { runDaemon } = await import("@stevedore/daemon/run");
    return runDaemon(daemonArguments(globals));
  },
};

/** Runs `containerd` with these arguments (program name left out) and returns the exit code. */
export async function runContainerd(argv: readonly string[], io: CommandIO): Promise<number> {
  return runProgram(CONTAINERD, argv, io);
}
