import type { CommandGroup } from "../../kit/command.ts";
import type { CtrGlobals } from "../globals.ts";

/** `ctr tasks` */
export const command: CommandGroup<CtrGlobals> = {
  kind: "group",
  flags: {},
  commands: [
    {
      names: ["attach"],
      usage: "attach to the IO of a running container",
      load: async () => (await import("./attach.ts")).command,
    },
    {
      names: ["checkpoint"],
      usage: "checkpoint a container",
      load: async () => (await import("./checkpoint.ts")).command,
    },
    {
      names: ["delete", "del", "remove", "rm"],
      usage: "delete one or more tasks",
      load: async () => (await import("./delete.ts")).command,
    },
    {
      names: ["exec"],
      usage: "execute additional processes in an existing container",
      load: async () => (await import("./exec.ts")).command,
    },
    { names: ["list", "ls"], usage: "list tasks", load: async () => (await import("./list.ts")).command },
    {
      names: ["kill"],
      usage: "signal a container (default: SIGTERM)",
      load: async () => (await import("./kill.ts")).command,
    },
    {
      names: ["metrics", "metric"],
      usage: "get a single data point of metrics for a task with the built-in Linux runtime",
      load: async () => (await import("./metrics.ts")).command,
    },
    { names: ["pause"], usage: "pause an existing container", load: async () => (await import("./pause.ts")).command },
    { names: ["ps"], usage: "list processes for container", load: async () => (await import("./ps.ts")).command },
    { names: ["resume"], usage: "resume a paused container", load: async () => (await import("./resume.ts")).command },
    {
      names: ["start"],
      usage: "start a container that has been created",
      load: async () => (await import("./start.ts")).command,
    },
  ],
};
