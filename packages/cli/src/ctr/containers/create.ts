import { CONTAINER_FLAGS } from "../container-flags.ts";
import { createFromFlags } from "../create-container.ts";
import { ctrCommand } from "../define.ts";
import { logLine } from "../log-line.ts";

/** `ctr containers create` */
export const command = ctrCommand({
  argsUsage: "[flags] Image|RootFS CONTAINER [COMMAND] [ARG...]",
  // containerd 1.6's ctr takes flags behind image and id here, and walk-throughs are written that way.
  leadingArguments: 2,
  flags: CONTAINER_FLAGS,
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    await createFromFlags(session, {
      args,
      flags,
      cgroupGiven: false,
      namespace: globals.namespace,
      warn: (message) => io.stderr.write(logLine("warning", message)),
    });
    return 0;
  },
});
