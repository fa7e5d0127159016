import { boolFlag } from "../../kit/flags.ts";
import { humanDuration, humanSize } from "../../kit/format.ts";
import { tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { formatLabels } from "../labels.ts";

/** `tabwriter.NewWriter(os.Stdout, 1, 8, 1, '\t', 0)` */
export const TAB_TABLE = { minWidth: 1, tabWidth: 8, padding: 1, padChar: "\t" };

/** `ctr content list` */
export const command = ctrCommand({
  argsUsage: "[flags]",
  description: "list blobs in the content store",
  flags: { quiet: boolFlag("quiet", "print only the blob digest", { aliases: ["q"] }) },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const rows: string[] = [];
    for await (const { digest, size, createdAt, labels } of session.client.content.list(session.context, args)) {
      if (flags.quiet) {
        io.stdout.write(`${digest}\n`);
        continue;
      }
      const age = humanDuration(Date.now() - createdAt.getTime());
      rows.push(`${digest}\t${humanSize(size)}\t${age}\t${formatLabels(labels, "-")}\n`);
    }
    if (!flags.quiet) io.stdout.write(tabwrite(`DIGEST\tSIZE\tAGE\tLABELS\n${rows.join("")}`, TAB_TABLE));
    return 0;
  },
});
