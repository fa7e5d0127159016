/** Unpacks an image's layers into a chain of committed snapshots, also while they arrive. */
import { availableParallelism } from "node:os";
import { backgroundContext, classified, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import { type Descriptor, type KeyedLock, type Mount, Pool, type Snapshotter } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { chainIds } from "@stevedore/oci/chain-id";
import type { PlatformMatcher } from "@stevedore/oci/platform";
import type { ImageBackend } from "./backend.ts";
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
  client: ImageBackend,
  context: RequestContext,
  of: { readonly target: Descriptor; readonly matcher: PlatformMatcher },
): Promise<string> {
  const { config } = await platformManifest(client.content, context, of);
  return chainIds(config.rootfs.diff_ids).at(-1) ?? "";
}

/** Whether the image's topmost snapshot is there. */
export async function isUnpacked(
  client: ImageBackend,
  context: RequestContext,
  options: UnpackOptions,
): Promise<boolean> {
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
export async function unpackImage(
  client: ImageBackend,
  context: RequestContext,
  options: UnpackOptions,
): Promise<string> {
  const image = await platformManifest(client.content, context, options);
  return unpackManifest(client, context, { ...options, image });
}

/** What is unpacked by {@link unpackManifest}, and how it goes together with other work. */
export interface ManifestUnpackOptions extends Omit<UnpackOptions, "target" | "matcher"> {
  /** Its manifest and its config must be there; its layers need not. */
  readonly image: PlatformManifest;
  /** Resolves when the blob of a layer is there. Absent: all are. */
  readonly arrived?: (layer: Descriptor) => Promise<void>;
  /** Shared by all that unpack into one daemon: a chain ID is made by one of them, and the others wait for it. */
  readonly locks?: KeyedLock;
  /** Layers applied at once. Default: a pool of this call alone, with one place per core. */
  readonly pool?: Pool;
  /** Told of each layer, before and after it is applied; not of those that were unpacked already. */
  readonly onLayer?: (layer: Descriptor, state: "extracting" | "extracted") => void;
}

/**
 * Unpacks the layers of a manifest that are not unpacked yet, each as soon as its blob is there.
 *
 * @returns the chain ID.
 * @throws as {@link unpackImage}
 */
export async function unpackManifest(
  client: ImageBackend,
  context: RequestContext,
  options: ManifestUnpackOptions,
): Promise<string> {
  const { image } = options;
  const steps = layerSteps(image);
  const snapshotter = client.snapshotter(options.snapshotter);
  const missing: LayerStep[] = [];
  for (const step of steps.toReversed()) {
    if (await snapshotExists(snapshotter, context, step.chainId)) break;
    missing.unshift(step);
  }
  const rebase = missing.length > 1 && (await canRebase(client, context, options.snapshotter));
  await unpackSteps({ client, context, snapshotter, options, rebase }, missing);
  const chain = steps.at(-1)?.chainId ?? "";
  if (chain !== "") {
    const label = `${Label.gcRefSnapshot}${snapshotterName(options.snapshotter)}`;
    await client.content.update(context, { digest: image.manifest.config.digest, labels: { [label]: chain } }, [
      `labels.${label}`,
    ]);
  }
  if (options.discardLayers === true) {
    for (const { layer } of steps) await options.arrived?.(layer);
    await releaseLayers(client, context, image);
  }
  return chain;
}

function snapshotterName(given: string): string {
  return given === "" ? DEFAULT_SNAPSHOTTER : given;
}

// The manifest's references are what keeps its layers; without them the next collection takes the blobs.
async function releaseLayers(client: ImageBackend, context: RequestContext, image: PlatformManifest): Promise<void> {
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

async function canRebase(client: ImageBackend, context: RequestContext, snapshotter: string): Promise<boolean> {
  const name = snapshotterName(snapshotter);
  const plugins = await client.introspection.plugins(context, [`type==io.containerd.snapshotter.v1,id==${name}`]);
  return plugins.some(({ capabilities }) => capabilities.includes("rebase"));
}

interface UnpackWork {
  readonly client: ImageBackend;
  readonly context: RequestContext;
  readonly snapshotter: Snapshotter;
  readonly options: ManifestUnpackOptions;
  /** Layers are applied apart from their parents, which they get at the commit. */
  readonly rebase: boolean;
}

/**
 * Makes the steps of one chain. Each waits for what is below it before its commit, and with `rebase` only then; a lock is
 * asked for from the bottom up, so that two images that share layers never wait for each other. When one step fails the
 * others end, and what they had not committed is removed.
 */
async function unpackSteps(work: UnpackWork, steps: readonly LayerStep[]): Promise<void> {
  const failure = new AbortController();
  const signal = AbortSignal.any([work.context.signal, failure.signal]);
  const own = { ...work, context: { ...work.context, signal } };
  const pool = work.options.pool ?? new Pool(availableParallelism(), "a layer's unpacking");
  let below: Promise<void> = Promise.resolve();
  const made = steps.map((step) => {
    below = unpackStep(own, step, { pool, below });
    below.catch((error: unknown) => {
      if (!failure.signal.aborted) failure.abort(error);
    });
    return below;
  });
  const results = await Promise.allSettled(made);
  work.context.signal.throwIfAborted();
  if (failure.signal.aborted) throw asError(failure.signal.reason);
  for (const result of results) if (result.status === "rejected") throw asError(result.reason);
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(messageOf(reason));
}

async function unpackStep(
  work: UnpackWork,
  step: LayerStep,
  { pool, below }: { readonly pool: Pool; readonly below: Promise<void> },
): Promise<void> {
  const { context, snapshotter, options } = work;
  const { namespace = "" } = context;
  using _held = await options.locks?.acquire(
    `${namespace} ${snapshotterName(options.snapshotter)} ${step.chainId}`,
    context.signal,
  );
  // Who had the lock before may have made it.
  if (options.locks !== undefined && (await snapshotExists(snapshotter, context, step.chainId))) return;
  await options.arrived?.(step.layer);
  if (!work.rebase) await below;
  const key = await pool.run(async () => {
    options.onLayer?.(step.layer, "extracting");
    return applyLayer(work, step);
  }, context.signal);
  try {
    await below;
  } catch (error) {
    await dropSnapshot(work, key);
    throw asError(error);
  }
  await commitLayer(work, step, key);
  options.onLayer?.(step.layer, "extracted");
}

/** Also after the caller has given up. */
async function dropSnapshot({ context, snapshotter }: UnpackWork, key: string): Promise<void> {
  const { signal: _caller, ...rest } = context;
  await snapshotter.remove(backgroundContext(rest), key).catch(() => undefined);
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

/** Applies one layer to a fresh snapshot on its parent, or apart from it, and returns the snapshot's key. */
async function applyLayer(work: UnpackWork, step: LayerStep): Promise<string> {
  const { client, context, snapshotter, options } = work;
  const parent = work.rebase ? "" : step.parent;
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
    await dropSnapshot(work, key);
    throw asError(error);
  }
}

async function commitLayer(work: UnpackWork, step: LayerStep, key: string): Promise<void> {
  const { client, context, snapshotter, options } = work;
  try {
    await snapshotter.commit(context, step.chainId, {
      key,
      labels: { ...options.labels },
      ...(work.rebase && step.parent !== "" ? { parent: step.parent } : {}),
    });
  } catch (error) {
    await dropSnapshot(work, key);
    // Another client unpacked the same layer meanwhile.
    if (!isErrorClass(error, "already-exists")) throw error;
  }
  await client.content.update(context, { digest: step.layer.digest, labels: { [Label.uncompressed]: step.diffId } }, [
    `labels.${Label.uncompressed}`,
  ]);
}
