import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";

/** `ctr namespaces label` */
export const command = ctrCommand({
  argsUsage: "<name> [<key>=<value>, ...]",
  description: "labels are set and cleared for a namespace. empty value clears the label",
  flags: {},
  action: async ({ args, globals }) => {
    const [name, ...given] = args;
    if (name === undefined || name === "") throw new Error("please specify a namespace");
    const labels = parseLabelArgs(given);
    await using session = await globals.connect();
    for (const key of Object.keys(labels)) {
      const fields = [`labels.${key}`];
      await session.client.namespaces.update(session.context, { name, labels }, fields);
    }
    return 0;
  },
});
