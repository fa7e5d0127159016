import type { CommandGroup } from "../../kit/command.ts";
import type { StevedoreGlobals } from "../main.ts";

/** `stevedore image` */
export const command: CommandGroup<StevedoreGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["verify"],
      usage: "compare images' blobs and unpacked layers with their digests",
      load: async () => (await import("./verify.ts")).command,
    },
    {
      names: ["repair"],
      usage: "fetch and unpack again what of an image is damaged",
      load: async () => (await import("./repair.ts")).command,
    },
  ],
};
