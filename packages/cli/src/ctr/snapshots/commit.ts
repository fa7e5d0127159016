import { formatTime } from "../../kit/format.ts";
import { ctrCommand } from "../define.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots commit` */
export const command = ctrCommand({
  argsUsage: "<key> <active>",
  flags: {},
  action: async ({ args, globals, io, parents, showHelp }) => {
    const [name, key] = args;
    if (args.length !== 2 || name === undefined || key === undefined) {
      showHelp(io.stdout);
      return 0;
    }
    await using session = await globals.connect();
    const labels = { "containerd.io/gc.root": formatTime(new Date()) };
    await snapshotterOf(session, parents).commit(session.context, name, { key, labels });
    return 0;
  },
});
