import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr namespaces` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["create", "c"],
      usage: "create a new namespace",
      load: async () => (await import("./create.ts")).command,
    },
    { names: ["list", "ls"], usage: "list namespaces", load: async () => (await import("./list.ts")).command },
    {
      names: ["remove", "rm"],
      usage: "remove one or more namespaces",
      load: async () => (await import("./remove.ts")).command,
    },
    {
      names: ["label"],
      usage: "set and clear labels for a namespace",
      load: async () => (await import("./label.ts")).command,
    },
  ],
};
