import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  CLASS_TEXT,
  ClassifiedError,
  classified,
  ERROR_CLASSES,
  type ErrorClass,
  type ErrorDetail,
  errorClassOf,
  messageOf,
} from "@stevedore/base";

/** The status codes of gRPC, which ttrpc shares. */
export const Code = {
  ok: 0,
  canceled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
  unauthenticated: 16,
} as const;

/** A google.rpc.Status. The code may be any number a peer sends; 0 is success. */
export interface Status {
  readonly code: number;
  readonly message: string;
  readonly details: readonly ErrorDetail[];
}

/** The status of success. */
export const OK: Status = { code: Code.ok, message: "", details: [] };

/**
 * The one table between error classes and codes. Conflict and not-modified have no code of their own: clients tell them
 * from failed-precondition by the end of the message, as containerd's errgrpc does.
 */
const CODES: Readonly<Record<ErrorClass, number>> = {
  unknown: Code.unknown,
  "invalid-argument": Code.invalidArgument,
  "not-found": Code.notFound,
  "already-exists": Code.alreadyExists,
  "permission-denied": Code.permissionDenied,
  "resource-exhausted": Code.resourceExhausted,
  "failed-precondition": Code.failedPrecondition,
  conflict: Code.failedPrecondition,
  "not-modified": Code.failedPrecondition,
  aborted: Code.aborted,
  "out-of-range": Code.outOfRange,
  "not-implemented": Code.unimplemented,
  internal: Code.internal,
  unavailable: Code.unavailable,
  "data-loss": Code.dataLoss,
  unauthenticated: Code.unauthenticated,
  canceled: Code.canceled,
  "deadline-exceeded": Code.deadlineExceeded,
};

/** Told apart by message suffix, so never the answer of the code alone. */
const BY_SUFFIX: readonly ErrorClass[] = ["conflict", "not-modified"];

const CLASSES: ReadonlyMap<number, ErrorClass> = new Map(
  ERROR_CLASSES.filter((each) => !BY_SUFFIX.includes(each)).map((each) => [CODES[each], each]),
);

/** The code of an error class. */
export function codeOf(errorClass: ErrorClass): number {
  return CODES[errorClass];
}

/** The class of a status: by its code, and for failed precondition by the end of its message. */
export function classOf(status: { readonly code: number; readonly message: string }): ErrorClass {
  if (status.code === Code.failedPrecondition) {
    for (const errorClass of BY_SUFFIX) if (endsInClass(status.message, errorClass)) return errorClass;
  }
  return CLASSES.get(status.code) ?? "unknown";
}

/**
 * The status of anything a handler threw. The message goes to the client as it is, except that conflict and
 * not-modified get their text behind it when it lacks; causes stay here.
 */
export function statusOf(error: unknown): Status {
  const errorClass = errorClassOf(error);
  const message = BY_SUFFIX.includes(errorClass) ? withSuffix(messageOf(error), errorClass) : messageOf(error);
  const details = error instanceof ClassifiedError ? error.details : [];
  return { code: CODES[errorClass], message, details };
}

/**
 * The error of a status that is not ok. As Go clients do, the class's text ends the message: it is added when the
 * message does not end with it, so a runtime's message of code unknown reads `…: unknown`.
 */
export function errorOf(status: Status): ClassifiedError {
  const errorClass = classOf(status);
  const message =
    errorClass === "unknown" && UNEXPECTED_STATUS.test(status.message)
      ? status.message
      : withSuffix(status.message, errorClass);
  return classified(errorClass, message, { details: status.details });
}

/** Registry answers keep their text: Go clients turn them into a type of their own and add nothing. */
const UNEXPECTED_STATUS = /.unexpected status [2-5]\d\d$/s;

function withSuffix(message: string, errorClass: ErrorClass): string {
  if (message === "") return CLASS_TEXT[errorClass];
  return endsInClass(message, errorClass) ? message : `${message}: ${CLASS_TEXT[errorClass]}`;
}

function endsInClass(message: string, errorClass: ErrorClass): boolean {
  const text = CLASS_TEXT[errorClass];
  return message === text || message.endsWith(`: ${text}`);
}

/** At most this many details are read from one status; a peer sends none or a few. */
const MAX_DETAILS = 64;

/** The bytes of a google.rpc.Status. Written by hand so that a shim needs no descriptors. */
export function encodeStatus(status: Status): Uint8Array<ArrayBuffer> {
  return writeStatus(new BinaryWriter(), status).finish();
}

/** @throws Error when the bytes are no protobuf message. */
export function decodeStatus(bytes: Uint8Array): Status {
  const reader = new BinaryReader(bytes);
  let code = 0;
  let message = "";
  const details: ErrorDetail[] = [];
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.Varint) code = reader.int32();
    else if (field === 2 && wireType === WireType.LengthDelimited) message = decodeLossy(reader.bytes());
    else if (field === 3 && wireType === WireType.LengthDelimited && details.length < MAX_DETAILS) {
      details.push(decodeDetail(reader.bytes()));
    } else reader.skip(wireType, field);
  }
  return { code, message, details };
}

function writeStatus(writer: BinaryWriter, status: Status): BinaryWriter {
  if (status.code !== 0) writer.tag(1, WireType.Varint).int32(status.code);
  if (status.message !== "") writer.tag(2, WireType.LengthDelimited).string(status.message.toWellFormed());
  for (const detail of status.details) {
    writer.tag(3, WireType.LengthDelimited).fork();
    if (detail.typeUrl !== "") writer.tag(1, WireType.LengthDelimited).string(detail.typeUrl);
    if (detail.value.byteLength > 0) writer.tag(2, WireType.LengthDelimited).bytes(detail.value);
    writer.join();
  }
  return writer;
}

function decodeDetail(bytes: Uint8Array): ErrorDetail {
  const reader = new BinaryReader(bytes);
  let typeUrl = "";
  let value: Uint8Array = new Uint8Array(0);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === 1 && wireType === WireType.LengthDelimited) typeUrl = decodeLossy(reader.bytes());
    else if (field === 2 && wireType === WireType.LengthDelimited) value = reader.bytes();
    else reader.skip(wireType, field);
  }
  return { typeUrl, value };
}

// Messages of runtimes hold whatever a container printed; an answer must not be lost for that.
const LOSSY = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

function decodeLossy(bytes: Uint8Array): string {
  return LOSSY.decode(bytes);
}
