import { processDetailsText } from "@stevedore/sdk/any-json";
import { tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { runningContainer } from "./find.ts";

/** `tabwriter.NewWriter(os.Stdout, 1, 8, 4, ' ', 0)` with a last column that no tab ends. */
const TABLE = { minWidth: 1, tabWidth: 8, padding: 4, padChar: " " };

/** `ctr tasks ps` */
export const command = ctrCommand({
  argsUsage: "CONTAINER",
  flags: {},
  action: async ({ args, globals, io }) => {
    await using session = await globals.connect();
    const { id } = await runningContainer(session, args[0]);
    const processes = await session.client.tasks.pids(session.context, id);
    const rows = await Promise.all(
      processes.map(async ({ pid, info }) => `${pid}\t${info === undefined ? "-" : await processDetailsText(info)}\n`),
    );
    io.stdout.write(tabwrite(`PID\tINFO\n${rows.join("")}`, TABLE));
    return 0;
  },
});
