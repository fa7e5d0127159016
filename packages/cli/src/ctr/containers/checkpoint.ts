import { messageOf } from "@stevedore/base";
import { checkpointContainer } from "@stevedore/sdk/local/checkpoints/checkpoint";
import { boolFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr containers checkpoint` */
export const command = ctrCommand({
  argsUsage: "CONTAINER REF",
  flags: {
    rw: boolFlag("rw", "include the rw layer in the checkpoint"),
    image: boolFlag("image", "include the image in the checkpoint"),
    task: boolFlag("task", "checkpoint container task"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [id = "", ref = ""] = args;
    if (id === "") throw new Error("container id must be provided");
    if (ref === "") throw new Error("ref must be provided");
    await using session = await globals.connect();
    const { rw, image, task } = flags;
    await checkpointContainer(session.client, session.context, {
      id,
      ref,
      rw,
      image,
      task,
      resumeFailed: (error) => io.stdout.write(`error resuming task: ${messageOf(error)}\n`),
    });
    return 0;
  },
});
