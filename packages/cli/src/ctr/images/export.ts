import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { allPlatforms, anyOf, defaultMatcher, type PlatformMatcher, parsePlatform } from "@stevedore/oci/platform";
import { exportArchive } from "@stevedore/sdk/images/export";
import { boolFlag, stringsFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images export` */
export const command = ctrCommand({
  argsUsage: "[flags] <out> <image> ...",
  description: `Export images to an OCI tar archive.

Tar output is formatted as an OCI archive, a Docker manifest is provided for the platform.
Use '--skip-manifest-json' to avoid including the Docker manifest.json file.
Use '--platform' to define the output platform.
When '--all-platforms' is given all images in a manifest list must be available.`,
  flags: {
    skipManifestJson: boolFlag("skip-manifest-json", "do not add Docker compatible manifest.json to archive"),
    skipNonDistributable: boolFlag(
      "skip-non-distributable",
      "do not add non-distributable blobs such as Windows layers to archive",
    ),
    platform: stringsFlag("platform", "Pull content from a specific platform"),
    allPlatforms: boolFlag("all-platforms", "exports content from all platforms"),
    local: boolFlag("local", "run export locally rather than through transfer API"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [out, ...names] = args;
    if (out === undefined || out === "" || names.length === 0) {
      throw new Error("please provide both an output filename and an image reference to export");
    }
    const matcher = platformsOf(flags);
    await using session = await globals.connect();
    const { client, context } = session;
    const images = [];
    for (const name of names) images.push(await client.images.get(context, name));
    const archive = { images, matcher, allPlatforms: flags.allPlatforms, skipManifestJson: flags.skipManifestJson };
    const skipNonDistributable = flags.skipNonDistributable;
    if (out === "-") {
      const write = (bytes: Uint8Array): void => io.stdout.write(bytes);
      await exportArchive(client, context, { ...archive, skipNonDistributable, write });
      return 0;
    }
    const file = createWriteStream(out, { mode: 0o666 });
    await once(file, "open");
    const write = async (bytes: Uint8Array): Promise<void> => {
      if (!file.write(bytes)) await once(file, "drain");
    };
    try {
      await exportArchive(client, context, { ...archive, skipNonDistributable, write });
    } finally {
      file.end();
      await once(file, "close");
    }
    return 0;
  },
});

function platformsOf(flags: { readonly allPlatforms: boolean; readonly platform: readonly string[] }): PlatformMatcher {
  if (flags.allPlatforms) return allPlatforms;
  if (flags.platform.length === 0) return defaultMatcher();
  return anyOf(flags.platform.map((text) => parsePlatform(text)));
}
