import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Any, AnySchema } from "@bufbuild/protobuf/wkt";
import { classified } from "@stevedore/base";
import { anyFromProto, anyToProto } from "@stevedore/convert/any";
import { unpacked } from "@stevedore/convert/packed";
import { type AnyValue, QueuedStream, type StreamManager } from "@stevedore/core";
import { StreamInitSchema, type Streaming } from "@stevedore/wire/gen/containerd/services/streaming/v1/streaming_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { requestContext } from "./request.ts";

/** What tells a client that its stream is registered. */
const REGISTERED: MessageInitShape<typeof AnySchema> = { typeUrl: "google.protobuf.Empty", value: new Uint8Array() };

/** The streaming service: each call becomes a stream that other calls of the client can name. */
export function streamingService(of: { readonly streams: StreamManager }): ServiceImpl<typeof Streaming> {
  return {
    stream: async function* (requests, call) {
      const messages = requests[Symbol.asyncIterator]();
      const first = await messages.next();
      if (first.done === true) throw classified("unknown", "EOF");
      const { id } = unpacked(StreamInitSchema, anyFromProto(first.value));
      const stream = new QueuedStream(valuesOf(messages), call.signal);
      using _registered = of.streams.register(requestContext(call), id, stream);
      yield REGISTERED;
      for await (const message of stream.outgoing()) yield anyToProto(message);
    },
  };
}

async function* valuesOf(messages: AsyncIterator<Any>): AsyncGenerator<AnyValue> {
  for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
    yield anyFromProto(next.value);
  }
}
