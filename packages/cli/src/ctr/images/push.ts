import { classified, type RequestContext, withContext } from "@stevedore/base";
import { isDigest } from "@stevedore/oci/digest";
import { isNonDistributable, MediaType } from "@stevedore/oci/media-types";
import { normalizePlatform, onlyStrict, parsePlatform } from "@stevedore/oci/platform";
import type { Client } from "@stevedore/sdk/client";
import { childBlobs } from "@stevedore/sdk/images/tree";
import { withLease } from "@stevedore/sdk/lease";
import type { Descriptor, TransferRegistry } from "@stevedore/sdk/types";
import { boolFlag, intFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import type { Output } from "../../kit/output.ts";
import { ctrCommand } from "../define.ts";
import { localRegistries, needsLocal, REGISTRY_FLAGS, type RegistryFlags, registryOf } from "../registry-flags.ts";
import { BlobTable } from "./blob-table.ts";
import { TransferScreen } from "./transfer-screen.ts";
import { byTransferOr, imageStore } from "./transfer-way.ts";

/** `ctr images push` */
export const command = ctrCommand({
  argsUsage: "[flags] <remote> [<local>]",
  description: `Pushes an image reference from containerd.

All resources associated with the manifest reference will be pushed.
The ref is used to resolve to a locally existing image manifest.
The image manifest must exist before push. Creating a new image
manifest can be done through calculating the diff for layers,
creating the associated configuration, and creating the manifest
which references those resources.`,
  flags: {
    ...REGISTRY_FLAGS,
    manifest: stringFlag("manifest", "digest of manifest"),
    manifestType: stringFlag("manifest-type", "media type of manifest digest", { initial: MediaType.ociManifest }),
    platform: stringsFlag("platform", "push content from a specific platform"),
    maxConcurrentUploadedLayers: intFlag(
      "max-concurrent-uploaded-layers",
      "set the max concurrent uploaded layers for each push",
    ),
    local: boolFlag("local", "push content from local client rather than using transfer service"),
    allowNonDistributableBlobs: boolFlag(
      "allow-non-distributable-blobs",
      "allow pushing blobs that are marked as non-distributable",
    ),
  },
  action: async ({ args, flags, globals, io }) => {
    const [remote, name = remote] = args;
    if (remote === undefined || remote === "" || name === undefined) {
      throw new Error("please provide a remote image reference to push");
    }
    const registry = await registryOf(flags, remote, io);
    await using session = await globals.connect();
    const pushing: Pushing = { client: session.client, registry, name, out: io.stdout };
    const local = async (): Promise<void> =>
      withLease(session.client.leases, session.context, async (context) => pushLocally(pushing, context, flags));
    // Only a client knows these; containerd's refuses most of them without --local.
    const only =
      needsLocal(flags) ||
      flags.manifest !== "" ||
      flags.platform.length > 0 ||
      flags.maxConcurrentUploadedLayers > 0 ||
      flags.allowNonDistributableBlobs;
    if (flags.local || only) await local();
    else {
      await byTransferOr(
        async () =>
          withLease(session.client.leases, session.context, async (context) => pushByTransfer(pushing, context)),
        local,
      );
    }
    return 0;
  },
});

interface Pushing {
  readonly client: Client;
  readonly registry: TransferRegistry;
  readonly name: string;
  readonly out: Output;
}

async function pushByTransfer({ client, registry, name, out }: Pushing, context: RequestContext): Promise<void> {
  const screen = new TransferScreen(out);
  try {
    await client.transfer.transfer(context, imageStore(name), { destination: registry, onProgress: screen.take });
  } finally {
    screen.finish();
  }
}

/** Blobs a client pushes at once when nobody says: containerd's. */
const UPLOADS = 3;

type PushFlags = RegistryFlags & {
  readonly manifest: string;
  readonly manifestType: string;
  readonly platform: readonly string[];
  readonly maxConcurrentUploadedLayers: number;
  readonly allowNonDistributableBlobs: boolean;
};

async function pushLocally(
  { client, registry, name, out }: Pushing,
  context: RequestContext,
  flags: PushFlags,
): Promise<void> {
  const target = await targetOf({ client, name }, context, flags);
  const { createTransferrer } = await import("@stevedore/sdk/images/registry");
  using registries = await localRegistries(flags);
  const transfers = createTransferrer({
    backend: client,
    leases: client.leases,
    openRegistry: registries.open,
    verifiers: new Map(),
    unpackPlatforms: [],
    maxDownloads: 1,
    maxUploads: flags.maxConcurrentUploadedLayers > 0 ? flags.maxConcurrentUploadedLayers : UPLOADS,
    maxUnpacks: 1,
  });
  const table = new BlobTable(out, "");
  try {
    await transfers.pushTree(
      context,
      {
        name,
        target,
        select: (_parent, children) =>
          flags.allowNonDistributableBlobs
            ? children
            : children.filter((child) => !isNonDistributable(child.mediaType)),
      },
      { registry, onProgress: table.take },
    );
  } finally {
    table.finish();
  }
}

async function targetOf(
  { client, name }: Pick<Pushing, "client" | "name">,
  context: RequestContext,
  flags: PushFlags,
): Promise<Descriptor> {
  if (flags.manifest !== "") {
    if (!isDigest(flags.manifest)) {
      throw classified(
        "invalid-argument",
        `invalid manifest digest ${JSON.stringify(flags.manifest)}: invalid argument`,
      );
    }
    const { size } = await client.content.info(context, flags.manifest);
    return { mediaType: flags.manifestType, digest: flags.manifest, size };
  }
  let target: Descriptor;
  try {
    ({ target } = await client.images.get(context, name));
  } catch (error) {
    throw withContext("unable to resolve image to manifest", error);
  }
  const [only, ...others] = flags.platform;
  if (only === undefined || others.length > 0) return target;
  // One platform of an index is pushed by itself.
  const matcher = onlyStrict(parsePlatform(only));
  const children = await childBlobs(client.content, context, target);
  const found = children.find(({ platform }) => platform !== undefined && matcher.match(normalizePlatform(platform)));
  return found ?? target;
}
