import { withContext } from "@stevedore/base";
import { boolFlag } from "../../kit/flags.ts";
import { formatTime } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { formatLabels } from "../labels.ts";

/** `ctr leases list` */
export const command = ctrCommand({
  argsUsage: "[flags] <filter>",
  description: "list active leases by containerd",
  flags: { quiet: boolFlag("quiet", "print only the blob digest", { aliases: ["q"] }) },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const leases = await session.client.leases.list(session.context, args).catch((error: unknown) => {
      throw withContext("failed to list leases", error);
    });
    if (flags.quiet) {
      for (const { id } of leases) io.stdout.write(`${id}\n`);
      return 0;
    }
    const rows = leases.map(
      ({ id, createdAt, labels }) => `${id}\t${formatTime(createdAt)}\t${formatLabels(labels, "-")}\t\n`,
    );
    io.stdout.write(tabwrite(`ID\tCREATED AT\tLABELS\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});
