import { envelopeFromProto, envelopeToProto } from "@stevedore/convert/events";
import type { Envelope, EventExchange } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient } from "./call.ts";

/** The events of a daemon. */
export function eventsProxy(transport: Transport): EventExchange {
  const events = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/events/v1/events_pb")).Events,
  );
  return {
    publish: async (context, topic, event) => {
      await (await events()).publish({ topic, event: { ...event } }, callOptions(context));
    },
    forward: async (context, envelope) => {
      await (await events()).forward({ envelope: envelopeToProto(envelope) }, callOptions(context));
    },
    subscribe: async function* (context, filters): AsyncGenerator<Envelope> {
      const client = await events();
      for await (const envelope of client.subscribe({ filters: [...filters] }, callOptions(context))) {
        yield envelopeFromProto(envelope);
      }
    },
  };
}
