import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr oci` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["spec"],
      usage: "see the output of the default OCI spec",
      load: async () => (await import("./spec.ts")).command,
    },
  ],
};
