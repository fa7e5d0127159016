import { logLine } from "../../kit/log-line.ts";
import { CONTAINER_FLAGS } from "../container-flags.ts";
import { createFromFlags } from "../create-container.ts";
import { ctrCommand } from "../define.ts";

/** `ctr containers create` */
export const command = ctrCommand({
  argsUsage: "[flags] Image|RootFS CONTAINER [COMMAND] [ARG...]",
  // containerd 1.6's ctr takes flags behind image and id here, and walk-throughs are written that way.
  leadingArguments: 2,
  flags: CONTAINER_FLAGS,
  action: async ({ args, flags, globals, io }) => {
    const warn = (message: string): void => io.stderr.write(logLine("warning", message));
    // The peer takes them as well; they belong to the task.
    for (const [given, name] of [
      [flags.pidFile !== "", "pid-file"],
      [flags.noPivot, "no-pivot"],
    ] as const) {
      if (given) warn(`--${name} has no effect here, give it to "ctr tasks start"`);
    }
    await using session = await globals.connect();
    const { released } = await createFromFlags(session, {
      args,
      flags,
      cgroupGiven: false,
      namespace: globals.namespace,
      warn,
    });
    await released;
    return 0;
  },
});
