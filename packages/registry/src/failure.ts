import { ClassifiedError, type ErrorClass, errorClassOf, messageOf } from "@stevedore/base";
import { redactText } from "./redact.ts";

/** One entry of a registry's own error list. */
export interface RegistryErrorCode {
  /** As the protocol names it: `MANIFEST_UNKNOWN`. "" when the server gave none. */
  readonly code: string;
  readonly message: string;
}

/** Why one host did not serve. Holds no secret: safe for logs and for people. */
export interface HostFailure {
  /** Scheme, host and port: `https://mirror.example:5000`. */
  readonly endpoint: string;
  /** In plain words, without the endpoint. */
  readonly reason: string;
  /** What would help; absent when nothing is known. */
  readonly help?: string;
  readonly errorClass: ErrorClass;
  /** HTTP status; absent when there was no answer. */
  readonly status?: number;
  /** What the registry itself said. */
  readonly codes: readonly RegistryErrorCode[];
  /** Whether the same request may succeed later. */
  readonly transient: boolean;
  /** What the server asked to wait, milliseconds. */
  readonly retryAfterMs?: number;
}

/** A failure at one host, on its way to be collected with those of other hosts. */
export class HostError extends Error {
  override readonly name = "HostError";
  readonly failure: HostFailure;

  constructor(failure: HostFailure, cause?: unknown) {
    super(`${failure.endpoint}: ${failure.reason}`, cause === undefined ? undefined : { cause });
    this.failure = failure;
  }
}

/** What a caller gets when no host served: a classified error that also holds each host's failure as data. */
export class RegistryError extends ClassifiedError {
  /** In the order the hosts were tried. */
  readonly failures: readonly HostFailure[];

  constructor(errorClass: ErrorClass, message: string, failures: readonly HostFailure[], cause?: unknown) {
    super(errorClass, message, cause === undefined ? {} : { cause });
    this.failures = failures;
  }
}

/** The text that ends messages of these classes, as the peer's do. */
const SUFFIX: Partial<Record<ErrorClass, string>> = { "not-found": ": not found" };

/**
 * The error of an operation that failed at every host.
 *
 * The class is the last host's: the registry itself stands last in its list, and a mirror's word (down, or "not here")
 * says nothing about the image.
 */
export function allHostsFailed(doing: string, failures: readonly HostFailure[], cause?: unknown): RegistryError {
  const last = failures.at(-1);
  if (last === undefined)
    return new RegistryError("not-found", `${doing}: no host is configured for it: not found`, []);
  const told = failures.map(describeFailure).join("; ");
  const count = failures.length === 1 ? "" : `${failures.length} hosts were tried: `;
  return new RegistryError(
    last.errorClass,
    `${doing}: ${count}${told}${SUFFIX[last.errorClass] ?? ""}`,
    failures,
    cause,
  );
}

/** One failure on one line. */
export function describeFailure(failure: HostFailure): string {
  return `${failure.endpoint}: ${failure.reason}${failure.help === undefined ? "" : ` (${failure.help})`}`;
}

/** The failure of anything that was thrown while talking to `endpoint`. */
export function failureOf(error: unknown, endpoint: string): HostFailure {
  if (error instanceof HostError) return error.failure;
  return {
    endpoint,
    reason: redactText(messageOf(error)),
    errorClass: errorClassOf(error),
    codes: [],
    transient: false,
  };
}
