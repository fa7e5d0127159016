import { ctrCommand } from "../define.ts";
import { formatLabels, parseLabelArgs } from "../labels.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots label` */
export const command = ctrCommand({
  argsUsage: "<name> [<label>=<value> ...]",
  description: "labels snapshots in the snapshotter",
  flags: {},
  action: async ({ args, globals, io, parents }) => {
    const [name = "", ...given] = args;
    const labels = parseLabelArgs(given);
    await using session = await globals.connect();
    const fields = Object.keys(labels).map((key) => `labels.${key}`);
    const info = await snapshotterOf(session, parents).update(session.context, { name, labels }, fields);
    io.stdout.write(`${formatLabels(info.labels)}\n`);
    return 0;
  },
});
