import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { decodeStatus, encodeStatus, OK, type Status } from "./status.ts";

/** One metadata pair. A key may occur several times. */
export type MetadataPair = readonly [key: string, value: string];

/** The payload of a request frame (ttrpc.Request). */
export interface Request {
  /** Full name of the service: `containerd.task.v2.Task`. */
  readonly service: string;
  readonly method: string;
  /** The request message's bytes. */
  readonly payload: Uint8Array;
  /** Nanoseconds the caller waits; 0 sets no limit. */
  readonly timeoutNano: bigint;
  readonly metadata: readonly MetadataPair[];
}

/** The payload of a response frame (ttrpc.Response). */
export interface Response {
  /** Absent when the peer sent none. */
  readonly status?: Status;
  readonly payload: Uint8Array;
}

/** Most metadata pairs read from one request. The peers send fewer than ten. */
const MAX_METADATA = 1024;

const EMPTY = new Uint8Array(0);

export function encodeRequest(request: Request): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  if (request.service !== "") writer.tag(1, WireType.LengthDelimited).string(request.service);
  if (request.method !== "") writer.tag(2, WireType.LengthDelimited).string(request.method);
  if (request.payload.byteLength > 0) writer.tag(3, WireType.LengthDelimited).bytes(request.payload);
  if (request.timeoutNano !== 0n) writer.tag(4, WireType.Varint).int64(request.timeoutNano);
  for (const [key, value] of request.metadata) {
    writer.tag(5, WireType.LengthDelimited).fork();
    if (key !== "") writer.tag(1, WireType.LengthDelimited).string(key);
    if (value !== "") writer.tag(2, WireType.LengthDelimited).string(value);
    writer.join();
  }
  return writer.finish();
}

/** @throws Error when the bytes are no such message, or hold too many metadata pairs. */
export function decodeRequest(bytes: Uint8Array): Request {
  const reader = new BinaryReader(bytes);
  let service = "";
  let method = "";
  let payload: Uint8Array = EMPTY;
  let timeoutNano = 0n;
  const metadata: MetadataPair[] = [];
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.LengthDelimited) service = reader.string();
    else if (field === 2 && wireType === WireType.LengthDelimited) method = reader.string();
    else if (field === 3 && wireType === WireType.LengthDelimited) payload = reader.bytes();
    else if (field === 4 && wireType === WireType.Varint) timeoutNano = BigInt(reader.int64());
    else if (field === 5 && wireType === WireType.LengthDelimited) {
      if (metadata.length === MAX_METADATA) throw new RangeError(`more than ${MAX_METADATA} metadata pairs`);
      metadata.push(decodePair(reader.bytes()));
    } else reader.skip(wireType, field);
  }
  return { service, method, payload, timeoutNano, metadata };
}

function decodePair(bytes: Uint8Array): MetadataPair {
  const reader = new BinaryReader(bytes);
  let key = "";
  let value = "";
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.LengthDelimited) key = reader.string();
    else if (field === 2 && wireType === WireType.LengthDelimited) value = reader.string();
    else reader.skip(wireType, field);
  }
  return [key, value];
}

/** The status is always written, also when it is ok: peers take its absence for a broken answer. */
export function encodeResponse(response: Response): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  writer.tag(1, WireType.LengthDelimited).bytes(encodeStatus(response.status ?? OK));
  if (response.payload.byteLength > 0) writer.tag(2, WireType.LengthDelimited).bytes(response.payload);
  return writer.finish();
}

/** @throws Error when the bytes are no such message. */
export function decodeResponse(bytes: Uint8Array): Response {
  const reader = new BinaryReader(bytes);
  let status: Status | undefined;
  let payload: Uint8Array = EMPTY;
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.LengthDelimited) status = decodeStatus(reader.bytes());
    else if (field === 2 && wireType === WireType.LengthDelimited) payload = reader.bytes();
    else reader.skip(wireType, field);
  }
  return status === undefined ? { payload } : { status, payload };
}
