import type { AnyValue } from "@stevedore/core";
import { anyToGoJson } from "@stevedore/wire/go-json";

/** An event's message as JSON on one line, in the form Go's clients print; bytes of an unknown type as base64. */
export async function anyToJson(any: AnyValue): Promise<string> {
  return anyToGoJson(any);
}
