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
      load: async () => (await import("../define.ts")).missingCommand("ctr sandboxes run", "the sandbox services"),
    },
    {
      names: ["list", "ls"],
      usage: "list sandboxes",
      load: async () => (await import("../define.ts")).missingCommand("ctr sandboxes list", "the sandbox services"),
    },
    {
      names: ["remove", "rm"],
      usage: "remove sandboxes",
      load: async () => (await import("../define.ts")).missingCommand("ctr sandboxes remove", "the sandbox services"),
    },
    {
      names: ["info", "i"],
      usage: "get info about a sandbox",
      load: async () => (await import("../define.ts")).missingCommand("ctr sandboxes info", "the sandbox services"),
    },
  ],
};
