import { ctrCommand } from "../define.ts";
import { runningContainer } from "./find.ts";

/** `ctr tasks resume` */
export const command = ctrCommand({
  argsUsage: "CONTAINER",
  flags: {},
  action: async ({ args, globals }) => {
    await using session = await globals.connect();
    const { id } = await runningContainer(session, args[0]);
    await session.client.tasks.resume(session.context, id);
    return 0;
  },
});
