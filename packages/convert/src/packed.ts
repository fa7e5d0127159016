import { classified, messageOf } from "@stevedore/base";
import type { AnyValue } from "@stevedore/core";
import {
  type DescMessage,
  decodeMessage,
  encodeMessage,
  type MessageInitShape,
  type MessageShape,
  makeMessage,
} from "@stevedore/wire/codec";
import { typeNameOf } from "@stevedore/wire/typeurl";

/** A message in an Any, as the peers write it: the URL is the bare full name. Takes schemas of either kind. */
export function packed<D extends DescMessage>(schema: D, init: MessageInitShape<D>): AnyValue {
  return { typeUrl: schema.typeName, value: encodeMessage(schema, makeMessage(schema, init)) };
}

/** Whether an Any holds a message of `schema`. */
export function holds(any: AnyValue, schema: DescMessage): boolean {
  return typeNameOf(any.typeUrl) === schema.typeName;
}

/** The message in an Any. @throws invalid-argument when it is of another type, or its bytes are no such message */
export function unpacked<D extends DescMessage>(schema: D, any: AnyValue): MessageShape<D> {
  if (!holds(any, schema)) {
    throw classified(
      "invalid-argument",
      `can't unmarshal type ${JSON.stringify(any.typeUrl)} to output ${JSON.stringify(schema.typeName)}: invalid argument`,
    );
  }
  try {
    return decodeMessage(schema, any.value);
  } catch (cause) {
    throw classified("invalid-argument", `decode ${schema.typeName}: ${messageOf(cause)}: invalid argument`, { cause });
  }
}
