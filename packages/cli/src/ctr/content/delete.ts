import { isErrorClass, messageOf } from "@stevedore/base";
import { logLine } from "../../kit/log-line.ts";
import { ctrCommand } from "../define.ts";

/** `ctr content delete` */
export const command = ctrCommand({
  argsUsage: "[<digest>, ...]",
  description: `Delete one or more blobs permanently. Successfully deleted
	blobs are printed to stdout.`,
  flags: {},
  action: async ({ args, globals, io }) => {
    const { parseDigest } = await import("@stevedore/oci/digest");
    await using session = await globals.connect();
    let failure: unknown;
    for (const digest of args) {
      try {
        parseDigest(digest);
        await session.client.content.delete(session.context, digest);
        io.stdout.write(`${digest}\n`);
      } catch (error) {
        if (isErrorClass(error, "not-found")) continue;
        failure ??= error;
        io.stderr.write(logLine("error", `failed to delete ${JSON.stringify(digest)}`, error));
      }
    }
    if (failure !== undefined) throw failure instanceof Error ? failure : new Error(messageOf(failure));
    return 0;
  },
});
