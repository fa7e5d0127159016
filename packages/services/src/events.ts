import { withContext } from "@stevedore/base";
import { anyFromProto } from "@stevedore/convert/any";
import { envelopeFromProto, envelopeToProto } from "@stevedore/convert/events";
import type { EventExchange } from "@stevedore/core";
import type { Events as ShimEvents } from "@stevedore/wire/gen/containerd/services/events/ttrpc/v1/events_pb";
import type { Events } from "@stevedore/wire/gen/containerd/services/events/v1/events_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext, required } from "./request.ts";

/** The events service of clients. */
export function eventsService({ events }: { readonly events: EventExchange }): ServiceImpl<typeof Events> {
  return {
    publish: async ({ topic, event }, call) => {
      await events.publish(requestContext(call), topic, anyFromProto(required(event, "event")));
      return {};
    },
    forward: async ({ envelope }, call) => {
      await events.forward(requestContext(call), envelopeFromProto(required(envelope, "envelope")));
      return {};
    },
    subscribe: async function* ({ filters }, call) {
      try {
        for await (const envelope of events.subscribe(requestContext(call), filters)) yield envelopeToProto(envelope);
      } catch (error) {
        throw withContext("subscription error", error);
      }
    },
  };
}

/** The events service of shims, over ttrpc. */
export function shimEventsService({
  events,
}: {
  readonly events: Pick<EventExchange, "forward">;
}): ServiceImpl<typeof ShimEvents> {
  return {
    forward: async ({ envelope }, call) => {
      await events.forward(requestContext(call), envelopeFromProto(required(envelope, "envelope")));
      return {};
    },
  };
}
