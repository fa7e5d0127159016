import { ctrCommand } from "../define.ts";
import { formatLabels, parseLabelArgs } from "../labels.ts";

/** `ctr containers label` */
export const command = ctrCommand({
  argsUsage: "[flags] CONTAINER [<key>=<value>, ...]",
  flags: {},
  action: async ({ args, globals, io }) => {
    const [id, ...given] = args;
    if (id === undefined || id === "") throw new Error("container id must be provided: invalid argument");
    const labels = parseLabelArgs(given);
    await using session = await globals.connect();
    const { client, context } = session;
    const container = await client.containers.get(context, id);
    const changed = await client.containers.update(
      context,
      { ...container, labels },
      Object.keys(labels).map((key) => `labels.${key}`),
    );
    io.stdout.write(`${formatLabels(changed.labels)}\n`);
    return 0;
  },
});
