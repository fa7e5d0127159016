import { type DescMessage, type MessageShape, ScalarType } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { encodeMessage } from "../codec.ts";
import { lightTableOf } from "../light/message.ts";

/** Shorter fields are cheaper copied than carried apart: four frames. */
const LONG = 64 << 10;

const EMPTY = new Uint8Array(0);

/** Fields of bytes of a message, by number and name. */
const byteFields = new WeakMap<DescMessage, readonly (readonly [no: number, name: string])[]>();

function byteFieldsOf(schema: DescMessage): readonly (readonly [no: number, name: string])[] {
  let known = byteFields.get(schema);
  if (known === undefined) {
    known =
      lightTableOf(schema) === undefined
        ? schema.fields
            .filter(
              (field) => field.fieldKind === "scalar" && field.scalar === ScalarType.BYTES && field.oneof === undefined,
            )
            .map((field) => [field.number, field.localName] as const)
        : [];
    byteFields.set(schema, known);
  }
  return known;
}

/**
 * The message's bytes in parts, to be sent one behind another. A long field of bytes, as the blobs of the content
 * service are, is a part of its own and not copied: it must not change until it is sent.
 */
export function messageParts<D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array[] {
  for (const [no, name] of byteFieldsOf(schema)) {
    const long: unknown = Reflect.get(message, name);
    if (!(long instanceof Uint8Array) || long.length < LONG) continue;
    // Nobody sees the message while its field is away: nothing here waits. The order of fields means nothing.
    if (!Reflect.set(message, name, EMPTY)) break;
    try {
      const rest = encodeMessage(schema, message);
      const head = new BinaryWriter().tag(no, WireType.LengthDelimited).uint32(long.length).finish();
      return [rest, head, long];
    } finally {
      Reflect.set(message, name, long);
    }
  }
  return [encodeMessage(schema, message)];
}
