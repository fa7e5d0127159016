import { parseDigest } from "@stevedore/oci/digest";
import { ctrCommand } from "../define.ts";
import { REGISTRY_FLAGS } from "../registry-flags.ts";
import { remoteContent } from "./remote.ts";

/** Bytes read from the daemon at a time. */
const PIECE = 1 << 20;

/** `ctr content push-object` */
export const command = ctrCommand({
  argsUsage: "[flags] <remote> <object> <type>",
  description: "Push objects by identifier to a remote.",
  flags: REGISTRY_FLAGS,
  action: async ({ args, flags, globals, io }) => {
    const [reference = "", digest = "", mediaType = ""] = args;
    parseDigest(digest);
    await using session = await globals.connect();
    const { client, context } = session;
    const { size } = await client.content.info(context, digest);
    using remote = await remoteContent(flags, reference, io);
    await using reader = await client.content.open(context, digest);
    const open = async function* (offset: number): AsyncGenerator<Uint8Array> {
      for (let at = offset; at < size; ) {
        const bytes = await reader.readAt(at, PIECE);
        if (bytes.length === 0) return;
        at += bytes.length;
        yield bytes;
      }
    };
    await remote.registry.push(reference, { mediaType, digest, size }, open, { signal: io.signal });
    io.stdout.write(`Pushed ${digest} ${mediaType}\n`);
    return 0;
  },
});
