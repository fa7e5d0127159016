import type { Any, Duration, Empty, FieldMask, Timestamp } from "@bufbuild/protobuf/wkt";
import { momentFrom, nanosOf } from "@stevedore/base/moment";
import { lightMessage } from "./message.ts";

export type { Any, Duration, Empty, FieldMask, Timestamp } from "@bufbuild/protobuf/wkt";

/** The well-known types the peers' messages use, without descriptors. */
export const AnySchema = lightMessage<Any>("google.protobuf.Any", "1typeUrl:s 2value:y");
export const DurationSchema = lightMessage<Duration>("google.protobuf.Duration", "1seconds:l 2nanos:i");
export const EmptySchema = lightMessage<Empty>("google.protobuf.Empty", "");
export const FieldMaskSchema = lightMessage<FieldMask>("google.protobuf.FieldMask", "1paths:*s");
export const TimestampSchema = lightMessage<Timestamp>("google.protobuf.Timestamp", "1seconds:l 2nanos:i");

/** A moment as a Timestamp. */
export function timestampFromDate(date: Date): { readonly seconds: bigint; readonly nanos: number } {
  return { seconds: BigInt(Math.floor(date.getTime() / 1000)), nanos: nanosOf(date) };
}

/** The moment of a Timestamp. */
export function timestampDate(timestamp: { readonly seconds: bigint; readonly nanos: number }): Date {
  return momentFrom(Number(timestamp.seconds), timestamp.nanos);
}
