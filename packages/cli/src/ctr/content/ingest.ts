import { classified, isErrorClass, withContext } from "@stevedore/base";
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
      // A run before this one may have left bytes behind. As the peer's client we go on after them.
      const { offset } = writer.status();
      let skip = offset;
      for await (const chunk of Bun.stdin.stream()) {
        if (skip < chunk.byteLength) await writer.write(chunk.subarray(skip));
        skip = Math.max(0, skip - chunk.byteLength);
      }
      if (skip > 0) {
        throw classified(
          "failed-precondition",
          `ingest ${ref}: ${offset} bytes are there already and standard input has ${skip} fewer; begin again with another reference: failed precondition`,
        );
      }
      if (writer.status().offset < flags.expectedSize) {
        throw classified("unknown", "failed to read expected number of bytes: unexpected EOF");
      }
      const expected = {
        ...(flags.expectedSize > 0 ? { size: flags.expectedSize } : {}),
        ...(flags.expectedDigest === "" ? {} : { expected: flags.expectedDigest }),
      };
      await writer.commit(context, expected).catch((error: unknown) => {
        throw withContext(`failed commit on ref ${JSON.stringify(ref)}: commit failed`, error);
      });
    } catch (error) {
      if (!isErrorClass(error, "already-exists")) throw error;
    }
    return 0;
  },
});
