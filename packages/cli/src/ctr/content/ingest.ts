import { isErrorClass } from "@stevedore/base";
import { intFlag, stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";

/** `ctr content ingest` */
export const command = ctrCommand({
  argsUsage: "[flags] <key>",
  description: "ingest objects into the local content store",
  flags: {
    expectedSize: intFlag("expected-size", "validate against provided size"),
    expectedDigest: stringFlag("expected-digest", "verify content against expected digest"),
  },
  action: async ({ args, flags, globals }) => {
    const [ref] = args;
    if (ref === undefined || ref === "") throw new Error("must specify a transaction reference");
    if (flags.expectedDigest !== "") {
      const { parseDigest } = await import("@stevedore/oci/digest");
      parseDigest(flags.expectedDigest);
    }
    await using session = await globals.connect();
    const { client, context } = session;
    try {
      await using writer = await client.content.writer(context, {
        ref,
        total: flags.expectedSize,
        expected: flags.expectedDigest,
      });
      // A run before this one may have left bytes behind; standard input starts from its beginning.
      if (writer.status().offset > 0) await writer.truncate(0);
      for await (const chunk of Bun.stdin.stream()) await writer.write(chunk);
      await writer.commit(context, {
        ...(flags.expectedSize > 0 ? { size: flags.expectedSize } : {}),
        ...(flags.expectedDigest === "" ? {} : { expected: flags.expectedDigest }),
      });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
    }
    return 0;
  },
});
