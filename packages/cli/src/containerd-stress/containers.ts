/** The containers a test makes: their image, their spec, and how they go again. */
import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { ImageConfig } from "@stevedore/oci/manifest";
import { defaultMatcher } from "@stevedore/oci/platform";
import type { Spec } from "@stevedore/oci/runtime-spec";
import type { Client } from "@stevedore/sdk/client";
import { unpackImage } from "@stevedore/sdk/images/unpack";
import { withLease } from "@stevedore/sdk/lease";
import { createContainer, type KnownImage, type NewContainer, resolveImage } from "@stevedore/sdk/local/new-container";
import { readUserFiles } from "@stevedore/sdk/local/root-files";
import { NULL_IO } from "@stevedore/sdk/local/task-streams";
import { defaultDeviceRules, defaultSpec } from "@stevedore/sdk/spec/default-spec";
import { withDeviceRules, withImageProcess, withUser } from "@stevedore/sdk/spec/options";
import { type ResolvedUser, resolveUser } from "@stevedore/sdk/spec/user";
import type { ProcessRef } from "@stevedore/sdk/types";
import type { StressSettings } from "./settings.ts";

/** Who the peer's test runs as; most images know the name. */
const USER = "games";

/** SIGKILL. */
const KILL = 9;

/** What containers of a test are made from: read once, so that the test measures the daemon and not the reading of an image. */
export interface Template {
  readonly client: Client;
  readonly context: RequestContext;
  readonly namespace: string;
  readonly settings: StressSettings;
  readonly image: KnownImage;
  readonly user: ResolvedUser;
}

/**
 * Looks the image up in the namespace and unpacks it.
 * @throws not-found, with what helps, when it is not there: this version does not pull
 */
export async function prepareTemplate(
  client: Client,
  context: RequestContext,
  of: { readonly namespace: string; readonly settings: StressSettings },
): Promise<Template> {
  const { namespace, settings } = of;
  const { image: name, snapshotter } = settings;
  const image = await resolveImage(client, context, { name, matcher: defaultMatcher() }).catch((error: unknown) => {
    if (!isErrorClass(error, "not-found")) throw error;
    const help = `pulling is not in this version, import it with "ctr -n ${namespace} images import"`;
    throw classified(
      "not-found",
      `image ${JSON.stringify(name)} in namespace ${JSON.stringify(namespace)}: ${help}: not found`,
      {
        cause: error,
      },
    );
  });
  const { target, matcher } = image;
  const user = await withLease(client.leases, context, async (leased) => {
    const parent = await unpackImage(client, leased, { target, matcher, snapshotter, syncFs: false });
    const key = `stress-users-${process.pid}`;
    const mounts = await client.snapshotter(snapshotter).view(leased, key, { parent, labels: {} });
    try {
      return userOf(await readUserFiles(mounts), image.config);
    } finally {
      await client.snapshotter(snapshotter).remove(leased, key);
    }
  });
  return { client, context, namespace, settings, image, user };
}

// An image without the name is run as its own user, where the peer gives up.
function userOf(files: { readonly passwd: string; readonly group: string }, { config }: ImageConfig): ResolvedUser {
  try {
    return resolveUser(USER, files);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
    return resolveUser(config?.User ?? "", files);
  }
}

/** The spec of a container of the image that runs `command`. */
export function specFor(of: Template, id: string, command: readonly string[]): Spec {
  const { config = {} } = of.image.config;
  const spec = defaultSpec({ id, namespace: of.namespace });
  withDeviceRules(spec, defaultDeviceRules());
  withImageProcess(
    spec,
    { env: config.Env ?? [], entrypoint: [], cmd: [], workingDir: config.WorkingDir ?? "" },
    command,
  );
  return withUser(spec, of.user);
}

/** A container on a snapshot of its own. Whoever makes it removes it with {@link removeContainer}. */
export async function newContainer(of: Template, id: string, command: readonly string[]): Promise<NewContainer> {
  return createContainer(of.client, of.context, {
    id,
    image: of.image,
    snapshotter: of.settings.snapshotter,
    labels: {},
    runtime: { name: of.settings.runtime },
    spec: async () => specFor(of, id, command),
  });
}

/** Creates the task of a container, without streams. @returns its first process */
export async function newTask(of: Template, container: NewContainer): Promise<ProcessRef> {
  await of.client.tasks.create(of.context, {
    containerId: container.id,
    rootfs: container.mounts,
    io: NULL_IO,
    runtimePath: "",
  });
  return { containerId: container.id, execId: "" };
}

/** Ends a process if it has not ended, and deletes it. @throws what deleting says, unless there is no such process */
export async function killAndDelete(client: Client, context: RequestContext, process: ProcessRef): Promise<void> {
  try {
    const exited = client.tasks.wait(context, process);
    // Read after the kill; a refusal before belongs to the kill.
    exited.catch(() => undefined);
    await client.tasks.kill(context, process, { number: KILL, all: process.execId === "" });
    await exited;
  } catch (error) {
    // It has ended, or was never started.
    if (!isErrorClass(error, "not-found") && !isErrorClass(error, "failed-precondition")) throw error;
  }
  try {
    await client.tasks.delete(context, process);
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
  }
}

/** Deletes a container's record and its snapshot. */
export async function removeContainer(
  client: Client,
  context: RequestContext,
  container: Pick<NewContainer, "id" | "snapshotter" | "snapshotKey">,
): Promise<void> {
  if (container.snapshotKey !== "") {
    try {
      await client.snapshotter(container.snapshotter).remove(context, container.snapshotKey);
    } catch (error) {
      if (!isErrorClass(error, "not-found")) throw error;
    }
  }
  await client.containers.delete(context, container.id);
}

/** Removes what an earlier test left in the namespace. */
export async function cleanNamespace(client: Client, context: RequestContext): Promise<void> {
  for (const container of await client.containers.list(context, [])) {
    await killAndDelete(client, context, { containerId: container.id, execId: "" });
    await removeContainer(client, context, container);
  }
}
