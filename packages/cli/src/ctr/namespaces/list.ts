import { boolFlag } from "../../kit/flags.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { formatLabels } from "../labels.ts";

/** `ctr namespaces list` */
export const command = ctrCommand({
  argsUsage: "[flags]",
  description: "list namespaces",
  flags: { quiet: boolFlag("quiet", "print only the namespace name", { aliases: ["q"] }) },
  action: async ({ flags, globals, io }) => {
    await using session = await globals.connect();
    const namespaces = await session.client.namespaces.list(session.context);
    if (flags.quiet) {
      for (const { name } of namespaces) io.stdout.write(`${name}\n`);
      return 0;
    }
    const rows = namespaces.map(({ name, labels }) => `${name}\t${formatLabels(labels)}\t\n`);
    io.stdout.write(tabwrite(`NAME\tLABELS\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});
