import type { CommandGroup } from "../../../kit/command.ts";
import type { CtrGlobals } from "../../globals.ts";

/** `ctr shim pprof` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    { names: ["block"], usage: "goroutine blocking profile", load: async () => (await import("./block.ts")).command },
    {
      names: ["goroutines"],
      usage: "dump goroutine stack dump",
      load: async () => (await import("./goroutines.ts")).command,
    },
    { names: ["heap"], usage: "dump heap profile", load: async () => (await import("./heap.ts")).command },
    { names: ["profile"], usage: "CPU profile", load: async () => (await import("./profile.ts")).command },
    {
      names: ["threadcreate"],
      usage: "goroutine thread creating profile",
      load: async () => (await import("./threadcreate.ts")).command,
    },
    { names: ["trace"], usage: "collects execution trace", load: async () => (await import("./trace.ts")).command },
  ],
};
