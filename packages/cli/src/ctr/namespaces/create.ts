import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";

/** `ctr namespaces create` */
export const command = ctrCommand({
  argsUsage: "<name> [<key>=<value>]",
  description: "create a new namespace. it must be unique",
  flags: {},
  action: async ({ args, globals }) => {
    const [name, ...labels] = args;
    if (name === undefined || name === "") throw new Error("please specify a namespace");
    await using session = await globals.connect();
    await session.client.namespaces.create(session.context, { name, labels: parseLabelArgs(labels) });
    return 0;
  },
});
