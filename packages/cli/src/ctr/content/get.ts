import { ctrCommand } from "../define.ts";

/** Bytes asked for at once. */
const CHUNK = 1024 * 1024;

/** `ctr content get` */
export const command = ctrCommand({
  argsUsage: "[<digest>, ...]",
  description: "display the image object",
  flags: {},
  action: async ({ args, globals, io }) => {
    const [digest = ""] = args;
    const { parseDigest } = await import("@stevedore/oci/digest");
    parseDigest(digest);
    await using session = await globals.connect();
    await using reader = await session.client.content.open(session.context, digest);
    for (let offset = 0; offset < reader.size; ) {
      const bytes = await reader.readAt(offset, Math.min(CHUNK, reader.size - offset));
      if (bytes.byteLength === 0) throw new Error(`content ${digest}: ended after ${offset} of ${reader.size} bytes`);
      io.stdout.write(bytes);
      offset += bytes.byteLength;
    }
    return 0;
  },
});
