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
      load: async () =>
        (await import("../../define.ts")).missingCommand("ctr shim pprof block", "a debug socket in shims"),
    },
    {
      names: ["goroutines"],
      usage: "dump goroutine stack dump",
      load: async () =>
        (await import("../../define.ts")).missingCommand("ctr shim pprof goroutines", "a debug socket in shims"),
    },
    {
      names: ["heap"],
      usage: "dump heap profile",
      load: async () =>
        (await import("../../define.ts")).missingCommand("ctr shim pprof heap", "a debug socket in shims"),
    },
    {
      names: ["profile"],
      usage: "CPU profile",
      load: async () =>
        (await import("../../define.ts")).missingCommand("ctr shim pprof profile", "a debug socket in shims"),
    },
    {
      names: ["threadcreate"],
      usage: "goroutine thread creating profile",
      load: async () =>
        (await import("../../define.ts")).missingCommand("ctr shim pprof threadcreate", "a debug socket in shims"),
    },
    {
      names: ["trace"],
      usage: "collects execution trace",
      load: async () =>
        (await import("../../define.ts")).missingCommand("ctr shim pprof trace", "a debug socket in shims"),
    },
  ],
};
