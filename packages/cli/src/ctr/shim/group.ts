import type { CommandGroup } from "../../kit/command.ts";
import { stringFlag } from "../../kit/flags.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr shim` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {
    id: stringFlag("id", "container id"),
    shimAddress: stringFlag("shim-address", "address of the shim's ttrpc socket", {
      shownDefault: "computed from shim ID",
    }),
  },
  commands: [
    {
      names: ["delete"],
      usage: "delete a container with a task",
      load: async () => (await import("./delete.ts")).command,
    },
    {
      names: ["exec"],
      usage: "exec a new process in the task's container",
      load: async () => (await import("./exec.ts")).command,
    },
    {
      names: ["start"],
      usage: "start a container with a task",
      load: async () => (await import("./start.ts")).command,
    },
    {
      names: ["state"],
      usage: "get the state of all the processes of the task",
      load: async () => (await import("./state.ts")).command,
    },
    {
      names: ["shutdown"],
      usage: "shutdown a shim",
      load: async () => (await import("./shutdown.ts")).command,
    },
    {
      names: ["pprof"],
      usage: "provide golang pprof outputs for containerd-shim",
      load: async () => (await import("./pprof/group.ts")).command,
    },
  ],
};
