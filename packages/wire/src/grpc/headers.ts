import { decodeText, encodeText } from "@stevedore/base";
import { fieldSize } from "../h2/header-table.ts";
import type { HeaderField } from "../h2/protocol.ts";
import { Metadata } from "../rpc/metadata.ts";
import { Code, OK, STATUS_DETAILS_KEY, type Status, statusDetailsBin, statusFromTrailers } from "../status.ts";

export const CONTENT_TYPE: HeaderField = ["content-type", "application/grpc"];
export const STATUS_200: HeaderField = [":status", "200"];
const STATUS_OK: HeaderField = ["grpc-status", "0"];

/** Headers that belong to the protocol: they neither enter nor leave through metadata. */
const RESERVED: ReadonlySet<string> = new Set([
  "content-type",
  "te",
  "grpc-message-type",
  "grpc-encoding",
  "grpc-accept-encoding",
  "grpc-message",
  "grpc-status",
  "grpc-timeout",
  STATUS_DETAILS_KEY,
  "connection",
  "host",
]);

/** The headers of a call as metadata, without those of the protocol. */
export function metadataOf(fields: readonly HeaderField[]): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of fields) {
    if (name.startsWith(":") || RESERVED.has(name)) continue;
    // Several binary values may travel joined; base64 has no comma.
    if (name.endsWith("-bin") && value.includes(",")) {
      for (const each of value.split(",")) metadata.append(name, each.trim());
    } else metadata.append(name, value);
  }
  return metadata;
}

/**
 * Appends metadata to a header block. Reserved names are left out, as are values that HTTP/2 cannot carry: a header
 * never breaks the call it belongs to.
 */
export function appendMetadata(fields: HeaderField[], metadata: Metadata): void {
  for (const [name, values] of metadata) {
    if (name.startsWith(":") || RESERVED.has(name) || name === "user-agent" || !NAME.test(name)) continue;
    for (const value of values) if (PRINTABLE.test(value)) fields.push([name, value]);
  }
}

const NAME = /^[0-9a-z_.-]+$/;
const PRINTABLE = /^[\x20-\x7e]*$/;

/** The value of a header of a block. */
export function headerOf(fields: readonly HeaderField[], name: string): string | undefined {
  for (const field of fields) if (field[0] === name) return field[1];
  return undefined;
}

/** grpc-message: printable ASCII without `%` stays, all other bytes of the UTF-8 form are written `%XX`. */
export function encodeMessage(message: string): string {
  if (PLAIN.test(message)) return message;
  let out = "";
  for (const byte of encodeText(message)) {
    out +=
      byte >= 0x20 && byte <= 0x7e && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return out;
}

const PLAIN = /^[\x20-\x24\x26-\x7e]*$/;

/** The message of a grpc-message header. What is no valid escape stays as it is. */
export function decodeMessage(value: string): string {
  if (!value.includes("%") && /^[\0-\x7f]*$/.test(value)) return value;
  const bytes: number[] = [];
  for (let i = 0; i < value.length; i++) {
    const hex = value[i] === "%" ? value.slice(i + 1, i + 3) : "";
    if (/^[0-9a-fA-F]{2}$/.test(hex)) {
      bytes.push(Number.parseInt(hex, 16));
      i += 2;
    } else bytes.push(value.charCodeAt(i) & 0xff);
  }
  return decodeText(Uint8Array.from(bytes));
}

/**
 * The trailers of a status. When the peer takes only `maxList` bytes, first the details and then the end of the message
 * are left out: a client that learns less is better off than one whose stream breaks.
 *
 * @param lead fields in front, for an answer of trailers alone.
 */
export function trailersOf(
  status: Status,
  options: {
    readonly lead?: readonly HeaderField[];
    readonly metadata?: Metadata | undefined;
    readonly maxList: number;
  },
): HeaderField[] {
  const fields: HeaderField[] = [...(options.lead ?? [])];
  if (status.code === 0) {
    fields.push(STATUS_OK);
    if (options.metadata !== undefined) appendMetadata(fields, options.metadata);
    return fields;
  }
  fields.push(["grpc-status", String(status.code)]);
  let size = 0;
  for (const field of fields) size += fieldSize(field);
  const room = options.maxList - size;
  let message = encodeMessage(status.message);
  const messageRoom = Math.max(0, room - MESSAGE_HEAD);
  if (message.length > messageRoom) message = message.slice(0, messageRoom).replace(/%.?$/, "");
  const messageField: HeaderField = ["grpc-message", message];
  fields.push(messageField);
  let left = room - fieldSize(messageField);
  const details = statusDetailsBin(status);
  if (details !== undefined) {
    const field: HeaderField = [STATUS_DETAILS_KEY, details];
    if (fieldSize(field) <= left) {
      fields.push(field);
      left -= fieldSize(field);
    }
  }
  if (options.metadata !== undefined) {
    const more: HeaderField[] = [];
    appendMetadata(more, options.metadata);
    for (const field of more) {
      left -= fieldSize(field);
      if (left >= 0) fields.push(field);
    }
  }
  return fields;
}

const MESSAGE_HEAD = fieldSize(["grpc-message", ""]);

/** The status in a block of trailers; undefined when there is none. */
export function statusOfTrailers(fields: readonly HeaderField[]): Status | undefined {
  const code = headerOf(fields, "grpc-status");
  if (code === undefined) return undefined;
  if (code === "0") return OK;
  const number = /^\d{1,9}$/.test(code) ? Number(code) : Code.unknown;
  return statusFromTrailers(
    number,
    decodeMessage(headerOf(fields, "grpc-message") ?? ""),
    headerOf(fields, STATUS_DETAILS_KEY),
  );
}

/** Milliseconds of each unit of grpc-timeout. */
const UNITS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/** The milliseconds of a grpc-timeout value; undefined when it is malformed. */
export function parseTimeout(value: string): number | undefined {
  const match = /^(\d{1,8})([HMSmun])$/.exec(value);
  if (match === null) return undefined;
  const unit = UNITS[match[2] ?? ""];
  return unit === undefined ? undefined : Number(match[1]) * unit;
}

/** The finest grpc-timeout value of at most eight digits that is not less than `ms` milliseconds. */
export function formatTimeout(ms: number): string {
  const positive = Math.max(0, ms);
  for (const unit of ["n", "u", "m", "S", "M", "H"]) {
    const count = Math.ceil(positive / (UNITS[unit] ?? 1));
    if (count < 1e8) return `${count}${unit}`;
  }
  return "99999999H";
}
