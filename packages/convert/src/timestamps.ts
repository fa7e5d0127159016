import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Timestamp, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { momentFrom, nanosOf } from "@stevedore/base/moment";

/**
 * A protobuf timestamp from a date. `nanos` is the whole sub-second part, for moments that are known better than a Date
 * can say.
 */
export function timestampToProto(date: Date, nanos?: number): MessageInitShape<typeof TimestampSchema> {
  return { seconds: BigInt(Math.floor(date.getTime() / 1000)), nanos: nanos ?? nanosOf(date) };
}

/** The zero time of Go, which its clients send for "not set". */
const GO_ZERO_SECONDS = -62135596800n;

/** A date from a protobuf timestamp, to the nanosecond; the epoch when there is none. */
export function dateFromProto(timestamp: Timestamp | undefined): Date {
  return optionalDateFromProto(timestamp) ?? new Date(0);
}

/** As {@link dateFromProto}, undefined for an absent timestamp and for Go's zero time. */
export function optionalDateFromProto(timestamp: Timestamp | undefined): Date | undefined {
  if (timestamp === undefined || timestamp.seconds === GO_ZERO_SECONDS) return undefined;
  return momentFrom(Number(timestamp.seconds), timestamp.nanos);
}
