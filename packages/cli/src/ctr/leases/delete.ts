import { isErrorClass } from "@stevedore/base";
import { boolFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr leases delete` */
export const command = ctrCommand({
  argsUsage: "[flags] <lease id> ...",
  description: "delete a lease",
  flags: { sync: boolFlag("sync", "Synchronously remove leases and all unreferenced resources") },
  action: async ({ args, flags, globals, io }) => {
    if (args.length === 0) throw new Error("lease id must be provided");
    await using session = await globals.connect();
    for (const [at, id] of args.entries()) {
      // Collecting once, with the last one, frees what all of them held.
      const sync = flags.sync && at === args.length - 1;
      try {
        await session.client.leases.delete(session.context, id, { sync });
      } catch (error) {
        if (!isErrorClass(error, "not-found")) throw error;
      }
      io.stdout.write(`${id}\n`);
    }
    return 0;
  },
});
