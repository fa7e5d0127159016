/** Unpacks an image's layers into a chain of committed snapshots. */
import { availableParallelism } from "node:os";
import { classified, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import type { Descriptor, Mount, Snapshotter } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { chainIds } from "@stevedore/oci/chain-id";
import type { PlatformMatcher } from "@stevedore/oci/platform";
import type { Client } from "../client.ts";
import { type PlatformManifest, platformManifest, toImageDescriptor } from "./tree.ts";

export interface UnpackOptions {
  readonly target: Descriptor;
  readonly matcher: PlatformMatcher;
  /** Snapshotter name; "" for the default. */
  readonly snapshotter: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly syncFs?: boolean;
  /** Let the layers' blobs be collected once they are unpacked. */
  readonly discardLayers?: boolean;
}

/** The name the daemon knows the default snapshotter by. */
const DEFAULT_SNAPSHOTTER = "overlayfs";

/** The chain ID of an image's root file system: the name of its topmost snapshot. */
export async function imageChainId(
  client: Client,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): Promise<string> {
  const { config } = await platformManifest(client.content, context, of);
  return chainIds(config.rootfs.diff_ids).at(-1) ?? "";
}

/** Whether the image's topmost snapshot is there. */
export async function isUnpacked(client: Client, context: RequestContext, options: UnpackOptions): Promise<boolean> {
  const chain = await imageChainId(client, context, options);
  return snapshotExists(client.snapshotter(options.snapshotter), context, chain);
}

async function snapshotExists(snapshotter: Snapshotter, context: RequestContext, name: string): Promise<boolean> {
  try {
    await snapshotter.stat(context, name);
    return true;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return false;
    throw error;
  }
}

/** A layer and the names of its snapshot and of the one below. */
export interface LayerStep {
  readonly layer: Descriptor;
  readonly diffId: string;
  readonly chainId: string;
  readonly parent: string;
}

/**
 * Unpacks what is not unpacked yet. Call it in a leased context: between a layer's commit and the end nothing else holds
 * the snapshots. Daemons whose snapshotter takes the parent at commit (`rebase`) unpack all layers at once.
 *
 * @returns the chain ID.
 * @throws invalid-argument when manifest and config disagree; data-loss when a layer is not what the config says
 */
export async function unpackImage(client: Client, context: RequestContext, options: UnpackOptions): Promise<string> {
  const image = await platformManifest(client.content, context, options);
  const steps = layerSteps(image);
  const snapshotter = client.snapshotter(options.snapshotter);
  const missing: LayerStep[] = [];
  for (const step of steps.toReversed()) {
    if (await snapshotExists(snapshotter, context, step.chainId)) break;
    missing.unshift(step);
  }
  const work = { client, context, snapshotter, options };
  if (missing.length > 1 && (await canRebase(client, context, options.snapshotter)))
    await unpackTogether(work, missing);
  else for (const step of missing) await unpackOne(work, step, step.parent);
  const chain = steps.at(-1)?.chainId ?? "";
  if (chain !== "") {
    const name = options.snapshotter === "" ? DEFAULT_SNAPSHOTTER : options.snapshotter;
    const label = `${Label.gcRefSnapshot}${name}`;
    await client.content.update(context, { digest: image.manifest.config.digest, labels: { [label]: chain } }, [
      `labels.${label}`,
    ]);
  }
  if (options.discardLayers === true) await releaseLayers(client, context, image);
  return chain;
}

// The manifest's references are what keeps its layers; without them the next collection takes the blobs.
async function releaseLayers(client: Client, context: RequestContext, image: PlatformManifest): Promise<void> {
  const labels = Object.fromEntries(image.manifest.layers.map((_, at) => [`${Label.gcRefContentLayer}${at}`, ""]));
  const fields = Object.keys(labels).map((key) => `labels.${key}`);
  await client.content.update(context, { digest: image.descriptor.digest, labels }, fields);
}

/** The layers of a manifest from the lowest up. @throws invalid-argument when manifest and config disagree */
export function layerSteps({ manifest, config }: PlatformManifest): LayerStep[] {
  const diffIds = config.rootfs.diff_ids;
  if (manifest.layers.length !== diffIds.length) {
    throw classified(
      "invalid-argument",
      `mismatched image rootfs and manifest layers: ${diffIds.length} diff ids, ${manifest.layers.length} layers: invalid argument`,
    );
  }
  const chain = chainIds(diffIds);
  return manifest.layers.map((layer, at) => ({
    layer: toImageDescriptor(layer),
    diffId: diffIds[at] ?? "",
    chainId: chain[at] ?? "",
    parent: chain[at - 1] ?? "",
  }));
}

async function canRebase(client: Client, context: RequestContext, snapshotter: string): Promise<boolean> {
  const name = snapshotter === "" ? DEFAULT_SNAPSHOTTER : snapshotter;
  const plugins = await client.introspection.plugins(context, [`type==io.containerd.snapshotter.v1,id==${name}`]);
  return plugins.some(({ capabilities }) => capabilities.includes("rebase"));
}

interface UnpackWork {
  readonly client: Client;
  readonly context: RequestContext;
  readonly snapshotter: Snapshotter;
  readonly options: UnpackOptions;
}

/**
 * What tells the differ that a layer has others below it though its snapshot was prepared without a parent: an overlay of the
 * upper folder alone, so that whiteouts are kept for the parent that comes at the commit. A bind mount would lose them.
 */
function asUpperOnly(mounts: readonly Mount[]): readonly Mount[] {
  const [only] = mounts;
  if (only === undefined || mounts.length > 1 || only.type !== "bind") return mounts;
  const options = [...only.options.filter((option) => option !== "rbind"), `upperdir=${only.source}`];
  return [{ type: "overlay", source: "overlay", target: "", options }];
}

/** Applies one layer to a fresh snapshot on `parent`, or apart from its parent, and returns the snapshot's key. */
async function applyLayer(work: UnpackWork, step: LayerStep, parent: string): Promise<string> {
  const { client, context, snapshotter, options } = work;
  const random = Buffer.from(crypto.getRandomValues(new Uint8Array(6))).toString("base64url");
  const key = `extract-${process.hrtime.bigint() % 1_000_000_000n}-${random} ${step.chainId}`;
  const labels = { ...options.labels };
  const prepared = await snapshotter.prepare(context, key, { parent, labels });
  const mounts = parent === step.parent ? prepared : asUpperOnly(prepared);
  try {
    const applied = await client.diff.apply(context, step.layer, { mounts, syncFs: options.syncFs ?? false });
    if (applied.digest !== step.diffId) {
      throw classified(
        "data-loss",
        `wrong diff id ${applied.digest} calculated on extraction ${step.diffId}, desc: ${step.layer.digest}: data loss`,
      );
    }
    return key;
  } catch (error) {
    await snapshotter.remove(context, key).catch(() => undefined);
    throw error instanceof Error ? error : new Error(messageOf(error));
  }
}

async function commitLayer(
  work: UnpackWork,
  step: LayerStep,
  of: { readonly key: string; readonly rebase: boolean },
): Promise<void> {
  const { client, context, snapshotter, options } = work;
  try {
    await snapshotter.commit(context, step.chainId, {
      key: of.key,
      labels: { ...options.labels },
      ...(of.rebase && step.parent !== "" ? { parent: step.parent } : {}),
    });
  } catch (error) {
    await snapshotter.remove(context, of.key).catch(() => undefined);
    // Another client unpacked the same layer meanwhile.
    if (!isErrorClass(error, "already-exists")) throw error;
  }
  await client.content.update(context, { digest: step.layer.digest, labels: { [Label.uncompressed]: step.diffId } }, [
    `labels.${Label.uncompressed}`,
  ]);
}

async function unpackOne(work: UnpackWork, step: LayerStep, parent: string): Promise<void> {
  await commitLayer(work, step, { key: await applyLayer(work, step, parent), rebase: false });
}

async function unpackTogether(work: UnpackWork, steps: readonly LayerStep[]): Promise<void> {
  const waiting = [...steps.entries()];
  const keys: (string | undefined)[] = steps.map(() => undefined);
  let failure: unknown;
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [at, step] = next;
      try {
        keys[at] = await applyLayer(work, step, "");
      } catch (error) {
        failure ??= error;
        return;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(steps.length, availableParallelism()) }, worker));
  if (failure !== undefined) {
    for (const key of keys) {
      if (key !== undefined) await work.snapshotter.remove(work.context, key).catch(() => undefined);
    }
    throw failure instanceof Error ? failure : new Error(messageOf(failure));
  }
  for (const [at, step] of steps.entries()) {
    const key = keys[at];
    if (key !== undefined) await commitLayer(work, step, { key, rebase: true });
  }
}
