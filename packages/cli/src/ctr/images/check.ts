import { isErrorClass, withContext } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import { imageBlobs } from "@stevedore/sdk/images/check";
import { isUnpacked } from "@stevedore/sdk/images/unpack";
import { boolFlag, stringFlag } from "../../kit/flags.ts";
import { formatBytes } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images check` */
export const command = ctrCommand({
  argsUsage: "[flags] [<filter>, ...]",
  description: "check existing images to ensure all content is available locally",
  flags: {
    quiet: boolFlag("quiet", "print only the ready image refs (fully downloaded and unpacked)", { aliases: ["q"] }),
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
  },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const { client, context } = session;
    const matcher = defaultMatcher();
    const rows: string[] = [];
    const images = await client.images.list(context, args).catch((error: unknown) => {
      throw withContext("failed listing images", error);
    });
    for (const { name, target } of images) {
      const { required, present, missing, requiredBytes, presentBytes } = await imageBlobs(client.content, context, {
        target,
        matcher,
      });
      const complete = missing === 0 && required > 0;
      const word = complete ? "complete" : "incomplete";
      const unpacked =
        complete &&
        (await unpackedOrNot(isUnpacked(client, context, { target, matcher, snapshotter: flags.snapshotter })));
      if (flags.quiet) {
        if (complete && unpacked) io.stdout.write(`${name}\n`);
        continue;
      }
      const sizes = `${formatBytes(presentBytes)}/${formatBytes(requiredBytes)}`;
      rows.push(
        `${name}\t${target.mediaType}\t${target.digest}\t${word} (${present}/${required})\t${sizes}\t${unpacked}\t\n`,
      );
    }
    if (!flags.quiet) {
      io.stdout.write(tabwrite(`REF\tTYPE\tDIGEST\tSTATUS\tSIZE\tUNPACKED\t\n${rows.join("")}`, LIST_TABLE));
    }
    return 0;
  },
});

async function unpackedOrNot(answer: Promise<boolean>): Promise<boolean> {
  try {
    return await answer;
  } catch (error) {
    if (isErrorClass(error, "not-found")) return false;
    throw error;
  }
}
