import { classified, messageOf } from "@stevedore/base";
import { ctrCommand } from "../define.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots delete` */
export const command = ctrCommand({
  argsUsage: "<key> [<key>, ...]",
  flags: {},
  action: async ({ args, globals, parents }) => {
    await using session = await globals.connect();
    const snapshotter = snapshotterOf(session, parents);
    for (const key of args) {
      try {
        await snapshotter.remove(session.context, key);
      } catch (error) {
        throw classified("unknown", `failed to remove ${JSON.stringify(key)}: ${messageOf(error)}`, { cause: error });
      }
    }
    return 0;
  },
});
