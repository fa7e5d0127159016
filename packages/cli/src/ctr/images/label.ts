import { boolFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { formatLabels, parseLabelArgs } from "../labels.ts";

/** `ctr images label` */
export const command = ctrCommand({
  argsUsage: "[flags] <name> [<key>=<value>, ...]",
  description: "set and clear labels for an image",
  flags: { replaceAll: boolFlag("replace-all", "replace all labels", { aliases: ["r"] }) },
  action: async ({ args, flags, globals, io }) => {
    const [name, ...given] = args;
    if (name === undefined || name === "") throw new Error("please specify an image");
    const labels = parseLabelArgs(given);
    await using session = await globals.connect();
    const { client, context } = session;
    const image = await client.images.get(context, name);
    const fields = flags.replaceAll ? ["labels"] : Object.keys(labels).map((key) => `labels.${key}`);
    const changed = fields.length === 0 ? image : await client.images.update(context, { ...image, labels }, fields);
    io.stdout.write(`${formatLabels(changed.labels)}\n`);
    return 0;
  },
});
