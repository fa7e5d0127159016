/** Checkpoints as images: of a task with its files, or of what is asked for of a container. */
import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { AnyValue, Container, Descriptor } from "@stevedore/core";
import { Annotation } from "@stevedore/oci/annotations";
import { MediaType } from "@stevedore/oci/media-types";
import { hostPlatform, type Platform } from "@stevedore/oci/platform";
import type { Client } from "../../client.ts";
import { withLease } from "../../lease.ts";
import { diffSnapshots } from "../snapshot-diff.ts";
import {
  CHECKPOINT_LABEL,
  CheckpointAnnotation,
  type CheckpointPart,
  encodeAny,
  writeBlob,
  writeCheckpointIndex,
} from "./blobs.ts";

const OPTIONS_TYPE = "containerd.runc.v1.CheckpointOptions";

export interface TaskCheckpointOptions {
  /** The task ends with its checkpoint. */
  readonly exit: boolean;
  /** A folder of the daemon's machine for criu's images; "" for an image. */
  readonly imagePath: string;
  /** A folder for criu's own files and logs; "" for one of the shim's. */
  readonly workPath: string;
}

/**
 * Checkpoints a task: its memory, what it changed of its image, and the image. It is paused meanwhile.
 *
 * @returns the name of the image it made, "" when a folder was asked for
 * @throws unknown with the reason of the runtime and of criu; the task goes on then
 */
export async function checkpointTask(
  client: Client,
  context: RequestContext,
  of: TaskCheckpointOptions & { readonly id: string },
): Promise<string> {
  return withLease(client.leases, context, async (leased) => {
    const container = await client.containers.get(leased, of.id);
    await using paused = new AsyncDisposableStack();
    const { status } = await client.tasks.get(leased, { containerId: of.id, execId: "" });
    if (status !== "paused") {
      await client.tasks.pause(leased, of.id);
      // A task that ended with its checkpoint, or by itself, is none to resume.
      paused.defer(async () => client.tasks.resume(context, of.id).catch(() => undefined));
    }
    const { exit, imagePath, workPath } = of;
    const options = await checkpointOptions({ exit, imagePath, workPath });
    const task = await client.tasks.checkpoint(leased, of.id, { options });
    if (imagePath !== "") return "";
    const parts: CheckpointPart[] = task.map(withPlatform);
    const annotations: Record<string, string> = {};
    if (container.image !== "") {
      parts.push((await client.images.get(leased, container.image)).target);
      annotations["image.name"] = container.image;
    }
    if (container.snapshotKey !== "") parts.push(await rwLayer(client, leased, container, of.id));
    const target = await writeCheckpointIndex(client.content, leased, { parts, annotations });
    const name = `containerd.io/checkpoint/${of.id}:${stamp(new Date())}`;
    await client.images.create(leased, { name, target, labels: { [CHECKPOINT_LABEL]: "true" } });
    return name;
  });
}

export interface ContainerCheckpointOptions {
  readonly id: string;
  /** Name of the image to make; one that exists is never moved. */
  readonly ref: string;
  readonly rw: boolean;
  readonly image: boolean;
  readonly task: boolean;
  /** A task that was paused does not go on. */
  readonly resumeFailed: (error: unknown) => void;
}

/** Keeps what is asked for of a container as an image. Its task, if it has one, is paused meanwhile. */
export async function checkpointContainer(
  client: Client,
  context: RequestContext,
  of: ContainerCheckpointOptions,
): Promise<void> {
  const container = await client.containers.get(context, of.id);
  await using paused = new AsyncDisposableStack();
  if (await hasTask(client, context, of.id)) {
    await client.tasks.pause(context, of.id);
    paused.defer(async () => client.tasks.resume(context, of.id).catch(of.resumeFailed));
  }
  if (container.image === "") {
    throw classified("not-found", "container not created from an image: not found");
  }
  const image = await client.images.get(context, container.image);
  await withLease(client.leases, context, async (leased) => {
    const parts: CheckpointPart[] = [];
    const { options } = container.runtime;
    if (options !== undefined && options.value.byteLength > 0) {
      parts.push(await anyPart(client, leased, MediaType.checkpointRuntimeOptions, options));
    }
    if (of.image) parts.push(image.target);
    if (of.rw) parts.push(await rwLayer(client, leased, container, container.snapshotKey));
    if (of.task) {
      const taskOptions = await checkpointOptions({ exit: false, imagePath: "", workPath: "", fileLocks: true });
      parts.push(...(await client.tasks.checkpoint(leased, of.id, { options: taskOptions })).map(withPlatform));
      parts.push(await anyPart(client, leased, MediaType.checkpointOptions, taskOptions));
    }
    const annotations = {
      [Annotation.refName]: image.name,
      [CheckpointAnnotation.runtime]: container.runtime.name,
      [CheckpointAnnotation.snapshotter]: container.snapshotter,
    };
    const target = await writeCheckpointIndex(client.content, leased, { parts, annotations });
    await client.images.create(leased, { name: of.ref, target, labels: { [CHECKPOINT_LABEL]: "true" } });
  });
}

async function checkpointOptions(fields: TaskCheckpointOptions & { readonly fileLocks?: boolean }): Promise<AnyValue> {
  const [{ encodeMessage, makeMessage }, { CheckpointOptionsSchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb"),
  ]);
  const message = makeMessage(CheckpointOptionsSchema, fields);
  return { typeUrl: OPTIONS_TYPE, value: encodeMessage(CheckpointOptionsSchema, message) };
}

async function anyPart(
  client: Client,
  context: RequestContext,
  mediaType: string,
  any: AnyValue,
): Promise<CheckpointPart> {
  return withPlatform(await writeBlob(client.content, context, { mediaType, bytes: await encodeAny(any) }));
}

/** What a container changed of its image. */
async function rwLayer(
  client: Client,
  context: RequestContext,
  container: Container,
  id: string,
): Promise<CheckpointPart> {
  const layer = await diffSnapshots(client.diff, context, {
    snapshotter: client.snapshotter(container.snapshotter),
    key: container.snapshotKey,
    mediaType: MediaType.ociLayerGzip,
    ref: `checkpoint-rw-${id}`,
    labels: {},
  });
  return withPlatform(layer);
}

async function hasTask(client: Client, context: RequestContext, containerId: string): Promise<boolean> {
  try {
    await client.tasks.get(context, { containerId, execId: "" });
    return true;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return false;
    throw error;
  }
}

/** A checkpoint is of use on this kind of machine only. */
function withPlatform(descriptor: Descriptor): CheckpointPart {
  const { os, architecture } = hostPlatform();
  const platform: Platform = { os, architecture };
  return { ...descriptor, platform };
}

/** The peer's form of a time in a name, local: month-day-year-hours:minutes:seconds. */
function stamp(now: Date): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const date = `${two(now.getMonth() + 1)}-${two(now.getDate())}-${now.getFullYear()}`;
  return `${date}-${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`;
}
