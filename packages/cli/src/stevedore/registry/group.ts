import type { CommandGroup } from "../../kit/command.ts";
import type { StevedoreGlobals } from "../main.ts";

/** `stevedore registry` */
export const command: CommandGroup<StevedoreGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["explain"],
      usage: "tell how an image would be pulled: hosts in order, where each setting comes from, who we are",
      load: async () => (await import("./explain.ts")).command,
    },
  ],
};
