import { CODE_NAMES } from "@stevedore/base/code-names";
import type { PluginRecord } from "@stevedore/sdk/types";
import { boolFlag } from "../../kit/flags.ts";
import { LIST_TABLE, tabwrite, WIDE_TABLE } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";

/** How the peer's plugins say that they have nothing to do here; such a plugin is skipped, not broken. */
const SKIP_SUFFIX = "skip plugin";

/** `ctr plugins list` */
export const command = ctrCommand({
  argsUsage: "[flags]",
  description: "lists containerd plugins",
  flags: {
    quiet: boolFlag("quiet", "print only the plugin ids", { aliases: ["q"] }),
    detailed: boolFlag("detailed", "print detailed information about each plugin", { aliases: ["d"] }),
  },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const plugins = await session.client.introspection.plugins(session.context, args);
    if (flags.quiet) {
      for (const { id } of plugins) io.stdout.write(`${id}\n`);
    } else if (flags.detailed) {
      io.stdout.write(tabwrite(plugins.map(details).join(""), { ...LIST_TABLE, minWidth: 4, padding: 4 }));
    } else {
      const rows = plugins.map((plugin) => {
        const platforms = platformsOf(plugin);
        return `${plugin.type}\t${plugin.id}\t${platforms === "" ? "-" : platforms}\t${statusOf(plugin)}\t\n`;
      });
      io.stdout.write(tabwrite(`TYPE\tID\tPLATFORMS\tSTATUS\t\n${rows.join("")}`, WIDE_TABLE));
    }
    return 0;
  },
});

function statusOf(plugin: PluginRecord): string {
  if (plugin.initError === undefined) return "ok";
  return plugin.initError.message.endsWith(SKIP_SUFFIX) ? "skip" : "error";
}

function platformsOf(plugin: PluginRecord): string {
  return plugin.platforms
    .map(({ os, architecture, variant }) => [os, architecture, variant].filter((part) => part !== "").join("/"))
    .join(",");
}

function details(plugin: PluginRecord): string {
  const lines = [`Type:\t${plugin.type}\n`, `ID:\t${plugin.id}\n`];
  if (plugin.requires.length > 0) {
    lines.push("Requires:\t\n", ...plugin.requires.map((required) => `\t${required}\n`));
  }
  const platforms = platformsOf(plugin);
  if (platforms !== "") lines.push(`Platforms:\t${platforms}\n`);
  const exports = Object.entries(plugin.exports).sort(([a], [b]) => (a < b ? -1 : 1));
  if (exports.length > 0) lines.push("Exports:\t\n", ...exports.map(([key, value]) => `\t${key}\t${value}\n`));
  if (plugin.capabilities.length > 0) lines.push(`Capabilities:\t${plugin.capabilities.join(",")}\n`);
  if (plugin.initError !== undefined) {
    const { code, message } = plugin.initError;
    lines.push("Error:\t\n", `\tCode:\t${CODE_NAMES[code] ?? String(code)}\n`, `\tMessage:\t${message}\n`);
  }
  lines.push("\t\t\n");
  return lines.join("");
}
