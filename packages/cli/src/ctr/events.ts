import { classified } from "@stevedore/base/errors";
import { momentIn } from "@stevedore/base/moment";
import type { Envelope, ReplayStart } from "@stevedore/sdk/types";
import { boolFlag, parseDuration, stringFlag } from "../kit/flags.ts";
import { formatGoTime } from "../kit/format.ts";
import { ctrCommand } from "./define.ts";

/** `ctr events` */
export const command = ctrCommand({
  argsUsage: "[<filter>, ...]",
  flags: {
    since: stringFlag(
      "since",
      "begin with earlier events: of the last 10m, since a time as 2026-01-31T08:00:00Z, or after a cursor as --cursors shows it; it goes on over a restart of the daemon",
    ),
    cursors: boolFlag("cursors", "with --since: show each event's cursor first"),
    noFollow: boolFlag("no-follow", "with --since: end after what has been told so far"),
  },
  action: async ({ flags, args, globals, io }) => {
    if (flags.since === "" && (flags.cursors || flags.noFollow)) {
      throw classified("invalid-argument", "--cursors and --no-follow need --since: invalid argument");
    }
    const from = flags.since === "" ? undefined : startOf(flags.since);
    const { anyToJson } = await import("@stevedore/sdk/any-json");
    await using session = await globals.connect();
    const show = async (envelope: Envelope, cursor: string): Promise<void> => {
      const event = await anyToJson(envelope.event);
      io.stdout.write(
        `${cursor}${formatGoTime(envelope.timestamp, envelope.nanos)} ${envelope.namespace} ${envelope.topic} ${event}\n`,
      );
    };
    const { client, context } = session;
    // Interrupting is how a user ends this command; it is no failure.
    try {
      if (from === undefined) {
        for await (const envelope of client.events.subscribe(context, args)) await show(envelope, "");
      } else {
        const events = client.eventLog.replay(context, { from, filters: args, follow: !flags.noFollow });
        for await (const { cursor, envelope } of events) await show(envelope, flags.cursors ? `${cursor} ` : "");
      }
    } catch (error) {
      if (!io.signal.aborted) throw error;
    }
    return 0;
  },
});

/** What `--since` says. @throws invalid-argument */
function startOf(text: string): ReplayStart {
  if (/^[0-9a-f]+-\d+$/.test(text)) return { kind: "after", cursor: text };
  if (/^\d{4}-\d\d-\d\dT/.test(text)) {
    const time = momentIn(text);
    if (!Number.isNaN(time.getTime())) return { kind: "since", time };
  }
  try {
    return { kind: "since", time: new Date(Date.now() - parseDuration(text)) };
  } catch {
    throw classified(
      "invalid-argument",
      `--since ${JSON.stringify(text)}: neither a duration as 10m, nor a time as 2026-01-31T08:00:00Z, nor a cursor: invalid argument`,
    );
  }
}
