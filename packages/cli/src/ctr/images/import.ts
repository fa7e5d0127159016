import { messageOf } from "@stevedore/base";
import { allPlatforms, defaultMatcher, onlyStrict, parsePlatform } from "@stevedore/oci/platform";
import { importArchive } from "@stevedore/sdk/images/import";
import { matchingManifests } from "@stevedore/sdk/images/tree";
import { unpackImage } from "@stevedore/sdk/images/unpack";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { parseLabelArgs } from "../labels.ts";

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
    const baseName = flags.baseName === "" ? `import-${new Date().toISOString().slice(0, 10)}` : flags.baseName;
    const matcher =
      flags.platform !== ""
        ? onlyStrict(parsePlatform(flags.platform))
        : flags.allPlatforms
          ? allPlatforms
          : defaultMatcher();
    await using session = await globals.connect();
    const { client } = session;
    await withLease(client.leases, session.context, async (context) => {
      const images = await importArchive(client, context, {
        source: input === "-" ? Bun.stdin.stream() : Bun.file(input).stream(),
        baseName,
        digests: flags.digests,
        skipDigestForNamed: flags.skipDigestForNamed,
        indexName: flags.indexName,
        compressBlobs: flags.compressBlobs,
        labels: parseLabelArgs(flags.label),
        platforms: matcher,
      });
      if (flags.noUnpack) return;
      for (const { name, target } of images) {
        io.stdout.write(`unpacking ${name} (${target.digest})...`);
        const all =
          flags.allPlatforms && flags.platform === ""
            ? await matchingManifests(client.content, context, { target, matcher })
            : [];
        const targets = all.length > 1 ? all.map(({ descriptor }) => descriptor) : [target];
        for (const each of targets) {
          try {
            await unpackImage(client, context, {
              target: each,
              matcher,
              snapshotter: flags.snapshotter,
              syncFs: flags.syncFs,
              discardLayers: flags.discardUnpackedLayers,
            });
          } catch (error) {
            io.stdout.write("\n");
            throw new Error(messageOf(error), { cause: error });
          }
        }
        io.stdout.write("done\n");
      }
    });
    return 0;
  },
});
