import { withContext } from "@stevedore/base";
import { stringsFlag } from "../../kit/flags.ts";
import { formatGoTime } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";

/** `ctr sandboxes list` */
export const command = ctrCommand({
  argsUsage: "",
  flags: {
    filters: stringsFlag("filters", "the list of filters to apply when querying sandboxes from the store"),
  },
  action: async ({ flags, globals, io }) => {
    await using session = await globals.connect();
    const sandboxes = await session.client.sandboxes.list(session.context, flags.filters).catch((error: unknown) => {
      throw withContext("failed to list sandboxes", error);
    });
    const rows = sandboxes.map(
      ({ id, createdAt, runtime }) => `${id}\t${formatGoTime(createdAt)}\t${runtime.name}\t\n`,
    );
    io.stdout.write(tabwrite(`ID\tCREATED\tRUNTIME\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});
