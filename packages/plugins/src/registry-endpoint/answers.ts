/** Answers of the distribution API: its error codes, and the headers that every answer has. */
import { type ErrorClass, errorClassOf, messageOf } from "@stevedore/base";

/** Error codes of the distribution spec, with the status each is sent with. */
const STATUS = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 400,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  PAGINATION_NUMBER_INVALID: 400,
  RANGE_INVALID: 416,
  SIZE_INVALID: 400,
  TOOMANYREQUESTS: 429,
  UNAUTHORIZED: 401,
  UNAVAILABLE: 503,
  UNKNOWN: 500,
  UNSUPPORTED: 405,
} as const;

export type RegistryCode = keyof typeof STATUS;

/** What each code says without further words. */
const TEXT: Partial<Record<RegistryCode, string>> = {
  BLOB_UNKNOWN: "blob unknown to registry",
  BLOB_UPLOAD_UNKNOWN: "blob upload unknown to registry",
  DIGEST_INVALID: "provided digest did not match uploaded content",
  MANIFEST_BLOB_UNKNOWN: "manifest references a blob unknown to registry",
  MANIFEST_UNKNOWN: "manifest unknown",
  NAME_INVALID: "invalid repository name",
  NAME_UNKNOWN: "repository name not known to registry",
  UNAUTHORIZED: "authentication required",
};

/** A refusal with the protocol's code. */
export class RegistryError extends Error {
  readonly code: RegistryCode;
  readonly detail: unknown;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    code: RegistryCode,
    message?: string,
    options: { readonly detail?: unknown; readonly headers?: Readonly<Record<string, string>> } = {},
  ) {
    super(message ?? TEXT[code] ?? code);
    this.code = code;
    this.detail = options.detail;
    this.headers = options.headers ?? {};
  }
}

const CODE_OF_CLASS: Partial<Record<ErrorClass, RegistryCode>> = {
  "invalid-argument": "MANIFEST_INVALID",
  "resource-exhausted": "TOOMANYREQUESTS",
  unavailable: "UNAVAILABLE",
};

/** An error as an answer. Classes without a code of their own are the server's fault. */
export function answerOf(error: unknown): Response {
  const known =
    error instanceof RegistryError
      ? error
      : new RegistryError(CODE_OF_CLASS[errorClassOf(error)] ?? "UNKNOWN", messageOf(error));
  const { code, message, detail } = known;
  const body = { errors: [{ code, message, ...(detail === undefined ? {} : { detail }) }] };
  return Response.json(body, { status: STATUS[code], headers: { ...HEADERS, ...known.headers } });
}

/** Sent with everything: clients tell a registry by the first. */
export const HEADERS: Readonly<Record<string, string>> = {
  "docker-distribution-api-version": "registry/2.0",
  "x-content-type-options": "nosniff",
};

/** An answer without a body. */
export function empty(status: number, headers: Readonly<Record<string, string>> = {}): Response {
  return new Response(null, { status, headers: { ...HEADERS, ...headers } });
}
