import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { formatTime } from "../../kit/format.ts";
import { ctrCommand } from "../define.ts";
import { mountLines } from "./mount-line.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots prepare` */
export const command = ctrCommand({
  argsUsage: "[flags] <key> [<parent>]",
  flags: {
    target: stringFlag("target", "mount target path, will print mount, if provided", { aliases: ["t"] }),
    mounts: boolFlag("mounts", "print out snapshot mounts as JSON"),
  },
  action: async ({ args, flags, globals, io, parents, showHelp }) => {
    const [key, parent = ""] = args;
    if (args.length > 2 || key === undefined) {
      showHelp(io.stdout);
      return 0;
    }
    await using session = await globals.connect();
    const labels = { "containerd.io/gc.root": formatTime(new Date()) };
    const mounts = await snapshotterOf(session, parents).prepare(session.context, key, { parent, labels });
    if (flags.target !== "") io.stdout.write(mountLines(mounts, flags.target));
    if (flags.mounts) {
      const { mountsJson } = await import("./mounts-json.ts");
      io.stdout.write(mountsJson(mounts));
    }
    return 0;
  },
});
