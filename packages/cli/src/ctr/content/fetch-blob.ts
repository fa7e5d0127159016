import { parseDigest } from "@stevedore/oci/digest";
import { stringFlag } from "../../kit/flags.ts";
import { ctrCommand } from "../define.ts";
import { REGISTRY_FLAGS } from "../registry-flags.ts";
import { remoteContent } from "./remote.ts";

/** `ctr content fetch-blob` */
export const command = ctrCommand({
  argsUsage: "[flags] <remote> [<digest>, ...]",
  description: "Fetch blobs by digests from a remote.",
  flags: {
    ...REGISTRY_FLAGS,
    mediaType: stringFlag("media-type", "specify target mediatype for request header"),
  },
  action: async ({ args, flags, io }) => {
    const [reference = "", ...digests] = args;
    if (digests.length === 0) throw new Error("must specify digests");
    for (const digest of digests) parseDigest(digest);
    using remote = await remoteContent(flags, reference, io);
    const call = { signal: io.signal, ...(flags.mediaType === "" ? {} : { mediaType: flags.mediaType }) };
    for (const digest of digests) {
      const { body } = await remote.registry.fetchByDigest(reference, digest, call);
      await remote.print(body, { digest });
    }
    return 0;
  },
});
