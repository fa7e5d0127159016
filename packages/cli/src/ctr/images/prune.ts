import { isErrorClass, messageOf } from "@stevedore/base";
import { boolFlag } from "../../kit/flags.ts";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";

/** `ctr images prune` */
export const command = ctrCommand({
  flags: {
    all: boolFlag(
      "all",
      "remove all unused images, not just dangling ones (if all is not specified no images will be pruned)",
    ),
  },
  action: async ({ flags, globals, io }) => {
    if (!flags.all) {
      io.stderr.write(logLine("warning", "No images pruned. `image prune` requires --all to be specified."));
      return 0;
    }
    await using session = await globals.connect();
    const { client, context } = session;
    const [images, containers] = await Promise.all([
      client.images.list(context, []),
      client.containers.list(context, []),
    ]);
    const used = new Set(containers.map(({ image }) => image));
    const unused = images.map(({ name }) => name).filter((name) => !used.has(name));
    for (const [at, name] of unused.entries()) {
      try {
        // Collecting once, with the last one, frees what all of them held.
        await client.images.delete(context, name, { sync: at === unused.length - 1 });
      } catch (error) {
        if (!isErrorClass(error, "not-found")) {
          io.stderr.write(logLine("warning", `failed to delete image ${name}`, messageOf(error)));
        }
        continue;
      }
      io.stderr.write(logLine("info", `deleted image: ${name}\n`));
    }
    return 0;
  },
});
