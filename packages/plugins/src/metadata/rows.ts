import type { AnyValue, Labels } from "@stevedore/core";

/** How values stand in the columns, both ways. */

export function encodeLabels(labels: Labels): string {
  return JSON.stringify(labels);
}

/** Labels of a row. What is no object of strings (a file edited by hand) counts as none. */
export function decodeLabels(text: string): Labels {
  if (text === "{}") return {};
  const value: unknown = JSON.parse(text);
  return isLabels(value) ? value : {};
}

function isLabels(value: unknown): value is Labels {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((each) => typeof each === "string")
  );
}

/** Extensions: name to type URL and base64 of the bytes, which stay as they came. */
export function encodeExtensions(extensions: Readonly<Record<string, AnyValue>>): string {
  const entries = Object.entries(extensions).map(([name, any]) => [
    name,
    [any.typeUrl, Buffer.from(any.value).toString("base64")],
  ]);
  return JSON.stringify(Object.fromEntries(entries));
}

export function decodeExtensions(text: string): Readonly<Record<string, AnyValue>> {
  if (text === "{}") return {};
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null) return {};
  const entries: [string, AnyValue][] = [];
  for (const [name, pair] of Object.entries(value)) {
    if (!isStringPair(pair)) continue;
    entries.push([name, { typeUrl: pair[0], value: Buffer.from(pair[1], "base64") }]);
  }
  return Object.fromEntries(entries);
}

function isStringPair(value: unknown): value is readonly [string, string] {
  return Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && typeof value[1] === "string";
}

export function decodeAny(typeUrl: string | null, value: Uint8Array | null): AnyValue | undefined {
  return typeUrl === null ? undefined : { typeUrl, value: value ?? new Uint8Array() };
}
