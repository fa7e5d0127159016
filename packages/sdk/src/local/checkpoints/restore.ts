/** Containers and tasks out of checkpoints. */
import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import type { Container, Descriptor, Image } from "@stevedore/core";
import { Annotation } from "@stevedore/oci/annotations";
import { chainId } from "@stevedore/oci/chain-id";
import type { Index } from "@stevedore/oci/manifest";
import { isIndexType, isManifestType, MediaType } from "@stevedore/oci/media-types";
import { defaultMatcher } from "@stevedore/oci/platform";
import type { Client } from "../../client.ts";
import { platformManifest } from "../../images/tree.ts";
import { unpackImage } from "../../images/unpack.ts";
import { withLease } from "../../lease.ts";
import { CheckpointAnnotation, partOf, readAny, readCheckpointIndex } from "./blobs.ts";
import { harmlessSpec, requireHarmlessRuntime } from "./trust.ts";

export interface RestoreOptions {
  /** Id of the new container. */
  readonly id: string;
  /** Image of the checkpoint. */
  readonly ref: string;
  /** With the files that the container had changed. */
  readonly rw: boolean;
}

/** A container out of a checkpoint, and what its task is restored from: undefined when the checkpoint has no memory. */
export interface Restored {
  readonly container: Container;
  readonly checkpoint?: Descriptor;
}

/**
 * Creates a container as a checkpoint describes it: image, snapshot, spec and runtime. No label of the checkpoint
 * becomes one of the container. What was made is removed again when a later step fails.
 *
 * @throws not-found for a checkpoint, an image or a part that is not there; permission-denied for what a checkpoint from
 *   elsewhere may not ask for
 */
export async function restoreContainer(client: Client, context: RequestContext, of: RestoreOptions): Promise<Restored> {
  const checkpoint = await client.images.get(context, of.ref);
  return withLease(client.leases, context, async (leased) => {
    const index = await readCheckpointIndex(client, leased, checkpoint.target);
    const snapshotter = requireAnnotation(index, CheckpointAnnotation.snapshotter, "snapshotter not found in index");
    const image = await restoredImage(client, leased, index);
    const spec = harmlessSpec(
      checkpoint,
      await readAny(client, leased, requirePart(index, MediaType.checkpointConfig, "its container's configuration")),
    );
    const name = requireAnnotation(index, CheckpointAnnotation.runtime, "runtime not found in index");
    const optionsPart = partOf(index, MediaType.checkpointRuntimeOptions);
    const runtime = {
      name,
      ...(optionsPart === undefined ? {} : { options: await readAny(client, leased, optionsPart) }),
    };
    await requireHarmlessRuntime(checkpoint, runtime);
    await using undo = new AsyncDisposableStack();
    await prepare(client, leased, { image, snapshotter, key: of.id });
    const snapshots = client.snapshotter(snapshotter);
    undo.defer(async () => {
      await snapshots.remove(leased, of.id).catch((error: unknown) => {
        if (!isErrorClass(error, "not-found")) throw error;
      });
    });
    if (of.rw) {
      const layer = requirePart(index, MediaType.ociLayerGzip, "changed files");
      await client.diff.apply(leased, layer, { mounts: await snapshots.mounts(leased, of.id) });
    }
    const container = await client.containers.create(leased, {
      id: of.id,
      labels: {},
      image: image.name,
      runtime,
      spec,
      snapshotter,
      snapshotKey: of.id,
      sandbox: "",
      extensions: {},
    });
    undo.move();
    const memory = partOf(index, MediaType.checkpoint);
    return { container, ...(memory === undefined ? {} : { checkpoint: memory }) };
  });
}

/** The image a checkpoint's container was made from: by name, and the same one if the checkpoint has it. */
async function restoredImage(client: Client, context: RequestContext, index: Index): Promise<Image> {
  const name = requireAnnotation(index, Annotation.refName, "image name not found in index");
  const image = await client.images.get(context, name);
  const own = index.manifests.find(({ mediaType }) => isManifestType(mediaType) || isIndexType(mediaType));
  if (own !== undefined && own.digest !== image.target.digest) {
    throw classified(
      "failed-precondition",
      `restore: the checkpoint was made with ${own.digest}, and ${name} is ${image.target.digest} here: failed precondition`,
    );
  }
  return image;
}

async function prepare(
  client: Client,
  context: RequestContext,
  of: { readonly image: Image; readonly snapshotter: string; readonly key: string },
): Promise<void> {
  const from = { target: of.image.target, matcher: defaultMatcher(), snapshotter: of.snapshotter, syncFs: false };
  const { config } = await platformManifest(client.content, context, from);
  const snapshots = client.snapshotter(of.snapshotter);
  const parent = chainId(config.rootfs.diff_ids);
  try {
    await snapshots.prepare(context, of.key, { parent });
  } catch (error) {
    if (!isErrorClass(error, "not-found")) throw error;
    await unpackImage(client, context, from);
    await snapshots.prepare(context, of.key, { parent });
  }
}

function requireAnnotation(index: Index, key: string, missing: string): string {
  const value = index.annotations?.[key] ?? "";
  if (value === "") throw classified("not-found", `restore: ${missing} (annotation ${key}): not found`);
  return value;
}

function requirePart(index: Index, mediaType: string, what: string): Descriptor {
  const part = partOf(index, mediaType);
  if (part === undefined) {
    throw classified(
      "not-found",
      `restore: the checkpoint was made without ${what} (${mediaType}): media type not found`,
    );
  }
  return part;
}
