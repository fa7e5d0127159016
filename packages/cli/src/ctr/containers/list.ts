import { boolFlag } from "../../kit/flags.ts";
import { tabwrite, WIDE_TABLE } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";

/** `ctr containers list` */
export const command = ctrCommand({
  argsUsage: "[flags] [<filter>, ...]",
  flags: { quiet: boolFlag("quiet", "print only the container id", { aliases: ["q"] }) },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const containers = await session.client.containers.list(session.context, args);
    if (flags.quiet) {
      for (const { id } of containers) io.stdout.write(`${id}\n`);
      return 0;
    }
    const rows = containers.map(
      ({ id, image, runtime }) => `${id}\t${image === "" ? "-" : image}\t${runtime.name}\t\n`,
    );
    io.stdout.write(tabwrite(`CONTAINER\tIMAGE\tRUNTIME\t\n${rows.join("")}`, WIDE_TABLE));
    return 0;
  },
});
