import { classified } from "@stevedore/base";
import { restoreContainer } from "@stevedore/sdk/local/checkpoints/restore";
import { boolFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { specTerminal, startTask } from "../start-task.ts";

/** `ctr containers restore` */
export const command = ctrCommand({
  argsUsage: "CONTAINER REF",
  flags: {
    rw: boolFlag("rw", "restore the rw layer from the checkpoint"),
    live: boolFlag("live", "restore the runtime and memory data from the checkpoint"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [id = "", ref = ""] = args;
    if (id === "") throw new Error("container id must be provided");
    if (ref === "") throw new Error("ref must be provided");
    await using session = await globals.connect();
    const { client, context } = session;
    const { container, checkpoint } = await restoreContainer(client, context, { id, ref, rw: flags.rw });
    if (flags.live && checkpoint === undefined) {
      throw classified("not-found", `checkpoint not found in index of ${ref}: not found`);
    }
    // Without a terminal nobody waits for it, as in the peer.
    const detach = !specTerminal(container.spec);
    const status = await startTask(session, io, {
      container,
      ...(flags.live && checkpoint !== undefined ? { checkpoint } : {}),
      detach,
      nullIo: false,
      logUri: "",
      fifoDir: "",
      pidFile: "",
      noPivot: false,
    });
    if (!detach) await client.tasks.delete(context, { containerId: id, execId: "" });
    return status;
  },
});
