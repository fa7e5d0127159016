import type { SnapshotInfo } from "@stevedore/sdk/types";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import { snapshotterOf } from "./snapshotter.ts";

/** `ctr snapshots list` */
export const command = ctrCommand({
  flags: {},
  action: async ({ globals, io, parents }) => {
    await using session = await globals.connect();
    const rows: string[] = [];
    for await (const { name, parent, kind } of snapshotterOf(session, parents).walk(session.context, [])) {
      rows.push(`${name}\t${parent}\t${KIND_NAMES[kind]}\t\n`);
    }
    io.stdout.write(tabwrite(`KEY\tPARENT\tKIND\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});

/** Kinds as the peer prints them. */
export const KIND_NAMES: Readonly<Record<SnapshotInfo["kind"], string>> = {
  view: "View",
  active: "Active",
  committed: "Committed",
};
