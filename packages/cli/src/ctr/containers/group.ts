import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr containers` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    { names: ["create"], usage: "create container", load: async () => (await import("./create.ts")).command },
    {
      names: ["delete", "del", "remove", "rm"],
      usage: "delete one or more existing containers",
      load: async () => (await import("./delete.ts")).command,
    },
    { names: ["info"], usage: "get info about a container", load: async () => (await import("./info.ts")).command },
    { names: ["list", "ls"], usage: "list containers", load: async () => (await import("./list.ts")).command },
    {
      names: ["label"],
      usage: "set and clear labels for a container",
      load: async () => (await import("./label.ts")).command,
    },
    {
      names: ["checkpoint"],
      usage: "checkpoint a container",
      load: async () => (await import("./checkpoint.ts")).command,
    },
    {
      names: ["restore"],
      usage: "restore a container from checkpoint",
      load: async () => (await import("./restore.ts")).command,
    },
  ],
};
