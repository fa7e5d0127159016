import { classified, isErrorClass, messageOf } from "@stevedore/base";
import { removeTaskFifos } from "@stevedore/sdk/local/task-streams";
import type { ProcessRef } from "@stevedore/sdk/types";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";
import type { Session } from "../globals.ts";

/** SIGKILL. */
const KILL = 9;

/** `ctr tasks delete` */
export const command = ctrCommand({
  argsUsage: "CONTAINER [CONTAINER, ...]",
  flags: {
    force: boolFlag("force", "force delete task process", { aliases: ["f"] }),
    execId: stringFlag("exec-id", "process ID to kill"),
  },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    if (flags.execId !== "") {
      const [id] = args;
      if (args.length !== 1 || id === undefined) {
        throw classified("invalid-argument", "exec-id can only be used with one container: invalid argument");
      }
      return await deleteExec(session, { id, execId: flags.execId, force: flags.force });
    }
    let failure: unknown;
    let code = 0;
    for (const id of args) {
      let doing = `failed to load task from ${id}`;
      try {
        const process = await loadTask(session, id);
        doing = `unable to delete ${id}`;
        if (flags.force) await killAndWait(session, process);
        const status = await deleteProcess(session, process);
        if (status !== 0) {
          io.stderr.write(logLine("warning", `task ${id} exit with non-zero exit code ${status}`));
          if (args.length === 1) code = 0;
        }
      } catch (error) {
        failure ??= error;
        io.stderr.write(logLine("error", doing, error));
      }
    }
    if (failure !== undefined) throw failure instanceof Error ? failure : new Error(messageOf(failure));
    return code;
  },
});

async function deleteExec(
  session: Session,
  exec: { readonly id: string; readonly execId: string; readonly force: boolean },
): Promise<number> {
  const process = { containerId: exec.id, execId: exec.execId };
  if (exec.force) await killAndWait(session, process);
  return deleteProcess(session, process);
}

/** The first process of a container that has a task. @throws not-found */
async function loadTask({ client, context }: Session, id: string): Promise<ProcessRef> {
  const process = { containerId: id, execId: "" };
  const task = client.tasks.get(context, process);
  // Both are asked at once; what the container's answer says goes first.
  task.catch(() => undefined);
  await client.containers.get(context, id);
  await task;
  return process;
}

/** Deletes a process and the FIFOs that a detached start left for it. @returns its exit status. */
export async function deleteProcess(
  { client, context }: Session,
  process: { readonly containerId: string; readonly execId: string },
): Promise<number> {
  const { io } = await client.tasks.get(context, process);
  const { exitStatus } = await client.tasks.delete(context, process);
  await removeTaskFifos(io);
  return exitStatus;
}

async function killAndWait(
  session: Session,
  process: { readonly containerId: string; readonly execId: string },
): Promise<void> {
  const { client, context } = session;
  const exited = client.tasks.wait(context, process);
  // The wait is only read after the kill; a refusal before that belongs to the kill.
  exited.catch(() => undefined);
  try {
    await client.tasks.kill(context, process, { number: KILL, all: process.execId === "" });
  } catch (error) {
    if (!isErrorClass(error, "not-found") && !isErrorClass(error, "failed-precondition")) throw error;
    return;
  }
  await exited;
}
