import type { SnapshotInfo } from "@stevedore/sdk/types";
import { ctrCommand } from "../define.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots tree` */
export const command = ctrCommand({
  flags: {},
  action: async ({ globals, io, parents }) => {
    await using session = await globals.connect();
    const children = new Map<string, string[]>();
    const all = new Map<string, SnapshotInfo>();
    for await (const info of snapshotterOf(session, parents).walk(session.context, [])) {
      all.set(info.name, info);
      const siblings = children.get(info.parent);
      if (siblings === undefined) children.set(info.parent, [info.name]);
      else siblings.push(info.name);
    }
    const print = (name: string, depth: number): void => {
      io.stdout.write(depth === 0 ? ` ${name}\n` : `${"  ".repeat(depth)}\\_ ${name}\n`);
      for (const child of children.get(name) ?? []) print(child, depth + 1);
    };
    // A parent that is not listed (removed meanwhile) makes its children roots.
    for (const [name, { parent }] of all) if (!all.has(parent)) print(name, 0);
    return 0;
  },
});
