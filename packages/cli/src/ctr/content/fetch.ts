import { hostPlatform, type Platform, parsePlatform } from "@stevedore/oci/platform";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag, stringsFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { BlobTable } from "../images/blob-table.ts";
import { imageStore } from "../images/transfer-way.ts";
import { parseLabelArgs } from "../labels.ts";
import { localRegistries, REGISTRY_FLAGS, registryOf } from "../registry-flags.ts";

/** Blobs fetched at once: containerd's. */
const DOWNLOADS = 3;

/** Matches nothing, so that of every platform only the metadata comes. */
const NO_PLATFORM: Platform = { os: "none", architecture: "none" };

/** `ctr content fetch` */
export const command = ctrCommand({
  argsUsage: "[flags] <remote> <object>",
  description: `Fetch an image into containerd.

All that is needed to run or to push the image comes into the content store, and
the image is named. Nothing is unpacked: 'ctr images pull' does that as well.`,
  flags: {
    ...REGISTRY_FLAGS,
    label: stringsFlag("label", "labels to attach to the image"),
    platform: stringsFlag("platform", "pull content from a specific platform"),
    allPlatforms: boolFlag("all-platforms", "pull content from all platforms"),
    allMetadata: boolFlag("all-metadata", "pull metadata for all platforms, which is the default", { hidden: true }),
    skipMetadata: boolFlag(
      "skip-metadata",
      "skips metadata for unused platforms (Image may be unable to be pushed without metadata)",
    ),
    metadataOnly: boolFlag("metadata-only", "pull all metadata including manifests and configs"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [reference] = args;
    if (reference === undefined || reference === "") throw new Error("please provide an image reference to fetch");
    const given = flags.platform.map((text) => parsePlatform(text));
    const platforms = flags.allPlatforms ? [] : given.length > 0 ? given : [hostPlatform()];
    const store = imageStore(reference, {
      labels: parseLabelArgs(flags.label),
      platforms: flags.metadataOnly ? [NO_PLATFORM] : platforms,
      allMetadata: flags.metadataOnly || !flags.skipMetadata,
      unpacks: [],
      documentsOnly: flags.metadataOnly,
    });
    const source = await registryOf(flags, reference, io);
    const { createTransferrer } = await import("@stevedore/sdk/images/registry");
    await using session = await globals.connect();
    const { client, context } = session;
    using registries = await localRegistries(flags);
    const transfers = createTransferrer({
      backend: client,
      leases: client.leases,
      openRegistry: registries.open,
      verifiers: new Map(),
      unpackPlatforms: [],
      maxDownloads: DOWNLOADS,
      maxUploads: DOWNLOADS,
      maxUnpacks: 0,
    });
    const table = new BlobTable(io.stdout, reference);
    try {
      await withLease(client.leases, context, async (leased) =>
        transfers.transfer(leased, source, { destination: store, onProgress: table.take }),
      );
    } finally {
      table.finish();
    }
    return 0;
  },
});
