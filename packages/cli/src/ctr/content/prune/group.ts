import type { CommandGroup } from "../../../kit/command.ts";
import type { CtrGlobals } from "../../globals.ts";

/** `ctr content prune` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["references"],
      usage: "prunes preference labels from the content store (layers only by default)",
      load: async () => (await import("./references.ts")).command,
    },
  ],
};
