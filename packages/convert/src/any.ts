import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Any, AnySchema } from "@bufbuild/protobuf/wkt";
import type { AnyValue } from "@stevedore/core";

/** The bytes stay the same array: nothing in between edits them. */
export function anyToProto({ typeUrl, value }: AnyValue): MessageInitShape<typeof AnySchema> {
  return { typeUrl, value };
}

/** The bytes stay the same array. */
export function anyFromProto({ typeUrl, value }: Any): AnyValue {
  return { typeUrl, value };
}

/** A map of Anys for a message. */
export function anyMapToProto(
  map: Readonly<Record<string, AnyValue>>,
): Record<string, MessageInitShape<typeof AnySchema>> {
  return Object.fromEntries(Object.entries(map).map(([key, any]) => [key, anyToProto(any)]));
}

/** A map of Anys out of a message. */
export function anyMapFromProto(map: Readonly<Record<string, Any>>): Record<string, AnyValue> {
  return Object.fromEntries(Object.entries(map).map(([key, any]) => [key, anyFromProto(any)]));
}
