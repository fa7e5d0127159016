/**
 * Prometheus' protobuf format: each family a `io.prometheus.client.MetricFamily`, its length as a varint before it. Written
 * by hand, since a scrape asks for it only where native histograms are on, and a descriptor costs every start.
 */
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Family, MetricKind, Sample } from "./family.ts";

/** `io.prometheus.client.MetricType`. */
const TYPE: Readonly<Record<MetricKind, number>> = { counter: 0, gauge: 1, histogram: 4 };

/** The field of `Metric` that holds the value of each kind. */
const VALUE_FIELD: Readonly<Record<MetricKind, number>> = { gauge: 2, counter: 3, histogram: 7 };

export function protobufOf(families: readonly Family[]): Uint8Array<ArrayBuffer> {
  const all = new BinaryWriter();
  for (const { meta, samples } of families) {
    const family = new BinaryWriter();
    family.tag(1, WireType.LengthDelimited).string(meta.name);
    family.tag(2, WireType.LengthDelimited).string(meta.help);
    family.tag(3, WireType.Varint).int32(TYPE[meta.kind]);
    for (const sample of samples) {
      family.tag(4, WireType.LengthDelimited).fork();
      putMetric(family, meta.kind, sample);
      family.join();
    }
    all.bytes(family.finish());
  }
  return all.finish();
}

function putMetric(to: BinaryWriter, kind: MetricKind, { labels, value }: Sample): void {
  for (const [name, text] of labels.pairs) {
    to.tag(1, WireType.LengthDelimited).fork();
    to.tag(1, WireType.LengthDelimited).string(name);
    to.tag(2, WireType.LengthDelimited).string(text);
    to.join();
  }
  to.tag(VALUE_FIELD[kind], WireType.LengthDelimited).fork();
  if (typeof value === "number") to.tag(1, WireType.Bit64).double(value);
  else {
    to.tag(1, WireType.Varint).uint64(value.count);
    to.tag(2, WireType.Bit64).double(value.sum);
    for (const [at, bound] of value.bounds.entries()) {
      to.tag(3, WireType.LengthDelimited).fork();
      to.tag(1, WireType.Varint).uint64(value.cumulative[at] ?? 0);
      to.tag(2, WireType.Bit64).double(bound);
      to.join();
    }
  }
  to.join();
}
