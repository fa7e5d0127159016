import { messageOf, type RequestContext } from "@stevedore/base";
import { allPlatforms, defaultMatcher, hostPlatform, onlyStrict, parsePlatform } from "@stevedore/oci/platform";
import type { Client } from "@stevedore/sdk/client";
import { importArchive } from "@stevedore/sdk/images/import";
import { matchingManifests } from "@stevedore/sdk/images/tree";
import { unpackImage } from "@stevedore/sdk/images/unpack";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import type { Output } from "../../kit/output.ts";
import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";
import { TransferScreen } from "./transfer-screen.ts";
import { byTransferOr, imageStore } from "./transfer-way.ts";

/** `ctr images import` */
export const command = ctrCommand({
  argsUsage: "[flags] <in>",
  description: `Import images from a tar stream.
Implemented formats:
- oci.v1
- docker.v1.1
- docker.v1.2


For OCI v1, you may need to specify --base-name because an OCI archive may
contain only partial image references (tags without the base image name).
If no base image name is provided, a name will be generated as "import-%{yyyy-MM-dd}".

e.g.
  $ ctr images import --base-name foo/bar foobar.tar

If foobar.tar contains an OCI ref named "latest" and anonymous ref "sha256:deadbeef", the command will create
"foo/bar:latest" and "foo/bar@sha256:deadbeef" images in the containerd store.`,
  flags: {
    baseName: stringFlag(
      "base-name",
      "base image name for added images, when provided only images with this name prefix are imported",
    ),
    digests: boolFlag("digests", "whether to create digest images (default: false)"),
    skipDigestForNamed: boolFlag(
      "skip-digest-for-named",
      "skip applying --digests option to images named in the importing tar (use it in conjunction with --digests)",
    ),
    indexName: stringFlag("index-name", "image name to keep index as, by default index is discarded"),
    allPlatforms: boolFlag("all-platforms", "imports content for all platforms, false by default"),
    platform: stringFlag("platform", "imports content for specific platform"),
    noUnpack: boolFlag(
      "no-unpack",
      "skip unpacking the images, cannot be used with --discard-unpacked-layers, false by default",
    ),
    local: boolFlag("local", "run import locally rather than through transfer API"),
    compressBlobs: boolFlag(
      "compress-blobs",
      "compress uncompressed blobs when creating manifest (Docker format only)",
    ),
    discardUnpackedLayers: boolFlag(
      "discard-unpacked-layers",
      "allow the garbage collector to clean layers up from the content store after unpacking, cannot be used with --no-unpack, false by default",
    ),
    syncFs: boolFlag("sync-fs", "sync the underlying filesystem containing files when unpack images, false by default"),
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
    label: stringsFlag("label", "labels to attach to the image"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [input] = args;
    if (input === undefined || input === "")
      throw new Error("please provide the archive to import, - for standard input");
    if (flags.noUnpack && flags.discardUnpackedLayers) {
      throw new Error("--no-unpack and --discard-unpacked-layers cannot be used together");
    }
    const wishes: Wishes = {
      ...flags,
      input,
      baseName: flags.baseName === "" ? `import-${new Date().toISOString().slice(0, 10)}` : flags.baseName,
      anyFullName: flags.baseName === "",
    };
    await using session = await globals.connect();
    const { client } = session;
    const local = async (): Promise<void> =>
      withLease(client.leases, session.context, async (context) =>
        importLocally({ client, context, out: io.stdout }, wishes),
      );
    // Only a client knows these; containerd's refuses them without --local.
    if (flags.local || flags.discardUnpackedLayers || flags.syncFs) await local();
    else {
      await byTransferOr(
        async () =>
          withLease(client.leases, session.context, async (context) =>
            importByTransfer({ client, context, out: io.stdout }, wishes),
          ),
        local,
      );
    }
    return 0;
  },
});

interface Wishes {
  readonly input: string;
  readonly baseName: string;
  /** The base name is made up: names that do not begin with it are taken as well. */
  readonly anyFullName: boolean;
  readonly digests: boolean;
  readonly skipDigestForNamed: boolean;
  readonly indexName: string;
  readonly allPlatforms: boolean;
  readonly platform: string;
  readonly noUnpack: boolean;
  readonly compressBlobs: boolean;
  readonly discardUnpackedLayers: boolean;
  readonly syncFs: boolean;
  readonly snapshotter: string;
  readonly label: readonly string[];
}

interface Importing {
  readonly client: Client;
  readonly context: RequestContext;
  readonly out: Output;
}

function archiveOf({ input }: Wishes): AsyncIterable<Uint8Array> {
  return input === "-" ? Bun.stdin.stream() : Bun.file(input).stream();
}

async function importByTransfer({ client, context, out }: Importing, wishes: Wishes): Promise<void> {
  const here = wishes.platform === "" ? hostPlatform() : parsePlatform(wishes.platform);
  const screen = new TransferScreen(out);
  try {
    await client.transfer.transfer(
      context,
      { kind: "import", bytes: archiveOf(wishes), mediaType: "", forceCompress: wishes.compressBlobs },
      {
        destination: imageStore(wishes.indexName, {
          labels: parseLabelArgs(wishes.label),
          platforms: wishes.allPlatforms && wishes.platform === "" ? [] : [here],
          references: [
            {
              name: wishes.baseName,
              isPrefix: true,
              allowOverwrite: wishes.anyFullName,
              addDigest: wishes.digests,
              skipNamedDigest: wishes.skipDigestForNamed,
            },
          ],
          unpacks: wishes.noUnpack ? [] : [{ platform: here, snapshotter: wishes.snapshotter }],
        }),
        onProgress: screen.take,
      },
    );
  } finally {
    screen.finish();
  }
}

async function importLocally({ client, context, out }: Importing, wishes: Wishes): Promise<void> {
  const matcher =
    wishes.platform !== ""
      ? onlyStrict(parsePlatform(wishes.platform))
      : wishes.allPlatforms
        ? allPlatforms
        : defaultMatcher();
  const images = await importArchive(client, context, {
    source: archiveOf(wishes),
    baseName: wishes.baseName,
    digests: wishes.digests,
    skipDigestForNamed: wishes.skipDigestForNamed,
    indexName: wishes.indexName,
    compressBlobs: wishes.compressBlobs,
    labels: parseLabelArgs(wishes.label),
    platforms: matcher,
  });
  if (wishes.noUnpack) return;
  for (const { name, target } of images) {
    out.write(`unpacking ${name} (${target.digest})...`);
    const all =
      wishes.allPlatforms && wishes.platform === ""
        ? await matchingManifests(client.content, context, { target, matcher })
        : [];
    const targets = all.length > 1 ? all.map(({ descriptor }) => descriptor) : [target];
    for (const each of targets) {
      try {
        await unpackImage(client, context, {
          target: each,
          matcher,
          snapshotter: wishes.snapshotter,
          syncFs: wishes.syncFs,
          discardLayers: wishes.discardUnpackedLayers,
        });
      } catch (error) {
        out.write("\n");
        throw new Error(messageOf(error), { cause: error });
      }
    }
    out.write("done\n");
  }
}
