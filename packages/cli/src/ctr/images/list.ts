import { isErrorClass, withContext } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import { imagePlatforms, imageSize } from "@stevedore/sdk/images/tree";
import type { Image } from "@stevedore/sdk/types";
import { boolFlag } from "../../kit/flags.ts";
import { formatBytes } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";
import type { Session } from "../globals.ts";
import { formatLabels } from "../labels.ts";

/** `ctr images list` */
export const command = ctrCommand({
  argsUsage: "[flags] [<filter>, ...]",
  description: "list images registered with containerd",
  flags: { quiet: boolFlag("quiet", "print only the image refs", { aliases: ["q"] }) },
  action: async ({ args, flags, globals, io }) => {
    await using session = await globals.connect();
    const images = await session.client.images.list(session.context, args).catch((error: unknown) => {
      throw withContext("failed to list images", error);
    });
    if (flags.quiet) {
      for (const { name } of images) io.stdout.write(`${name}\n`);
      return 0;
    }
    const rows: string[] = [];
    for (const image of images) rows.push(await row(session, image));
    io.stdout.write(tabwrite(`REF\tTYPE\tDIGEST\tSIZE\tPLATFORMS\tLABELS\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});

// An image whose blobs are partly gone is still listed, with what can be said of it.
async function orDash(value: Promise<string>): Promise<string> {
  try {
    const text = await value;
    return text === "" ? "-" : text;
  } catch (error) {
    if (isErrorClass(error, "not-found") || isErrorClass(error, "invalid-argument")) return "-";
    throw error;
  }
}

async function row({ client, context }: Session, { name, target, labels }: Image): Promise<string> {
  const matcher = defaultMatcher();
  const size = await orDash(imageSize(client.content, context, { target, matcher }).then(formatBytes));
  const platforms = await orDash(imagePlatforms(client.content, context, target).then((all) => all.join(",")));
  return `${name}\t${target.mediaType}\t${target.digest}\t${size}\t${platforms}\t${formatLabels(labels, "-")}\t\n`;
}
