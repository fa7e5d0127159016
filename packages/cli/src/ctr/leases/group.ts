import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr leases` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    { names: ["list", "ls"], usage: "list all active leases", load: async () => (await import("./list.ts")).command },
    { names: ["create"], usage: "create lease", load: async () => (await import("./create.ts")).command },
    {
      names: ["delete", "del", "remove", "rm"],
      usage: "delete a lease",
      load: async () => (await import("./delete.ts")).command,
    },
  ],
};
