import { formatGoTime } from "../kit/format.ts";
import { ctrCommand } from "./define.ts";

/** `ctr events` */
export const command = ctrCommand({
  argsUsage: "[<filter>, ...]",
  flags: {},
  action: async ({ args, globals, io }) => {
    const { anyToJson } = await import("@stevedore/sdk/any-json");
    await using session = await globals.connect();
    // Interrupting is how a user ends this command; it is no failure.
    try {
      for await (const envelope of session.client.events.subscribe(session.context, args)) {
        const event = await anyToJson(envelope.event);
        io.stdout.write(
          `${formatGoTime(envelope.timestamp, envelope.nanos)} ${envelope.namespace} ${envelope.topic} ${event}\n`,
        );
      }
    } catch (error) {
      if (!io.signal.aborted) throw error;
    }
    return 0;
  },
});
