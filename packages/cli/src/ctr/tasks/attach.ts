import { attachToProcess } from "@stevedore/sdk/local/task-run";
import { removeTaskFifos } from "@stevedore/sdk/local/task-streams";
import { ctrCommand } from "../define.ts";
import { taskOutputs } from "../task-output.ts";
import { deleteProcess } from "./delete.ts";
import { runningContainer } from "./find.ts";

/** `ctr tasks attach` */
export const command = ctrCommand({
  argsUsage: "CONTAINER",
  flags: {},
  action: async ({ args, globals, io }) => {
    await using session = await globals.connect();
    const { client, context } = session;
    const { id } = await runningContainer(session, args[0]);
    const process = { containerId: id, execId: "" };
    const { io: streams } = await client.tasks.get(context, process);
    const { exitStatus } = await attachToProcess(client, context, { process, io: streams, ...taskOutputs(io) });
    // Of several that are attached one comes first; what counts is how the process ended.
    await deleteProcess(session, process).catch(() => undefined);
    await removeTaskFifos(streams);
    return exitStatus;
  },
});
