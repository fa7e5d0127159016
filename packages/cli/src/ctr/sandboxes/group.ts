import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr sandboxes` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["run", "create", "c", "r"],
      usage: "run a new sandbox",
      load: async () => (await import("./run.ts")).command,
    },
    { names: ["list", "ls"], usage: "list sandboxes", load: async () => (await import("./list.ts")).command },
    { names: ["remove", "rm"], usage: "remove sandboxes", load: async () => (await import("./remove.ts")).command },
    { names: ["info", "i"], usage: "get info about a sandbox", load: async () => (await import("./info.ts")).command },
  ],
};
