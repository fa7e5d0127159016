import { CONTAINER_FLAGS } from "../container-flags.ts";
import { createFromFlags } from "../create-container.ts";
import { ctrCommand } from "../define.ts";

/** `ctr containers create` */
export const command = ctrCommand({
  argsUsage: "[flags] Image|RootFS CONTAINER [COMMAND] [ARG...]",
  // containerd 1.6's ctr takes flags behind image and id here, and walk-throughs are written that way.
  leadingArguments: 2,
  flags: CONTAINER_FLAGS,
  action: async ({ args, flags, globals }) => {
    await using session = await globals.connect();
    await createFromFlags(session, { args, flags, cgroupGiven: false, namespace: globals.namespace });
    return 0;
  },
});
