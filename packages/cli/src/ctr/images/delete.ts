import { isErrorClass, messageOf } from "@stevedore/base";
import { boolFlag } from "../../kit/flags.ts";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images delete` */
export const command = ctrCommand({
  argsUsage: "[flags] <ref> [<ref>, ...]",
  description: "remove one or more images by reference",
  flags: { sync: boolFlag("sync", "Synchronously remove image and all associated resources") },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    let failure: Error | undefined;
    for (const [at, name] of args.entries()) {
      try {
        // Collecting once, with the last one, frees what all of them held.
        await session.client.images.delete(session.context, name, { sync: flags.sync && at === args.length - 1 });
      } catch (error) {
        if (isErrorClass(error, "not-found")) {
          io.stderr.write(logLine("warning", `${name}: image not found`));
          continue;
        }
        failure ??= new Error(`unable to delete ${name}: ${messageOf(error)}`, { cause: error });
        io.stderr.write(logLine("error", `unable to delete ${name}`, error));
        continue;
      }
      io.stdout.write(`${name}\n`);
    }
    if (failure !== undefined) throw failure;
    return 0;
  },
});
