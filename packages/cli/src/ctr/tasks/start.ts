import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { startTask } from "../start-task.ts";

/** `ctr tasks start` */
export const command = ctrCommand({
  argsUsage: "CONTAINER",
  flags: {
    noPivot: boolFlag("no-pivot", "disable use of pivot-root (linux only)"),
    nullIo: boolFlag("null-io", "send all IO to /dev/null"),
    logUri: stringFlag("log-uri", "log uri"),
    fifoDir: stringFlag("fifo-dir", "directory used for storing IO FIFOs"),
    pidFile: stringFlag("pid-file", "file path to write the task's pid"),
    detach: boolFlag("detach", "detach from the task after it has started execution", { aliases: ["d"] }),
  },
  action: async ({ args, flags, globals, io }) => {
    const [id] = args;
    if (id === undefined || id === "") throw new Error("container id must be provided");
    await using session = await globals.connect();
    const { client, context } = session;
    const container = await client.containers.get(context, id);
    const status = await startTask(session, io, {
      container,
      detach: flags.detach,
      nullIo: flags.nullIo,
      logUri: flags.logUri,
      fifoDir: flags.fifoDir,
      pidFile: flags.pidFile,
      noPivot: flags.noPivot,
    });
    if (!flags.detach) await client.tasks.delete(context, { containerId: id, execId: "" });
    return status;
  },
});
