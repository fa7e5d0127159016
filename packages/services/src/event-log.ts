import { classified } from "@stevedore/base";
import { envelopeToProto } from "@stevedore/convert/events";
import { dateFromProto } from "@stevedore/convert/timestamps";
import type { EventHistory, ReplayStart } from "@stevedore/core";
import type { EventLog, ReadRequest } from "@stevedore/wire/gen/stevedore/events/v1/events_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext } from "./request.ts";

/** The service of the event log, ours alone. */
export function eventLogService({ history }: { readonly history: EventHistory }): ServiceImpl<typeof EventLog> {
  return {
    info: async (_request, call) => {
      const { oldest, newest } = await history.info(requestContext(call));
      return { oldestCursor: oldest, newestCursor: newest };
    },
    read: async function* (request, call) {
      const { filters, follow } = request;
      const events = history.replay(requestContext(call), { from: startOf(request), filters, follow });
      for await (const { cursor, envelope } of events) yield { cursor, event: envelopeToProto(envelope) };
    },
  };
}

function startOf({ afterCursor, since }: ReadRequest): ReplayStart {
  if (afterCursor !== "" && since !== undefined) {
    throw classified("invalid-argument", "read events: both a cursor and a time to begin with: invalid argument");
  }
  if (afterCursor !== "") return { kind: "after", cursor: afterCursor };
  if (since === undefined) return { kind: "oldest" };
  const time = dateFromProto(since);
  if (!Number.isNaN(time.getTime())) return { kind: "since", time };
  throw classified(
    "invalid-argument",
    `read events: ${since.seconds} seconds is no time to begin with: invalid argument`,
  );
}
