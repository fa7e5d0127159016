/** Makes containers as containerd's Go client does: snapshot, spec, record, all under one lease. */
import { isErrorClass, type RequestContext } from "@stevedore/base";
import type { AnyValue, Container, Descriptor, Mount } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";
import { chainId } from "@stevedore/oci/chain-id";
import type { ImageConfig } from "@stevedore/oci/manifest";
import type { PlatformMatcher } from "@stevedore/oci/platform";
import type { Spec } from "@stevedore/oci/runtime-spec";
import type { Client } from "../client.ts";
import { platformManifest } from "../images/tree.ts";
import { unpackImage } from "../images/unpack.ts";
import { openLease } from "../lease.ts";
import { jsonAny, SPEC_TYPE_URL, toJson } from "../spec/any.ts";
import { GID_MAPPING_LABEL, UID_MAPPING_LABEL } from "./mapping-labels.ts";
import type { OwnerMaps } from "./remapped-snapshot.ts";

/** What a spec is made from. */
export interface SpecSource {
  /** Config of the image; absent for a container on a root file system of its own. */
  readonly image?: ImageConfig;
  /** Mounts of the container's snapshot, which is being prepared; absent for a root file system of its own. */
  readonly mounts?: Promise<readonly Mount[]>;
}

/** An image by its name, and whose platform it is to be for. */
export interface ImageRequest {
  readonly name: string;
  readonly matcher: PlatformMatcher;
}

/** An image that was looked up, for making many containers of it without reading it each time. */
export interface KnownImage extends ImageRequest {
  readonly target: Descriptor;
  readonly config: ImageConfig;
  readonly labels: Readonly<Record<string, string>>;
}

/** Looks an image and its config up. @throws not-found */
export async function resolveImage(client: Client, context: RequestContext, image: ImageRequest): Promise<KnownImage> {
  const { target, labels } = await client.images.get(context, image.name);
  const { config } = await platformManifest(client.content, context, { target, matcher: image.matcher });
  return { ...image, target, config, labels };
}

export interface NewContainerOptions {
  readonly id: string;
  readonly image?: ImageRequest | KnownImage;
  readonly snapshotter: string;
  readonly snapshotLabels?: Readonly<Record<string, string>>;
  /** Gives the files to the ids outside the container's user namespace; absent: they keep their owners. */
  readonly owners?: OwnerMaps;
  readonly labels: Readonly<Record<string, string>>;
  readonly runtime: Container["runtime"];
  readonly sandbox?: string;
  readonly syncFs?: boolean;
  readonly extensions?: Readonly<Record<string, AnyValue>>;
  readonly spec: (source: SpecSource) => Promise<Spec | AnyValue>;
}

/** containerd's limit of a label: the bytes of its key and value together. */
const MAX_LABEL_BYTES = 4096;

const DEFAULT_SNAPSHOTTER = "overlayfs";

/** A container that was just made, with the mounts of its snapshot: none without a snapshot. */
export type NewContainer = Container & { readonly mounts: readonly Mount[] };

/** A container that is there, while the lease that kept its parts is still being deleted. */
export interface BegunContainer {
  readonly container: NewContainer;
  /** Await it before the client closes. */
  readonly released: Promise<void>;
}

/**
 * Creates a container. The image is unpacked first when it is not. What was made is removed again when a later step
 * fails.
 */
export async function createContainer(
  client: Client,
  context: RequestContext,
  options: NewContainerOptions,
): Promise<NewContainer> {
  const { container, released } = await beginContainer(client, context, options);
  await released;
  return container;
}

/** As {@link createContainer}, for who has more to do than to wait for the end of the lease. */
export async function beginContainer(
  client: Client,
  context: RequestContext,
  options: NewContainerOptions,
): Promise<BegunContainer> {
  // It is made while the image is read.
  const lease = openLease(client.leases, context);
  let container: NewContainer;
  try {
    const { image } = options;
    container = await (image === undefined
      ? putContainer(client, lease.leased, { options })
      : fromImage(client, context, { options, image, leasing: lease.leased }));
  } catch (error) {
    // What the work says goes before what the removal says; the lease expires by itself.
    await lease.release().catch(() => undefined);
    throw error;
  }
  const released = lease.release();
  released.catch(() => undefined);
  return { container, released };
}

interface ImageSource {
  readonly options: NewContainerOptions;
  readonly image: NonNullable<NewContainerOptions["image"]>;
  readonly leasing: Promise<RequestContext>;
}

