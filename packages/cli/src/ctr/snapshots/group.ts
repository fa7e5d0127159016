import type { CommandGroup } from "../../kit/command.ts";
import { stringFlag } from "../../kit/flags.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr snapshots` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
  },
  commands: [
    {
      names: ["commit"],
      usage: "commit an active snapshot into the provided name",
      load: async () => (await import("./commit.ts")).command,
    },
    {
      names: ["diff"],
      usage: "get the diff of two snapshots. the default second snapshot is the first snapshot's parent.",
      load: async () => (await import("./diff.ts")).command,
    },
    { names: ["info"], usage: "get info about a snapshot", load: async () => (await import("./info.ts")).command },
    { names: ["list", "ls"], usage: "list snapshots", load: async () => (await import("./list.ts")).command },
    {
      names: ["mounts", "m", "mount"],
      usage: "mount gets mount commands for the snapshots",
      load: async () => (await import("./mounts.ts")).command,
    },
    {
      names: ["prepare"],
      usage: "prepare a snapshot from a committed snapshot",
      load: async () => (await import("./prepare.ts")).command,
    },
    {
      names: ["delete", "del", "remove", "rm"],
      usage: "remove snapshots",
      load: async () => (await import("./delete.ts")).command,
    },
    { names: ["label"], usage: "add labels to content", load: async () => (await import("./label.ts")).command },
    {
      names: ["tree"],
      usage: "display tree view of snapshot branches",
      load: async () => (await import("./tree.ts")).command,
    },
    {
      names: ["unpack"],
      usage: "unpack applies layers from a manifest to a snapshot",
      load: async () => (await import("./unpack.ts")).command,
    },
    { names: ["usage"], usage: "usage snapshots", load: async () => (await import("./usage.ts")).command },
    {
      names: ["view"],
      usage: "create a read-only snapshot from a committed snapshot",
      load: async () => (await import("./view.ts")).command,
    },
  ],
};
