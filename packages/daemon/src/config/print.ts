import { stringify } from "smol-toml";
import { isTable, type TomlTable } from "./types.ts";

/** Top-level keys in the order in which the peer prints them. */
const ORDER = [
  "version",
  "root",
  "state",
  "temp",
  "plugin_dir",
  "disabled_plugins",
  "required_plugins",
  "oom_score",
  "imports",
  "debug",
  "plugins",
  "cgroup",
  "timeouts",
  "stream_processors",
  "proxy_plugins",
];

/**
 * The configuration as a file. Of the plugins, only those that `exists` names are printed, so that what is shown is what
 * has effect.
 */
export function printConfig(config: TomlTable, exists: (plugin: string) => boolean): string {
  const plugins = isTable(config["plugins"]) ? config["plugins"] : {};
  const shown: TomlTable = {};
  for (const key of ORDER) if (config[key] !== undefined) shown[key] = config[key];
  shown["plugins"] = Object.fromEntries(
    Object.entries(plugins)
      .filter(([name]) => exists(name))
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
  return `${stringify(shown)}\n`;
}
