import { boolFlag } from "../../kit/flags.ts";
import { formatBytes } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots usage` */
export const command = ctrCommand({
  argsUsage: "[flags] [<key>, ...]",
  flags: { b: boolFlag("b", "display size in bytes") },
  action: async ({ args, flags, globals, io, parents }) => {
    await using session = await globals.connect();
    const snapshotter = snapshotterOf(session, parents);
    const keys = [...args];
    if (keys.length === 0) for await (const { name } of snapshotter.walk(session.context, [])) keys.push(name);
    const rows: string[] = [];
    for (const key of keys) {
      const { size, inodes } = await snapshotter.usage(session.context, key);
      rows.push(`${key}\t${flags.b ? size : formatBytes(size)}\t${inodes}\t\n`);
    }
    io.stdout.write(tabwrite(`KEY\tSIZE\tINODES\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});
