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
    {
      names: ["block"],
      usage: "goroutine blocking profile",
      load: async () => (await import("./daemon.ts")).commands.block,
    },
    {
      names: ["goroutines"],
      usage: "dump goroutine stack dump",
      load: async () => (await import("./daemon.ts")).commands.goroutines,
    },
    { names: ["heap"], usage: "dump heap profile", load: async () => (await import("./daemon.ts")).commands.heap },
    { names: ["profile"], usage: "CPU profile", load: async () => (await import("./daemon.ts")).commands.profile },
    {
      names: ["threadcreate"],
      usage: "goroutine thread creating profile",
      load: async () => (await import("./daemon.ts")).commands.threadcreate,
    },
    {
      names: ["trace"],
      usage: "collect execution trace",
      load: async () => (await import("./daemon.ts")).commands.trace,
    },
  ],
};
