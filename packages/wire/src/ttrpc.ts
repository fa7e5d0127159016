import {
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  type MessageShape,
} from "@bufbuild/protobuf";
import { classified, errorClassOf, messageOf, type Span } from "@stevedore/base";
import type { MetadataPair, Method, Server, ServerCall, Client as TtrpcClient } from "@stevedore/ttrpc";
import { decodeMessage, encodeMessage } from "./codec.ts";
import { Metadata } from "./rpc/metadata.ts";
import type { MethodHandler, Router } from "./rpc/router.ts";
import type { CallContext, CallOptions, Transport } from "./rpc/types.ts";
import { Code, codeOf } from "./status.ts";

/** Puts every service a router has now on a ttrpc server. Services added to the router later are not seen. */
export function registerRouter(server: Server, router: Router): void {
  for (const service of router.services) {
    const methods: Record<string, Method> = {};
    for (const method of service.methods) {
      const handler = router.find(service.typeName, method.name);
      if (handler.kind !== "none") methods[method.name] = ttrpcMethod(handler);
    }
    server.register(service.typeName, methods);
  }
}

function ttrpcMethod(handler: MethodHandler): Method {
  const { input, output, methodKind } = handler.method;
  if (handler.kind === "unary") {
    return {
      kind: "unary",
      call: async (payload, call) =>
        encodeMessage(output, await handler.call(parse(input, payload), new TtrpcContext(call))),
    };
  }
  return {
    kind: "stream",
    clientStreams: methodKind !== "server_streaming",
    serverStreams: methodKind !== "client_streaming",
    async *call(requests, call) {
      const answers = handler.call(parseAll(input, requests), new TtrpcContext(call));
      for await (const answer of answers) yield encodeMessage(output, answer);
    },
  };
}

/** Lazy where it can be: most methods of a shim look at neither signal nor metadata. */
class TtrpcContext implements CallContext {
  readonly #call: ServerCall;
  #metadata: Metadata | undefined;
  #headers: Metadata | undefined;
  #trailers: Metadata | undefined;
  readonly deadline?: Date;

  constructor(call: ServerCall) {
    this.#call = call;
    if (call.deadline !== undefined) this.deadline = call.deadline;
  }

  get signal(): AbortSignal {
    return this.#call.signal;
  }

  get peer(): CallContext["peer"] {
    return this.#call.peer;
  }

  get metadata(): Metadata {
    if (this.#metadata === undefined) {
      this.#metadata = new Metadata();
      for (const [key, value] of this.#call.metadata) this.#metadata.append(key, value);
    }
    return this.#metadata;
  }

  get responseHeaders(): Metadata {
    this.#headers ??= new Metadata();
    return this.#headers;
  }

  get responseTrailers(): Metadata {
    this.#trailers ??= new Metadata();
    return this.#trailers;
  }
}

/** A transport over a ttrpc client. It has no headers or trailers: `onHeaders` and `onTrailers` are never called. */
export function ttrpcTransport(client: TtrpcClient): Transport {
  return {
    async unary<I extends DescMessage, O extends DescMessage>(
      method: DescMethodUnary<I, O>,
      request: MessageShape<I>,
      options: CallOptions,
    ): Promise<MessageShape<O>> {
      const payload = encodeMessage(method.input, request);
      const span = options.span?.child(`${method.parent.typeName}/${method.name}`, {
        kind: "client",
        attributes: { "rpc.system": "ttrpc", "rpc.service": method.parent.typeName, "rpc.method": method.name },
      });
      const call = ttrpcOptions(options, span);
      if (span === undefined) {
        return parse(method.output, await client.call(method.parent.typeName, method.name, payload, call));
      }
      return withStatus(span, async () =>
        parse(method.output, await client.call(method.parent.typeName, method.name, payload, call)),
      );
    },
    async *stream<I extends DescMessage, O extends DescMessage>(
      method: DescMethodStreaming<I, O>,
      requests: AsyncIterable<MessageShape<I>>,
      options: CallOptions,
    ): AsyncIterable<MessageShape<O>> {
      const target = {
        service: method.parent.typeName,
        method: method.name,
        shape: {
          clientStreams: method.methodKind !== "server_streaming",
          serverStreams: method.methodKind !== "client_streaming",
        },
      };
      const answers = client.stream(target, encodeAll(method.input, requests), ttrpcOptions(options));
      for await (const answer of answers) yield parse(method.output, answer);
    },
    async close() {
      client.close();
    },
  };
}

/** Ends a call's span with what the call came to. */
async function withStatus<T>(span: Span, call: () => Promise<T>): Promise<T> {
  const name = "rpc.ttrpc.status_code";
  try {
    const answer = await call();
    span.set({ [name]: Code.ok });
    span.end();
    return answer;
  } catch (error) {
    span.set({ [name]: codeOf(errorClassOf(error)) });
    span.end(error);
    throw error;
  }
}

function ttrpcOptions(
  options: CallOptions,
  span?: Span,
): {
  signal?: AbortSignal;
  timeoutMs?: number;
  metadata?: readonly MetadataPair[];
} {
  const made: { signal?: AbortSignal; timeoutMs?: number; metadata?: readonly MetadataPair[] } = {};
  if (options.signal !== undefined) made.signal = options.signal;
  if (options.timeoutMs !== undefined) made.timeoutMs = options.timeoutMs;
  if (options.metadata !== undefined) {
    made.metadata = [...Metadata.from(options.metadata)].flatMap(([key, values]) =>
      values.map((value): MetadataPair => [key, value]),
    );
  }
  if (span !== undefined) made.metadata = [...(made.metadata ?? []), ...Object.entries(span.headers())];
  return made;
}

async function* parseAll<D extends DescMessage>(
  schema: D,
  payloads: AsyncIterable<Uint8Array>,
): AsyncGenerator<MessageShape<D>> {
  for await (const payload of payloads) yield parse(schema, payload);
}

async function* encodeAll<D extends DescMessage>(
  schema: D,
  messages: AsyncIterable<MessageShape<D>>,
): AsyncGenerator<Uint8Array> {
  for await (const message of messages) yield encodeMessage(schema, message);
}

/** @throws internal when the bytes are no such message, in the peer's words. */
function parse<D extends DescMessage>(schema: D, payload: Uint8Array): MessageShape<D> {
  try {
    return decodeMessage(schema, payload);
  } catch (cause) {
    throw classified("internal", `ttrpc: error unmarshalling payload: ${messageOf(cause)}`, { cause });
  }
}
