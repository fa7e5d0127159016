import type { CommandGroup } from "../../kit/command.ts";
import { stringFlag } from "../../kit/flags.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr pprof` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {
    debugSocket: stringFlag("debug-socket", "socket path for containerd's debug server", {
      aliases: ["d"],
      initial: "/run/containerd/debug.sock",
    }),
  },
  commands: [
    { names: ["block"], usage: "goroutine blocking profile", load: async () => (await import("./kinds.ts")).block },
    {
      names: ["goroutines"],
      usage: "dump goroutine stack dump",
      load: async () => (await import("./kinds.ts")).goroutines,
    },
    { names: ["heap"], usage: "dump heap profile", load: async () => (await import("./kinds.ts")).heap },
    { names: ["profile"], usage: "CPU profile", load: async () => (await import("./kinds.ts")).profile },
    {
      names: ["threadcreate"],
      usage: "goroutine thread creating profile",
      load: async () => (await import("./kinds.ts")).threadcreate,
    },
    { names: ["trace"], usage: "collect execution trace", load: async () => (await import("./kinds.ts")).trace },
  ],
};
