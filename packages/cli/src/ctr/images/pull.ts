import { classified, isErrorClass, type RequestContext } from "@stevedore/base";
import {
  allPlatforms,
  formatPlatform,
  hostPlatform,
  only,
  type Platform,
  parsePlatform,
} from "@stevedore/oci/platform";
import type { Client } from "@stevedore/sdk/client";
import { withLease } from "@stevedore/sdk/lease";
import type { Descriptor, TransferRegistry, TransferStore } from "@stevedore/sdk/types";
import { boolFlag, intFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import type { Output } from "../../kit/output.ts";
import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";
import {
  localRegistries,
  needsLocal,
  REGISTRY_FLAGS,
  type RegistryFlags,
  registryOf,
  unpackInto,
} from "../registry-flags.ts";
import { BlobTable } from "./blob-table.ts";
import { TransferScreen } from "./transfer-screen.ts";
import { byTransferOr, imageStore } from "./transfer-way.ts";

/** `ctr images pull` */
export const command = ctrCommand({
  argsUsage: "[flags] <ref>",
  description: `Fetch and prepare an image for use in containerd.

After pulling an image, it should be ready to use the same reference in a run
command. As part of this process, we do the following:

1. Fetch all resources into containerd.
2. Prepare the snapshot filesystem with the pulled resources.
3. Register metadata for the image.`,
  flags: {
    ...REGISTRY_FLAGS,
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
    label: stringsFlag("label", "labels to attach to the image"),
    platform: stringsFlag("platform", "pull content from a specific platform"),
    allPlatforms: boolFlag("all-platforms", "pull content and metadata from all platforms"),
    allMetadata: boolFlag("all-metadata", "pull metadata for all platforms, which is the default", { hidden: true }),
    skipMetadata: boolFlag(
      "skip-metadata",
      "skips metadata for unused platforms (Image may be unable to be pushed without metadata)",
    ),
    printChainId: boolFlag("print-chainid", "print the resulting image's chain ID"),
    maxConcurrentDownloads: intFlag("max-concurrent-downloads", "set the max concurrent downloads for each pull"),
    local: boolFlag("local", "fetch content from local client rather than using transfer service"),
    syncFs: boolFlag(
      "sync-fs",
      "synchronize the underlying filesystem containing files when unpack images, false by default",
    ),
  },
  action: async ({ args, flags, globals, io }) => {
    const [reference] = args;
    if (reference === undefined || reference === "") throw new Error("please provide an image reference to pull");
    const given = flags.platform.map((text) => parsePlatform(text));
    if (given.length > 0 && flags.allPlatforms) throw new Error("cannot specify both --platform and --all-platforms");
    const platforms = given.length > 0 || flags.allPlatforms ? given : [hostPlatform()];
    const store = imageStore(reference, {
      labels: parseLabelArgs(flags.label),
      platforms,
      allMetadata: !flags.skipMetadata,
      unpacks: platforms.map((platform) => ({ platform, snapshotter: flags.snapshotter })),
    });
    const source = await registryOf(flags, reference, io);
    await using session = await globals.connect();
    const pulling: Pulling = { client: session.client, source, store, out: io.stdout };
    const local = async (): Promise<void> =>
      withLease(session.client.leases, session.context, async (context) => pullLocally(pulling, context, flags));
    // Only a client knows these; containerd's refuses them without --local.
    const only = needsLocal(flags) || flags.printChainId || flags.syncFs || flags.maxConcurrentDownloads > 0;
    if (flags.local || only) await local();
    else {
      await byTransferOr(
        async () =>
          withLease(session.client.leases, session.context, async (context) => pullByTransfer(pulling, context)),
        local,
      );
    }
    return 0;
  },
});

interface Pulling {
  readonly client: Client;
  readonly source: TransferRegistry;
  readonly store: TransferStore;
  readonly out: Output;
}

async function pullByTransfer({ client, source, store, out }: Pulling, context: RequestContext): Promise<void> {
  const screen = new TransferScreen(out);
  try {
    await client.transfer.transfer(context, source, { destination: store, onProgress: screen.take });
  } finally {
    screen.finish();
  }
}

/** Blobs a client fetches at once when nobody says: containerd's. */
const DOWNLOADS = 3;

async function pullLocally(
  { client, source, store, out }: Pulling,
  context: RequestContext,
  flags: RegistryFlags & {
    readonly snapshotter: string;
    readonly allPlatforms: boolean;
    readonly printChainId: boolean;
    readonly syncFs: boolean;
    readonly maxConcurrentDownloads: number;
  },
): Promise<void> {
  const start = performance.now();
  const { createTransferrer } = await import("@stevedore/sdk/images/registry");
  using registries = await localRegistries(flags);
  const snapshotter = flags.snapshotter === "" ? "overlayfs" : flags.snapshotter;
  const downloads = flags.maxConcurrentDownloads > 0 ? flags.maxConcurrentDownloads : DOWNLOADS;
  const diff = client.diff;
  const synced: Client["diff"] = {
    apply: async (at, layer, options) => diff.apply(at, layer, { ...options, syncFs: flags.syncFs }),
    compare: async (at, lower, options) => diff.compare(at, lower, options),
  };
  const backend = { ...client, diff: synced };
  const transfers = createTransferrer({
    backend,
    leases: client.leases,
    openRegistry: registries.open,
    verifiers: new Map(),
    unpackPlatforms: [unpackInto(backend, snapshotter, allPlatforms)],
    maxDownloads: downloads,
    maxUploads: downloads,
    maxUnpacks: 0,
  });
  const table = new BlobTable(out, store.name);
  try {
    await transfers.transfer(context, source, { destination: store, onProgress: table.take });
  } finally {
    table.finish();
  }
  const { target } = await client.images.get(context, store.name);
  const { imageChainId, unpackImage } = await import("@stevedore/sdk/images/unpack");
  // Which platforms the image has is known only now.
  const all = flags.allPlatforms ? await platformsOf(client, context, target) : undefined;
  for (const platform of all ?? store.unpacks.map((each) => each.platform)) {
    out.write(`unpacking ${formatPlatform(platform)} ${target.digest}...\n`);
    if (all !== undefined) {
      const { syncFs } = flags;
      await unpackImage(backend, context, { target, matcher: only(platform), snapshotter, syncFs });
    }
    if (flags.printChainId) out.write(`image chain ID: ${await chainOf(platform)}\n`);
  }
  out.write(`done: ${(performance.now() - start).toFixed(6)}ms\t\n`);

  async function chainOf(platform: Platform): Promise<string> {
    try {
      return await imageChainId(client, context, { target, matcher: only(platform) });
    } catch (error) {
      if (!isErrorClass(error, "not-found")) throw error;
      throw classified("not-found", `image has nothing for ${formatPlatform(platform)}: not found`);
    }
  }
}

/** The platforms that an image has layers for here. */
async function platformsOf(client: Client, context: RequestContext, target: Descriptor): Promise<readonly Platform[]> {
  const { matchingManifests } = await import("@stevedore/sdk/images/tree");
  const manifests = await matchingManifests(client.content, context, { target, matcher: allPlatforms });
  return manifests.map(({ platform }) => platform);
}
