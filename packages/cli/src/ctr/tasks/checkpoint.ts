import { checkpointTask } from "@stevedore/sdk/local/checkpoints/checkpoint";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { runningContainer } from "./find.ts";

/** `ctr tasks checkpoint` */
export const command = ctrCommand({
  argsUsage: "[flags] CONTAINER",
  flags: {
    exit: boolFlag("exit", "stop the container after the checkpoint"),
    imagePath: stringFlag("image-path", "path to criu image files"),
    workPath: stringFlag("work-path", "path to criu work files and logs"),
  },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const { client, context } = session;
    const { id } = await runningContainer(session, args[0]);
    const { exit, imagePath, workPath } = flags;
    const name = await checkpointTask(client, context, { id, exit, imagePath, workPath });
    if (imagePath === "") io.stdout.write(`${name}\n`);
    return 0;
  },
});
