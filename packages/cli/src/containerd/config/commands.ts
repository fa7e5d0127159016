import { daemonArguments } from "../arguments.ts";
import { containerdCommand } from "../globals.ts";

export const configDefaultCommand = containerdCommand({
  flags: {},
  action: async ({ io }) => {
    const { configDefault } = await import("@stevedore/daemon/config-commands");
    io.stdout.write(await configDefault());
    return 0;
  },
});

export const configDumpCommand = containerdCommand({
  flags: {},
  action: async ({ globals, io }) => {
    const { configDump } = await import("@stevedore/daemon/config-commands");
    io.stdout.write(await configDump(daemonArguments(globals)));
    return 0;
  },
});

export const configMigrateCommand = containerdCommand({
  flags: {},
  action: async ({ globals, io }) => {
    const { configMigrate } = await import("@stevedore/daemon/config-commands");
    io.stdout.write(await configMigrate(daemonArguments(globals)));
    return 0;
  },
});
