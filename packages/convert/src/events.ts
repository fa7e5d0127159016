import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Envelope as CoreEnvelope } from "@stevedore/core";
import type { Envelope, EnvelopeSchema } from "@stevedore/wire/gen/containerd/types/event_pb";
import { anyFromProto, anyToProto } from "./any.ts";
import { dateFromProto, timestampToProto } from "./timestamps.ts";

/** An event with its envelope as a message. */
export function envelopeToProto(envelope: CoreEnvelope): MessageInitShape<typeof EnvelopeSchema> {
  return {
    timestamp: timestampToProto(envelope.timestamp, envelope.nanos),
    namespace: envelope.namespace,
    topic: envelope.topic,
    event: anyToProto(envelope.event),
  };
}

/** An event that is missing becomes an empty Any; the exchange refuses it. */
export function envelopeFromProto(envelope: Envelope): CoreEnvelope {
  return {
    timestamp: dateFromProto(envelope.timestamp),
    nanos: envelope.timestamp?.nanos ?? 0,
    namespace: envelope.namespace,
    topic: envelope.topic,
    event: envelope.event === undefined ? { typeUrl: "", value: new Uint8Array() } : anyFromProto(envelope.event),
  };
}
