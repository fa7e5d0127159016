import { classified, isErrorClass } from "@stevedore/base";
import { allPlatforms, defaultMatcher, ordered, parsePlatform } from "@stevedore/oci/platform";
import { convertImage } from "@stevedore/sdk/images/convert";
import { withLease } from "@stevedore/sdk/lease";
import { boolFlag, stringFlag, stringsFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images convert` */
export const command = ctrCommand({
  argsUsage: "[flags] <source_ref> <target_ref>",
  description: `Convert an image format.

e.g., 'ctr convert --uncompress --oci example.com/foo:orig example.com/foo:converted'

Use '--platform' to define the output platform.
When '--all-platforms' is given all images in a manifest list must be available.`,
  flags: {
    uncompress: boolFlag("uncompress", "convert tar.gz layers to uncompressed tar layers"),
    oci: boolFlag("oci", "convert Docker media types to OCI media types"),
    erofs: stringFlag("erofs", "convert layers to EROFS: waits for the EROFS snapshotter"),
    erofsCompressors: stringFlag("erofs-compressors", "compressors of EROFS layers"),
    erofsMkfsOptions: stringFlag("erofs-mkfs-options", "options of mkfs.erofs"),
    platform: stringsFlag("platform", "convert content for a specific platform"),
    allPlatforms: boolFlag("all-platforms", "convert content for all platforms"),
  },
  action: async ({ args, flags, globals, io }) => {
    const [source = "", target = ""] = args;
    if (source === "" || target === "") throw new Error("src and target image need to be specified");
    if (flags.erofs !== "" || flags.erofsCompressors !== "" || flags.erofsMkfsOptions !== "") {
      throw classified(
        "not-implemented",
        "--erofs is not in this version, it waits for the EROFS snapshotter: not implemented",
      );
    }
    const given = flags.platform.map((text) => parsePlatform(text));
    if (given.length > 0 && flags.allPlatforms) throw new Error("cannot specify both --platform and --all-platforms");
    const matcher = flags.allPlatforms ? allPlatforms : given.length > 0 ? ordered(given) : defaultMatcher();
    await using session = await globals.connect();
    const { client } = session;
    await withLease(client.leases, session.context, async (context) => {
      const image = await client.images.get(context, source);
      const made = await convertImage(client.content, context, {
        target: image.target,
        matcher,
        uncompress: flags.uncompress,
        toOci: flags.oci,
      });
      const converted = { name: target, labels: image.labels, target: made };
      try {
        await client.images.create(context, converted);
      } catch (error) {
        if (!isErrorClass(error, "already-exists")) throw error;
        await client.images.update(context, converted, ["target", "labels"]);
      }
      io.stdout.write(`${made.digest}\n`);
    });
    return 0;
  },
});
