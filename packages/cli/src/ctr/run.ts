import { messageOf } from "@stevedore/base";
import { logLine } from "../kit/log-line.ts";
import { CONTAINER_FLAGS, RUN_FLAGS } from "./container-flags.ts";
import { deleteContainer, removeAtOnce } from "./containers/delete.ts";
import { createFromFlags } from "./create-container.ts";
import { ctrCommand } from "./define.ts";
import { startTask } from "./start-task.ts";

/** `ctr run` */
export const command = ctrCommand({
  argsUsage: "[flags] Image|RootFS ID [COMMAND] [ARG...]",
  flags: { ...RUN_FLAGS, ...CONTAINER_FLAGS },
  action: async ({ args, flags, given, globals, io }) => {
    if (flags.rm && flags.detach) throw new Error("flags --detach and --rm cannot be specified together");
    if (flags.cni) throw new Error("--cni is not in this version: not implemented");
    if (flags.nullIo && flags.tty) throw new Error("tty and null-io cannot be used together");
    await using session = await globals.connect();
    const { container, released } = await createFromFlags(session, {
      args,
      flags,
      run: flags,
      cgroupGiven: given.has("cgroup"),
      namespace: globals.namespace,
      warn: (message) => io.stderr.write(logLine("warning", message)),
    });
    await using undo = new AsyncDisposableStack();
    undo.defer(() => released);
    let taskDeleted = false;
    if (flags.rm) {
      undo.defer(async () => {
        try {
          await (taskDeleted
            ? removeAtOnce(session, container)
            : deleteContainer(session, container.id, { keepSnapshot: false }));
        } catch (error) {
          io.stderr.write(logLine("error", "failed to cleanup container", messageOf(error)));
        }
      });
    }
    const status = await startTask(session, io, {
      container,
      mounts: container.mounts,
      detach: flags.detach,
      nullIo: flags.nullIo,
      logUri: flags.logUri,
      fifoDir: flags.fifoDir,
      pidFile: flags.pidFile,
      noPivot: flags.noPivot,
    });
    if (!flags.detach) {
      await session.client.tasks.delete(session.context, { containerId: container.id, execId: "" });
      taskDeleted = true;
    }
    return status;
  },
});
