import { boolFlag } from "../../kit/flags.ts";
import { tabwrite, WIDE_TABLE } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";

/** `ctr tasks list` */
export const command = ctrCommand({
  argsUsage: "[flags]",
  flags: { quiet: boolFlag("quiet", "print only the task id", { aliases: ["q"] }) },
  action: async ({ flags, globals, io }) => {
    await using session = await globals.connect();
    const tasks = await session.client.tasks.list(session.context);
    if (flags.quiet) {
      for (const { id } of tasks) io.stdout.write(`${id}\n`);
      return 0;
    }
    const rows = tasks.map(({ id, pid, status }) => `${id}\t${pid}\t${status.toUpperCase()}\n`);
    io.stdout.write(tabwrite(`TASK\tPID\tSTATUS\t\n${rows.join("")}`, WIDE_TABLE));
    return 0;
  },
});
