import { isErrorClass } from "@stevedore/base";
import { VERSION } from "../version.ts";
import { ctrCommand } from "./define.ts";

/** `ctr version` */
export const command = ctrCommand({
  flags: {},
  action: async ({ globals, io }) => {
    io.stdout.write(
      `Client:\n  Version:  ${VERSION.version}\n  Revision: ${VERSION.revision}\n  Bun version: ${Bun.version}\n\n`,
    );
    await using session = await globals.connect();
    const { client, context } = session;
    const [server, info] = await Promise.all([
      client.version(context),
      client.introspection.server(context).catch((error: unknown) => {
        if (isErrorClass(error, "not-implemented")) return undefined;
        throw error;
      }),
    ]);
    io.stdout.write(`Server:\n  Version:  ${server.version}\n  Revision: ${server.revision}\n`);
    if (info !== undefined) io.stdout.write(`  UUID: ${info.uuid}\n`);
    if (server.version !== VERSION.version) {
      io.stderr.write("WARNING: version mismatch\n");
    }
    if (server.revision !== VERSION.revision) {
      io.stderr.write("WARNING: revision mismatch\n");
    }
    return 0;
  },
});