async function fromImage(
  client: Client,
  context: RequestContext,
  { options, image, leasing }: ImageSource,
): Promise<NewContainer> {
  const known = "config" in image ? image : undefined;
  const { target, labels: imageLabels } = known ?? (await client.images.get(context, image.name));
  const of = { target, matcher: image.matcher, snapshotter: options.snapshotter, syncFs: options.syncFs ?? false };
  const { config } = known ?? (await platformManifest(client.content, context, of));
  const leased = await leasing;
  const snapshotter = client.snapshotter(options.snapshotter);
  const { id: key, snapshotLabels: labels = {} } = options;
  const parent = chainId(config.rootfs.diff_ids);
  const owners = options.owners ?? (await ownersToCopyFor(client, leased, options));
  const prepareOnce = async (): Promise<readonly Mount[]> => {
    if (owners === undefined) return snapshotter.prepare(leased, key, { parent, labels });
    const { prepareRemapped } = await import("./remapped-snapshot.ts");
    return prepareRemapped(snapshotter, leased, { key, parent, maps: owners, labels });
  };
  const prepare = async (): Promise<readonly Mount[]> => {
    try {
      return await prepareOnce();
    } catch (error) {
      // The parent is what is not there: an image is unpacked when its first container is made.
      if (!isErrorClass(error, "not-found")) throw error;
      await unpackImage(client, leased, of);
      return prepareOnce();
    }
  };
  const mounts = prepare();
  try {
    return await putContainer(client, leasing, { options, config, mounts, imageLabels });
  } catch (error) {
    // Without a snapshot there is nothing to take back, and why there is none is what to tell.
    await mounts;
    await snapshotter.remove(leased, options.id).catch((removing: unknown) => {
      if (!isErrorClass(removing, "not-found")) throw removing;
    });
    throw error;
  }
}

/** The owners to give files of a copy for, where labels ask for a mapping that the snapshotter leaves to its clients. */
async function ownersToCopyFor(
  client: Client,
  context: RequestContext,
  { snapshotLabels = {}, snapshotter }: NewContainerOptions,
): Promise<OwnerMaps | undefined> {
  if (snapshotLabels[UID_MAPPING_LABEL] === undefined && snapshotLabels[GID_MAPPING_LABEL] === undefined)
    return undefined;
  const { labelledOwners } = await import("./remapped-snapshot.ts");
  return labelledOwners(client, context, {
    snapshotter: snapshotter === "" ? DEFAULT_SNAPSHOTTER : snapshotter,
    labels: snapshotLabels,
  });
}

interface Prepared {
  readonly options: NewContainerOptions;
  readonly config?: ImageConfig;
  readonly mounts?: Promise<readonly Mount[]>;
  readonly imageLabels?: Readonly<Record<string, string>>;
}

async function putContainer(client: Client, leasing: Promise<RequestContext>, of: Prepared): Promise<NewContainer> {
  const { options, config, imageLabels = {} } = of;
  // Most of a spec needs no mounts: it is made while they are.
  const making = options.spec({
    ...(config === undefined ? {} : { image: config }),
    ...(of.mounts === undefined ? {} : { mounts: of.mounts }),
  });
  making.catch(() => undefined);
  const mounts = await of.mounts;
  const made = await making;
  const stopSignal = config === undefined ? {} : { [Label.imageStopSignal]: config.config?.StopSignal ?? "SIGTERM" };
  const container = await client.containers.create(await leasing, {
    id: options.id,
    labels: { ...config?.config?.Labels, ...validLabels(imageLabels), ...options.labels, ...stopSignal },
    image: options.image?.name ?? "",
    runtime: options.runtime,
    spec: isAny(made) ? made : jsonAny(SPEC_TYPE_URL, toJson(made)),
    snapshotter: mounts === undefined ? "" : options.snapshotter === "" ? DEFAULT_SNAPSHOTTER : options.snapshotter,
    snapshotKey: mounts === undefined ? "" : options.id,
    sandbox: options.sandbox ?? "",
    extensions: options.extensions ?? {},
  });
  return { ...container, mounts: mounts ?? [] };
}

/** An image's labels are not bound by the limit that a container's are: those beyond it are left behind, as in the peer. */
function validLabels(labels: Readonly<Record<string, string>>): Record<string, string> {
  const size = (text: string): number => Buffer.byteLength(text);
  return Object.fromEntries(
    Object.entries(labels).filter(([key, value]) => size(key) + size(value) <= MAX_LABEL_BYTES),
  );
}

function isAny(made: Spec | AnyValue): made is AnyValue {
  return "typeUrl" in made;
}
