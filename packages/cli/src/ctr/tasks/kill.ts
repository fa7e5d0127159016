import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { runningContainer } from "./find.ts";
import { signalNumber } from "./signals.ts";

/** Set on a container from its image; the signal that stops it when the user names none. */
const STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal";

/** `ctr tasks kill` */
export const command = ctrCommand({
  argsUsage: "[flags] CONTAINER",
  flags: {
    signal: stringFlag("signal", "signal to send to the container", { aliases: ["s"] }),
    execId: stringFlag("exec-id", "process ID to kill"),
    all: boolFlag("all", "send signal to all processes inside the container", { aliases: ["a"] }),
  },
  action: async ({ args, flags, globals }) => {
    if (flags.all && flags.execId !== "") throw new Error("specify an exec-id or all; not both");
    await using session = await globals.connect();
    const { client, context } = session;
    const { id } = await runningContainer(session, args[0]);
    const container = await client.containers.get(context, id);
    const named = flags.signal !== "" ? flags.signal : (container.labels[STOP_SIGNAL_LABEL] ?? "SIGTERM");
    await client.tasks.kill(
      context,
      { containerId: id, execId: flags.execId },
      { number: signalNumber(named), all: flags.all },
    );
    return 0;
  },
});
