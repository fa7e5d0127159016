import type { RequestContext } from "@stevedore/base";
import { anyFromProto, anyToProto } from "@stevedore/convert/any";
import { packed } from "@stevedore/convert/packed";
import { type AnyValue, QueuedStream } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient } from "./call.ts";

/** A stream that the daemon knows by a name. Dispose it when nobody uses it any more. */
export interface NamedStream extends Disposable {
  readonly name: string;
  readonly stream: QueuedStream;
}

/** Opens streams that other calls can name. @throws not-implemented by daemons before 1.7 */
export function streamOpener(transport: Transport): (context: RequestContext, kind: string) => Promise<NamedStream> {
  const load = () => import("@stevedore/wire/gen/light/containerd/services/streaming/v1/streaming_pb");
  const streaming = lazyClient(transport, async () => (await load()).Streaming);
  return async (context, kind) => {
    const [client, { StreamInitSchema }] = await Promise.all([streaming(), load()]);
    const name = streamName(kind);
    const ending = new AbortController();
    const signal = AbortSignal.any([context.signal, ending.signal]);
    const requests = async function* () {
      yield anyToProto(packed(StreamInitSchema, { id: name }));
      for await (const message of stream.outgoing()) yield anyToProto(message);
    };
    const answers = client.stream(requests(), { ...callOptions(context), signal })[Symbol.asyncIterator]();
    const values = async function* (): AsyncGenerator<AnyValue> {
      for (let next = await answers.next(); next.done !== true; next = await answers.next()) {
        yield anyFromProto(next.value);
      }
    };
    const stream = new QueuedStream(values(), signal);
    // The daemon's word that it knows the stream.
    await answers.next();
    return {
      name,
      stream,
      [Symbol.dispose]: () => {
        stream.close();
        ending.abort(new DOMException("the stream is not used any more", "AbortError"));
      },
    };
  };
}

/** A kind, nanoseconds and random letters, as containerd's clients name streams. */
function streamName(kind: string): string {
  const random = crypto.getRandomValues(new Uint8Array(3));
  return `${kind}-${process.hrtime.bigint() % 1_000_000_000n}-${Buffer.from(random).toString("base64url")}`;
}
