/** Specs and processes as containerd carries them: JSON in an Any. */
import { encodeText } from "@stevedore/base";
import type { AnyValue } from "@stevedore/core";
import { encodeJson, type JsonEncodable } from "@stevedore/oci/json-lossless";

/** Type URL of a runtime spec in an Any, as containerd's typeurl names it. */
export const SPEC_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/** Type URL of a process in an Any. */
export const PROCESS_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/** A spec or a part of one as an Any. */
export function jsonAny(typeUrl: string, value: JsonEncodable): AnyValue {
  return { typeUrl, value: encodeText(encodeJson(value)) };
}

/** A spec as JSON: its types hold nothing that JSON lacks. */
export function toJson(value: object): JsonEncodable {
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]: [string, unknown]) =>
      item === undefined ? [] : [[key, jsonOf(item)]],
    ),
  );
}

function jsonOf(value: unknown): JsonEncodable {
  if (value === null) return null;
  if (Array.isArray(value)) return value.map(jsonOf);
  if (typeof value === "object") return toJson(value);
  const plain = typeof value === "string" || typeof value === "number" || typeof value === "bigint";
  return plain || typeof value === "boolean" ? value : null;
}
