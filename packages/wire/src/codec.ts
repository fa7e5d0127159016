import {
  create,
  type DescMessage,
  fromBinary,
  isMessage,
  type Message,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";

export type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
export { type DescMessage, type DescMethod, type DescService, isMessage, type Message } from "@bufbuild/protobuf";

import { lightDecode, lightEncode, lightMake, lightTableOf } from "./light/message.ts";

/**
 * Making, encoding and decoding messages of either kind: those of `gen` by protobuf-es, those of `gen/light` by their
 * tables. Whatever handles messages of callers goes through these.
 */

/** A message of `schema`: `init` itself when it is one, else a new one with its values, all zero without `init`. */
export function makeMessage<D extends DescMessage>(schema: D, init?: MessageInitShape<D>): MessageShape<D> {
  const table = lightTableOf(schema);
  if (table === undefined) return create(schema, init);
  if (isMessage(init, schema)) return init;
  return ofSchema(schema, lightMake(table, init ?? {}));
}

/** The message's bytes, in an array of their own. */
export function encodeMessage<D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array<ArrayBuffer> {
  const table = lightTableOf(schema);
  return table === undefined ? toBinary(schema, message) : lightEncode(table, message);
}

/**
 * The message in `bytes`. Byte fields may share memory with them.
 *
 * @throws Error when the bytes are no such message.
 */
export function decodeMessage<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  const table = lightTableOf(schema);
  return table === undefined ? fromBinary(schema, bytes) : ofSchema(schema, lightDecode(table, bytes));
}

function ofSchema<D extends DescMessage>(schema: D, message: Message): MessageShape<D> {
  if (isMessage(message, schema)) return message;
  throw new Error(`made a ${message.$typeName}, want a ${schema.typeName}`);
}
