import { type DescField, type DescMessage, type Message, ScalarType } from "@bufbuild/protobuf";
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { classified } from "@stevedore/base";
import { type AnyBytes, unpackAnything } from "./typeurl.ts";

/**
 * Messages as JSON the way Go's encoding/json prints generated structs, which is what `ctr` shows: proto field names in
 * order of declaration, zero values left out, enums as numbers, 64-bit integers as numbers, bytes as base64, map keys
 * sorted, `<`, `>` and `&` escaped. It is not protobuf's own JSON mapping, for which see `toJson` of protobuf-es.
 */
export function messageToGoJson(schema: DescMessage, message: Message): string {
  return messageText(reflect(schema, message));
}

/**
 * The content of an Any as Go prints it: a message as {@link messageToGoJson}, a JSON type as its text.
 *
 * @throws not-found for a type that is not known; invalid-argument for bytes that do not fit.
 */
export async function anyToGoJson(any: AnyBytes): Promise<string> {
  const content = await unpackAnything(any);
  switch (content.kind) {
    case "message":
      return messageToGoJson(content.schema, content.message);
    case "json":
      return escapeHtml(content.text);
    case "unknown":
      throw classified("not-found", `type with url ${any.typeUrl}: not found`);
  }
}

function messageText(message: ReflectMessage): string {
  const parts: string[] = [];
  for (const field of message.fields) {
    if (!message.isSet(field)) continue;
    const text = fieldText(message, field);
    if (text !== undefined) parts.push(`${quote(field.name)}:${text}`);
  }
  return `{${parts.join(",")}}`;
}

function fieldText(message: ReflectMessage, field: DescField): string | undefined {
  switch (field.fieldKind) {
    case "scalar":
      return scalarText(message.get(field), field.scalar);
    case "enum":
      return String(message.get(field));
    case "message":
      return messageText(message.get(field));
    case "list": {
      const items: string[] = [];
      for (const item of message.get(field)) items.push(valueText(item, field));
      return items.length === 0 ? undefined : `[${items.join(",")}]`;
    }
    case "map": {
      const entries: [key: string, text: string][] = [];
      for (const [key, value] of message.get(field)) entries.push([String(key), valueText(value, field)]);
      if (entries.length === 0) return undefined;
      entries.sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
      return `{${entries.map(([key, text]) => `${quote(key)}:${text}`).join(",")}}`;
    }
  }
}

function valueText(value: unknown, field: DescField): string {
  if (isReflectMessage(value)) return messageText(value);
  if (field.enum !== undefined) return String(value);
  return scalarText(value, field.scalar ?? ScalarType.STRING);
}

function isReflectMessage(value: unknown): value is ReflectMessage {
  return typeof value === "object" && value !== null && "isSet" in value && "fields" in value;
}

function scalarText(value: unknown, type: ScalarType): string {
  if (value instanceof Uint8Array) return quote(Buffer.from(value).toString("base64"));
  if (type === ScalarType.STRING) return quote(String(value));
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw classified("invalid-argument", `write json: unsupported value ${value}: invalid argument`);
  }
  return String(value);
}

const ESCAPED: Readonly<Record<string, string>> = {
  "<": "\\u003c",
  ">": "\\u003e",
  "&": "\\u0026",
  "\u2028": "\\u2028",
  "\u2029": "\\u2029",
};

function quote(text: string): string {
  return escapeHtml(JSON.stringify(text));
}

/** These characters occur only inside strings of a JSON text, so the whole text may be escaped at once. */
function escapeHtml(json: string): string {
  return json.replace(/[<>&\u2028\u2029]/g, (char) => ESCAPED[char] ?? char);
}
