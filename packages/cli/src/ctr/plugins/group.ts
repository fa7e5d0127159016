import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr plugins` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    { names: ["list", "ls"], usage: "lists containerd plugins", load: async () => (await import("./list.ts")).command },
    {
      names: ["inspect-runtime"],
      usage: "display runtime info",
      load: async () => (await import("./inspect-runtime.ts")).command,
    },
  ],
};
