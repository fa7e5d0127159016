import { ctrCommand } from "../define.ts";
import { REGISTRY_FLAGS } from "../registry-flags.ts";
import { remoteContent } from "./remote.ts";

/** `ctr content fetch-object` */
export const command = ctrCommand({
  argsUsage: "[flags] <remote> <object> [<hint>, ...]",
  description: "Fetch objects by identifier from a remote.",
  flags: REGISTRY_FLAGS,
  action: async ({ args, flags, io }) => {
    const [reference = ""] = args;
    using remote = await remoteContent(flags, reference, io);
    const call = { signal: io.signal };
    const { name, descriptor } = await remote.registry.resolve(reference, call);
    await remote.print((await remote.registry.fetch(name, descriptor, call)).body, descriptor);
    return 0;
  },
});
