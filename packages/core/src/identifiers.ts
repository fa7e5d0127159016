import { classified, type RequestContext, requireNamespace, withContext } from "@stevedore/base";
import { goQuote } from "./go-quote.ts";

/** Longest identifier in characters: containerd's limit, from the longest DNS label plus room for a suffix. */
export const MAX_IDENTIFIER_LENGTH = 76;

const IDENTIFIER_SOURCE = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";
// The same language as the source above, written so that it cannot backtrack.
const IDENTIFIER = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;

/**
 * Checks a name of a namespace, container, sandbox or topic component.
 *
 * @throws invalid-argument in the peer's words
 */
export function validateIdentifier(identifier: string): void {
  if (identifier.length === 0) throw classified("invalid-argument", "identifier must not be empty: invalid argument");
  if (Buffer.byteLength(identifier) > MAX_IDENTIFIER_LENGTH) {
    throw classified(
      "invalid-argument",
      `identifier ${goQuote(identifier)} greater than maximum length (${MAX_IDENTIFIER_LENGTH} characters): invalid argument`,
    );
  }
  if (!IDENTIFIER.test(identifier)) {
    throw classified(
      "invalid-argument",
      `identifier ${goQuote(identifier)} must match ${IDENTIFIER_SOURCE}: invalid argument`,
    );
  }
}

/**
 * The namespace of a call, checked.
 *
 * @throws failed-precondition without one; invalid-argument `namespace validation: ...` for a bad one
 */
export function validNamespace(context: RequestContext): string {
  const namespace = requireNamespace(context);
  try {
    validateIdentifier(namespace);
  } catch (error) {
    throw withContext("namespace validation", error);
  }
  return namespace;
}
