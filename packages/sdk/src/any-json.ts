import type { AnyValue } from "@stevedore/core";
import { anyToGoJson } from "@stevedore/wire/go-json";

/** An event's message as JSON on one line, in the form Go's clients print; bytes of an unknown type as base64. */
export async function anyToJson(any: AnyValue): Promise<string> {
  return anyToGoJson(any);
}

/** What a shim says of an exec's process: runc's details as protobuf's text, which Go's clients print; others' as JSON. */
export async function processDetailsText(any: AnyValue): Promise<string> {
  if (!any.typeUrl.endsWith("containerd.runc.v1.ProcessDetails")) return anyToGoJson(any);
  const [{ decodeMessage }, { ProcessDetailsSchema }] = await Promise.all([
    import("@stevedore/wire/codec"),
    import("@stevedore/wire/gen/light/containerd/runc/v1/options_pb"),
  ]);
  return `exec_id:${JSON.stringify(decodeMessage(ProcessDetailsSchema, any.value).execId)}`;
}
