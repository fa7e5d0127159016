import {
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type MessageShape,
} from "@bufbuild/protobuf";
import { classified, messageOf } from "@stevedore/base";
import { decodeMessage, encodeMessage } from "../codec.ts";
import type { CallOptions, Transport } from "../rpc/types.ts";
import { type ChannelOptions, GrpcChannel } from "./client-channel.ts";

export type { ChannelOptions } from "./client-channel.ts";

/** A transport over gRPC. It connects with the first call and again after a connection broke. */
export function createGrpcTransport(options: ChannelOptions): GrpcTransport {
  return new GrpcTransport(options);
}

export class GrpcTransport implements Transport {
  /** The calls below messages: bytes in and out, for who wants no descriptors. */
  readonly channel: GrpcChannel;

  constructor(options: ChannelOptions) {
    this.channel = new GrpcChannel(options);
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    options: CallOptions,
  ): Promise<MessageShape<O>> {
    const answer = await this.channel.unary(pathOf(method), encodeMessage(method.input, request), options);
    return parse(method.output, answer);
  }

  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    requests: AsyncIterable<MessageShape<I>>,
    options: CallOptions,
  ): AsyncIterable<MessageShape<O>> {
    const answers = this.channel.stream(pathOf(method), encodeAll(method.input, requests), options);
    for await (const answer of answers) yield parse(method.output, answer);
  }

  async close(): Promise<void> {
    this.channel.close();
  }
}

function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

async function* encodeAll<D extends DescMessage>(
  schema: D,
  messages: AsyncIterable<MessageShape<D>>,
): AsyncGenerator<Uint8Array> {
  for await (const message of messages) yield encodeMessage(schema, message);
}

function parse<D extends DescMessage>(schema: D, payload: Uint8Array): MessageShape<D> {
  try {
    return decodeMessage(schema, payload);
  } catch (cause) {
    throw classified("internal", `grpc: failed to unmarshal the received message: ${messageOf(cause)}`, { cause });
  }
}
