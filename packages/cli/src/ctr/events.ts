import type { Envelope } from "@stevedore/sdk/types";
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
        io.stdout.write(`${goTime(envelope)} ${envelope.namespace} ${envelope.topic} ${event}\n`);
      }
    } catch (error) {
      if (!io.signal.aborted) throw error;
    }
    return 0;
  },
});

/** A time as Go's `%v` prints it in UTC, without trailing zeros: `2026-11-21 03:51:11.671791882 +0000 UTC`. */
function goTime({ timestamp, nanos }: Envelope): string {
  const seconds = timestamp.toISOString().slice(0, 19).replace("T", " ");
  const fraction = String(nanos).padStart(9, "0").replace(/0+$/, "");
  return `${seconds}${fraction === "" ? "" : `.${fraction}`} +0000 UTC`;
}
