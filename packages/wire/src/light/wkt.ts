import type { Any, Duration, Empty, FieldMask, Timestamp } from "@bufbuild/protobuf/wkt";
import { lightMessage } from "./message.ts";

export type { Any, Duration, Empty, FieldMask, Timestamp } from "@bufbuild/protobuf/wkt";

/** The well-known types the peers' messages use, without descriptors. */
export const AnySchema = lightMessage<Any>("google.protobuf.Any", "1typeUrl:s 2value:y");
export const DurationSchema = lightMessage<Duration>("google.protobuf.Duration", "1seconds:l 2nanos:i");
export const EmptySchema = lightMessage<Empty>("google.protobuf.Empty", "");
export const FieldMaskSchema = lightMessage<FieldMask>("google.protobuf.FieldMask", "1paths:*s");
export const TimestampSchema = lightMessage<Timestamp>("google.protobuf.Timestamp", "1seconds:l 2nanos:i");

/** A moment as a Timestamp, to the millisecond. */
export function timestampFromDate(date: Date): { readonly seconds: bigint; readonly nanos: number } {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds: BigInt(seconds), nanos: (milliseconds - seconds * 1000) * 1_000_000 };
}

/** The moment of a Timestamp; what is finer than a millisecond is cut off. */
export function timestampDate(timestamp: { readonly seconds: bigint; readonly nanos: number }): Date {
  return new Date(Number(timestamp.seconds) * 1000 + Math.floor(timestamp.nanos / 1_000_000));
}
