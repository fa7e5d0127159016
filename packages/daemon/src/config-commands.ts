/** `containerd config default`, `dump` and `migrate`. Each returns the text to print. */
import { readFile } from "node:fs/promises";
import { messageOf, withContext } from "@stevedore/base";
import { type DaemonArguments, DEFAULT_CONFIG_PATH } from "./arguments.ts";
import { builtinNames } from "./builtin-names.ts";
import { parseToml, withDefaults } from "./config/load.ts";
import { migrate } from "./config/migrate.ts";
import { printConfig } from "./config/print.ts";
import { loadSettings } from "./settings.ts";

const exists = (name: string): boolean => builtinNames().has(name);

/** The configuration of a daemon that is told nothing. */
export async function configDefault(): Promise<string> {
  return printConfig(withDefaults({}), exists);
}

/** The configuration a daemon with these arguments would run with. @throws as loadSettings */
export async function configDump(args: DaemonArguments): Promise<string> {
  const { config, loaded } = await loadSettings(args);
  return printConfig(config, (name) => exists(name) || loaded.given.has(name));
}

/** The configuration file in the newest version, as it was written otherwise. @throws not-found; invalid-argument */
export async function configMigrate(args: DaemonArguments): Promise<string> {
  const path = args.configPath ?? DEFAULT_CONFIG_PATH;
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw withContext(`load config ${path}`, new Error(messageOf(error)));
  }
  const { config } = migrate(parseToml(text, path));
  return printConfig(config, () => true);
}
