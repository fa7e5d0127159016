import type { CommandGroup } from "../../kit/command.ts";
import type { ContainerdGlobals } from "../globals.ts";

export const command: CommandGroup<ContainerdGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["default"],
      usage: "see the output of the default config",
      load: async () => (await import("./commands.ts")).configDefaultCommand,
    },
    {
      names: ["dump"],
      usage: "see the output of the final main config with imported in subconfig files",
      load: async () => (await import("./commands.ts")).configDumpCommand,
    },
    {
      names: ["migrate"],
      usage: "migrate the current configuration file to the latest version (does not migrate subconfig files)",
      load: async () => (await import("./commands.ts")).configMigrateCommand,
    },
  ],
};
