import { ctrCommand } from "./define.ts";
import { goJson } from "./json.ts";

/** `ctr info` */
export const command = ctrCommand({
  flags: {},
  action: async ({ globals, io }) => {
    await using session = await globals.connect();
    const server = await session.client.introspection.server(session.context);
    const deprecations = server.deprecations.map(({ id, message, lastOccurrence }) => ({
      id,
      message,
      last_occurrence: {
        seconds: Math.floor(lastOccurrence.getTime() / 1000),
        nanos: (lastOccurrence.getTime() % 1000) * 1_000_000,
      },
    }));
    io.stdout.write(
      `${goJson({
        server: {
          uuid: server.uuid,
          pid: server.pid,
          pidns: server.pidns,
          deprecations: deprecations.length === 0 ? undefined : deprecations,
        },
      })}\n`,
    );
    return 0;
  },
});
