import { classified, isErrorClass, messageOf } from "@stevedore/base";
import { removeTaskFifos } from "@stevedore/sdk/local/task-streams";
import type { Container, ProcessState } from "@stevedore/sdk/types";
import { boolFlag } from "../../kit/flags.ts";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";
import type { Session } from "../globals.ts";

/** `ctr containers delete` */
export const command = ctrCommand({
  argsUsage: "[flags] CONTAINER [CONTAINER, ...]",
  flags: { keepSnapshot: boolFlag("keep-snapshot", "do not clean up snapshot with container") },
  action: async ({ args, flags, globals, io }) => {
    if (args.length === 0)
      throw classified("invalid-argument", "must specify at least one container to delete: invalid argument");
    await using session = await globals.connect();
    let failure: unknown;
    for (const id of args) {
      try {
        await deleteContainer(session, id, { keepSnapshot: flags.keepSnapshot });
      } catch (error) {
        failure ??= error;
        io.stderr.write(logLine("error", `failed to delete container ${JSON.stringify(id)}`, error));
      }
    }
    if (failure !== undefined) throw failure instanceof Error ? failure : new Error(messageOf(failure));
    return 0;
  },
});

/**
 * Deletes a container that has no task or a stopped one, and its snapshot.
 * @throws failed-precondition while its task runs
 */
export async function deleteContainer(
  session: Session,
  id: string,
  options: { readonly keepSnapshot: boolean },
): Promise<void> {
  const { client, context } = session;
  const asked = taskOf(session, id);
  // Both are asked at once; what the container's answer says goes first.
  asked.catch(() => undefined);
  const container = await client.containers.get(context, id);
  const task = await asked;
  if (task !== undefined) {
    if (task.status !== "stopped" && task.status !== "created") {
      throw classified(
        "failed-precondition",
        `cannot delete a non stopped container: {${task.status} ${task.exitStatus} 0001-01-01 00:00:00 +0000 UTC}`,
      );
    }
    await client.tasks.delete(context, { containerId: id, execId: "" });
    await removeTaskFifos(task.io);
  }
  await removeContainer(session, container, options);
}

/** Deletes a container that has no task, and its snapshot; not the container when the snapshot cannot be removed. */
export async function removeContainer(
  session: Session,
  container: Container,
  options: { readonly keepSnapshot: boolean },
): Promise<void> {
  if (!options.keepSnapshot) await removeSnapshot(session, container);
  await session.client.containers.delete(session.context, container.id);
}

/**
 * Deletes a container that has no task and its snapshot at the same time, which a daemon can make durable with one sync. A
 * snapshot that cannot be removed now belongs to nobody then, and is collected.
 */
export async function removeAtOnce(session: Session, container: Container): Promise<void> {
  const deleted = session.client.containers.delete(session.context, container.id);
  await Promise.all([removeSnapshot(session, container), deleted]);
}

async function removeSnapshot({ client, context }: Session, container: Container): Promise<void> {
  if (container.snapshotKey === "") return;
  try {
    await client.snapshotter(container.snapshotter).remove(context, container.snapshotKey);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
  }
}

async function taskOf(session: Session, id: string): Promise<ProcessState | undefined> {
  try {
    return await session.client.tasks.get(session.context, { containerId: id, execId: "" });
  } catch (error) {
    if (isErrorClass(error, "not-found")) return undefined;
    throw error;
  }
}
