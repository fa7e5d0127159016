import { boolFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { mountLines } from "./mount-line.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots mounts` */
export const command = ctrCommand({
  argsUsage: "<target> <key>",
  flags: { temp: boolFlag("temp", "mount the snapshot at the target until the command is interrupted") },
  action: async ({ args, flags, globals, io, parents, showHelp }) => {
    const [target, key] = args;
    if (args.length !== 2 || target === undefined || key === undefined) {
      showHelp(io.stdout);
      return 0;
    }
    await using session = await globals.connect();
    const mounts = await snapshotterOf(session, parents).mounts(session.context, key);
    if (flags.temp) {
      const { holdMounts } = await import("@stevedore/sdk/local/mounts");
      await holdMounts(mounts, target, { signal: io.signal });
      return 0;
    }
    io.stdout.write(mountLines(mounts, target));
    return 0;
  },
});
