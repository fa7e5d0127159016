import type { CommandGroup } from "../../../kit/command.ts";
import type { CtrGlobals } from "../../globals.ts";

/** `ctr shim pprof` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["block"],
      usage: "goroutine blocking profile",
      load: async () => (await import("./shim.ts")).commands.block,
    },
    {
      names: ["goroutines"],
      usage: "dump goroutine stack dump",
      load: async () => (await import("./shim.ts")).commands.goroutines,
    },
    {
      names: ["heap"],
      usage: "dump heap profile",
      load: async () => (await import("./shim.ts")).commands.heap,
    },
    {
      names: ["profile"],
      usage: "CPU profile",
      load: async () => (await import("./shim.ts")).commands.profile,
    },
    {
      names: ["threadcreate"],
      usage: "goroutine thread creating profile",
      load: async () => (await import("./shim.ts")).commands.threadcreate,
    },
    {
      names: ["trace"],
      usage: "collects execution trace",
      load: async () => (await import("./shim.ts")).commands.trace,
    },
  ],
};
