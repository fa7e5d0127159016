import { classified, isErrorClass, messageOf } from "@stevedore/base";
import type { Container } from "@stevedore/sdk/types";
import type { Session } from "../globals.ts";

/** The id of a container that exists. @throws invalid-argument without an id; not-found */
export async function existingContainer(session: Session, id: string | undefined): Promise<string> {
  return (await session.client.containers.get(session.context, givenId(id))).id;
}

/** A container that has a task. @throws as {@link existingContainer}; not-found `no running task found: ...` */
export async function runningContainer(session: Session, id: string | undefined): Promise<Container> {
  const { client, context } = session;
  const containerId = givenId(id);
  const task = client.tasks.get(context, { containerId, execId: "" });
  // Both are asked at once; what the container's answer says goes first.
  task.catch(() => undefined);
  const container = await client.containers.get(context, containerId);
  try {
    await task;
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
    throw classified("not-found", `no running task found: ${messageOf(error)}`, { cause: error });
  }
  return container;
}

function givenId(id: string | undefined): string {
  if (id === undefined || id === "") {
    throw classified("invalid-argument", "container id must be provided: invalid argument");
  }
  return id;
}
