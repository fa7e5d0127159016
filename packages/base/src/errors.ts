/**
 * The closed set of error classes, as clients of containerd know them (errdefs), and the one error type that carries
 * them. A class is chosen where the failure happens; nothing downstream guesses it from a message. The tables to gRPC
 * and ttrpc status codes live in `wire/status`.
 */

/** One of containerd's error classes, plus the two ways a caller's context ends (`canceled`, `deadline-exceeded`). */
export type ErrorClass =
  | "unknown"
  | "invalid-argument"
  | "not-found"
  | "already-exists"
  | "permission-denied"
  | "resource-exhausted"
  | "failed-precondition"
  | "conflict"
  | "not-modified"
  | "aborted"
  | "out-of-range"
  | "not-implemented"
  | "internal"
  | "unavailable"
  | "data-loss"
  | "unauthenticated"
  | "canceled"
  | "deadline-exceeded";

/** Every {@link ErrorClass}, in containerd's order. */
export const ERROR_CLASSES: readonly ErrorClass[] = [
  "unknown",
  "invalid-argument",
  "not-found",
  "already-exists",
  "permission-denied",
  "resource-exhausted",
  "failed-precondition",
  "conflict",
  "not-modified",
  "aborted",
  "out-of-range",
  "not-implemented",
  "internal",
  "unavailable",
  "data-loss",
  "unauthenticated",
  "canceled",
  "deadline-exceeded",
];

/**
 * The text of a class as Go clients print it. A message that ends in this text tells a Go client which class a
 * `FailedPrecondition` or `Unknown` status really was (conflict, not modified).
 */
export const CLASS_TEXT: Readonly<Record<ErrorClass, string>> = {
  unknown: "unknown",
  "invalid-argument": "invalid argument",
  "not-found": "not found",
  "already-exists": "already exists",
  "permission-denied": "permission denied",
  "resource-exhausted": "resource exhausted",
  "failed-precondition": "failed precondition",
  conflict: "conflict",
  "not-modified": "not modified",
  aborted: "aborted",
  "out-of-range": "out of range",
  "not-implemented": "not implemented",
  internal: "internal",
  unavailable: "unavailable",
  "data-loss": "data loss",
  unauthenticated: "unauthenticated",
  canceled: "context canceled",
  "deadline-exceeded": "context deadline exceeded",
};

/** A detail message that travels with an error: a protobuf Any, kept as bytes. */
export interface ErrorDetail {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** What an error carries beside its class and message. */
export interface ClassifiedErrorOptions {
  /** What led to this error. It is logged, and never sent to a client. */
  readonly cause?: unknown;
  /** Details that travel to the client beside the message. */
  readonly details?: readonly ErrorDetail[];
}

/**
 * An error with a class. The message is what a client sees: lower case, no full stop, saying what was being done, to
 * what, and what was found, ending with the class's text where the peer's does (`image "x": not found`).
 */
export class ClassifiedError extends Error {
  override readonly name = "ClassifiedError";
  readonly errorClass: ErrorClass;
  readonly details: readonly ErrorDetail[];

  constructor(errorClass: ErrorClass, message: string, options: ClassifiedErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.errorClass = errorClass;
    this.details = options.details ?? [];
  }
}

/** Makes a {@link ClassifiedError}: `fail("not-found", 'image "x": not found')`. */
export function classified(errorClass: ErrorClass, message: string, options?: ClassifiedErrorOptions): ClassifiedError {
  return new ClassifiedError(errorClass, message, options);
}

/**
 * The class of anything that was thrown. Abort reasons of the platform map to `canceled` and `deadline-exceeded`; what
 * carries no class is `unknown`.
 */
export function errorClassOf(error: unknown): ErrorClass {
  if (error instanceof ClassifiedError) return error.errorClass;
  if (error instanceof DOMException || error instanceof Error) {
    if (error.name === "AbortError") return "canceled";
    if (error.name === "TimeoutError") return "deadline-exceeded";
  }
  return "unknown";
}

/** Whether `error` is of class `errorClass`. */
export function isErrorClass(error: unknown, errorClass: ErrorClass): boolean {
  return errorClassOf(error) === errorClass;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * Adds what was being done in front of an error's message and keeps its class, details and cause:
 * `rethrow("create container \"a\"", err)` reads `create container "a": <message>`.
 */
export function withContext(doing: string, error: unknown): ClassifiedError {
  const details = error instanceof ClassifiedError ? error.details : [];
  return new ClassifiedError(errorClassOf(error), `${doing}: ${messageOf(error)}`, { cause: error, details });
}
