import type { AnyValue } from "@stevedore/sdk/types";
import type { JsonTree } from "./json.ts";

/** An Any as Go prints its message: bytes in base64, absent when there are none. */
export function anyTree(any: AnyValue): JsonTree {
  return {
    type_url: any.typeUrl,
    value: any.value.byteLength === 0 ? undefined : Buffer.from(any.value).toString("base64"),
  };
}

/** A map of strings in the order in which Go prints one. */
export function sortedMap(record: Readonly<Record<string, string>>): JsonTree {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
