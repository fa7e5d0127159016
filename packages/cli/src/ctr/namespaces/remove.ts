import { isErrorClass, messageOf } from "@stevedore/base";
import { boolFlag } from "../../kit/flags.ts";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";

/** `ctr namespaces remove` */
export const command = ctrCommand({
  argsUsage: "<name> [<name>, ...]",
  description: "remove one or more namespaces. for now, the namespace must be empty",
  flags: { cgroup: boolFlag("cgroup", "delete the namespace's cgroup", { aliases: ["c"] }) },
  action: async ({ args, flags, globals, io }) => {
    if (args.length === 0) throw new Error("please specify a namespace");
    await using session = await globals.connect();
    let failure: Error | undefined;
    for (const name of args) {
      try {
        await session.client.namespaces.delete(session.context, name);
        if (flags.cgroup) {
          const { deleteNamespaceCgroups } = await import("@stevedore/sdk/local/namespace-cgroups");
          await deleteNamespaceCgroups(name);
        }
      } catch (error) {
        // A namespace that is gone already is what was asked for.
        if (!isErrorClass(error, "not-found")) {
          failure ??= new Error(`unable to delete ${name}: ${messageOf(error)}`, { cause: error });
          io.stderr.write(logLine("error", `unable to delete ${name}`, error));
          continue;
        }
      }
      io.stdout.write(`${name}\n`);
    }
    if (failure !== undefined) throw failure;
    return 0;
  },
});
