/**
 * OTLP's message of spans, `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`, written field by field: one
 * message, never read, and loaded only where tracing is on.
 */
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { SpanAttributes, SpanKind, SpanValue } from "@stevedore/base";
import type { EndedSpan } from "./tracer.ts";

/** `Span.SpanKind`. */
const KIND: Readonly<Record<SpanKind, number>> = { internal: 1, server: 2, client: 3 };
/** `Status.STATUS_CODE_ERROR`. */
const STATUS_ERROR = 2;
/** Name of what made the spans. */
const SCOPE = "stevedore";

/** @param resource who sends them: `service.name` and so on. */
export function encodeSpans(spans: readonly EndedSpan[], resource: SpanAttributes): Uint8Array<ArrayBuffer> {
  const to = new BinaryWriter();
  inside(to, 1, () => {
    inside(to, 1, () => putAttributes(to, 1, resource));
    inside(to, 2, () => {
      inside(to, 1, () => to.tag(1, WireType.LengthDelimited).string(SCOPE));
      for (const span of spans) inside(to, 2, () => putSpan(to, span));
    });
  });
  return to.finish();
}

function inside(to: BinaryWriter, field: number, put: () => void): void {
  to.tag(field, WireType.LengthDelimited).fork();
  put();
  to.join();
}

function putSpan(to: BinaryWriter, span: EndedSpan): void {
  const { traceId, spanId, state } = span.place;
  to.tag(1, WireType.LengthDelimited).bytes(Buffer.from(traceId, "hex"));
  to.tag(2, WireType.LengthDelimited).bytes(Buffer.from(spanId, "hex"));
  if (state !== "") to.tag(3, WireType.LengthDelimited).string(state);
  if (span.parentId !== "") to.tag(4, WireType.LengthDelimited).bytes(Buffer.from(span.parentId, "hex"));
  to.tag(5, WireType.LengthDelimited).string(span.name);
  to.tag(6, WireType.Varint).int32(KIND[span.kind]);
  to.tag(7, WireType.Bit64).fixed64(span.start);
  to.tag(8, WireType.Bit64).fixed64(span.end);
  putAttributes(to, 9, span.attributes);
  for (const event of span.events) {
    inside(to, 11, () => {
      to.tag(1, WireType.Bit64).fixed64(event.time);
      to.tag(2, WireType.LengthDelimited).string(event.name);
      putAttributes(to, 3, event.attributes);
    });
  }
  const { error } = span;
  if (error !== undefined) {
    inside(to, 15, () => {
      to.tag(2, WireType.LengthDelimited).string(error);
      to.tag(3, WireType.Varint).int32(STATUS_ERROR);
    });
  }
}

function putAttributes(to: BinaryWriter, field: number, attributes: SpanAttributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    inside(to, field, () => {
      to.tag(1, WireType.LengthDelimited).string(name);
      inside(to, 2, () => putValue(to, value));
    });
  }
}

function putValue(to: BinaryWriter, value: SpanValue): void {
  if (typeof value === "string") to.tag(1, WireType.LengthDelimited).string(value);
  else if (typeof value === "boolean") to.tag(2, WireType.Varint).bool(value);
  else if (Number.isSafeInteger(value)) to.tag(3, WireType.Varint).int64(value);
  else to.tag(4, WireType.Bit64).double(value);
}
