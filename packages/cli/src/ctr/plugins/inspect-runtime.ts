import { RUNTIME_FLAGS } from "../container-flags.ts";
import { runtimeOptions } from "../create-container.ts";
import { ctrCommand } from "../define.ts";
import { goJson, type JsonTree } from "../json.ts";

/** `ctr plugins inspect-runtime` */
export const command = ctrCommand({
  argsUsage: "[flags]",
  flags: RUNTIME_FLAGS,
  action: async ({ flags, globals, io }) => {
    await using session = await globals.connect();
    const { client, context } = session;
    const info = await client.introspection.runtime(context, flags.runtime, await runtimeOptions(flags));
    const annotations: JsonTree = Object.keys(info.annotations).length === 0 ? null : info.annotations;
    io.stdout.write(
      `${goJson({
        Name: info.name,
        Version: { Version: info.version, Revision: info.revision },
        Options: info.options ?? null,
        Features: info.features ?? null,
        Annotations: annotations,
      })}\n`,
    );
    return 0;
  },
});
