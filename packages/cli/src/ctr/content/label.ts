import { ctrCommand } from "../define.ts";
import { formatLabels, parseLabelArgs } from "../labels.ts";

/** `ctr content label` */
export const command = ctrCommand({
  argsUsage: "<digest> [<label>=<value> ...]",
  description: "labels blobs in the content store",
  flags: {},
  action: async ({ args, globals, io }) => {
    const [digest = "", ...given] = args;
    const { parseDigest } = await import("@stevedore/oci/digest");
    parseDigest(digest);
    const labels = parseLabelArgs(given);
    await using session = await globals.connect();
    const fields = Object.keys(labels).map((key) => `labels.${key}`);
    const info = await session.client.content.update(session.context, { digest, labels }, fields);
    io.stdout.write(`${formatLabels(info.labels)}\n`);
    return 0;
  },
});
