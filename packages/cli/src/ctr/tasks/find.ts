import { classified, isErrorClass, messageOf } from "@stevedore/base";
import type { Session } from "../globals.ts";

/** The id of a container that exists. @throws invalid-argument without an id; not-found */
export async function existingContainer(session: Session, id: string | undefined): Promise<string> {
  if (id === undefined || id === "") {
    throw classified("invalid-argument", "container id must be provided: invalid argument");
  }
  return (await session.client.containers.get(session.context, id)).id;
}

/** The id of a container that has a task. @throws as {@link existingContainer}; not-found `no running task found: ...` */
export async function runningContainer(session: Session, id: string | undefined): Promise<string> {
  const found = await existingContainer(session, id);
  try {
    await session.client.tasks.get(session.context, { containerId: found, execId: "" });
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
    throw classified("not-found", `no running task found: ${messageOf(error)}`, { cause: error });
  }
  return found;
}
