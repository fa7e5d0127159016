import { isErrorClass } from "@stevedore/base";
import { defaultMatcher } from "@stevedore/oci/platform";
import { imageChainId } from "@stevedore/sdk/images/unpack";
import { stringFlag } from "../../kit/flags.ts";
import { formatBytes } from "../../kit/format.ts";
import { LIST_TABLE, tabwrite } from "../../kit/tabwriter.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images usage` */
export const command = ctrCommand({
  argsUsage: "[flags] <ref>",
  flags: {
    snapshotter: stringFlag("snapshotter", "snapshotter name. Empty value stands for the default value.", {
      env: ["CONTAINERD_SNAPSHOTTER"],
    }),
  },
  action: async ({ args, flags, globals, io }) => {
    const [ref] = args;
    if (ref === undefined || ref === "") throw new Error("please provide an image reference");
    await using session = await globals.connect();
    const { client, context } = session;
    const { target } = await client.images.get(context, ref);
    const snapshotter = client.snapshotter(flags.snapshotter);
    const rows: string[] = [];
    for (let key = await imageChainId(client, context, { target, matcher: defaultMatcher() }); key !== ""; ) {
      try {
        const { size, inodes } = await snapshotter.usage(context, key);
        rows.push(`${key}\t${formatBytes(size)}\t${inodes}\t\n`);
        key = (await snapshotter.stat(context, key)).parent;
      } catch (error) {
        if (isErrorClass(error, "not-found") && rows.length === 0) {
          throw new Error(`image ${ref} is not unpacked: ${key} not found`, { cause: error });
        }
        throw error;
      }
    }
    io.stdout.write(tabwrite(`KEY\tSIZE\tINODES\t\n${rows.join("")}`, LIST_TABLE));
    return 0;
  },
});
