import { momentText } from "@stevedore/base/moment";
import { ctrCommand } from "../define.ts";
import { goJson } from "../json.ts";
import { KIND_NAMES } from "./list.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots info` */
export const command = ctrCommand({
  argsUsage: "<key>",
  flags: {},
  action: async ({ args, globals, io, parents, showHelp }) => {
    const [key] = args;
    if (args.length !== 1 || key === undefined) {
      showHelp(io.stdout);
      return 0;
    }
    await using session = await globals.connect();
    const info = await snapshotterOf(session, parents).stat(session.context, key);
    const labels = Object.entries(info.labels).sort(([a], [b]) => (a < b ? -1 : 1));
    io.stdout.write(
      `${goJson({
        Kind: KIND_NAMES[info.kind],
        Name: info.name,
        Parent: info.parent === "" ? undefined : info.parent,
        Labels: labels.length === 0 ? undefined : Object.fromEntries(labels),
        Created: momentText(info.createdAt),
        Updated: momentText(info.updatedAt),
      })}\n`,
    );
    return 0;
  },
});
