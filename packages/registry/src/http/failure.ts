import type { ErrorClass } from "@stevedore/base";
import { redactText } from "../redact.ts";

/** At which step an exchange broke. */
export type TransportStep = "dial" | "proxy" | "tls" | "send" | "answer" | "body";

/**
 * A failure below HTTP, or a breach of HTTP. The message is plain words; `code` is the system's or TLS library's name
 * of it.
 */
export class TransportError extends Error {
  override readonly name = "TransportError";
  readonly step: TransportStep;
  readonly code: string;
  /** Whether a time limit of ours ended it. */
  readonly timedOut: boolean;

  constructor(step: TransportStep, message: string, options: TransportErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.step = step;
    this.code = options.code ?? "";
    this.timedOut = options.timedOut ?? false;
  }
}

/** What a {@link TransportError} carries beside its words. */
export interface TransportErrorOptions {
  readonly code?: string;
  readonly timedOut?: boolean;
  readonly cause?: unknown;
}

/** The `code` of a system error, or "". */
export function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

/** What happened, what helps, and what class it is. */
export interface Explained {
  readonly reason: string;
  readonly help?: string;
  readonly errorClass: ErrorClass;
  /** Whether the same may work later. */
  readonly transient: boolean;
}

const UNTRUSTED: ReadonlySet<string> = new Set([
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "CERT_UNTRUSTED",
  "CERT_SIGNATURE_FAILURE",
]);

/** Codes of a TLS client that met a server which speaks something else, in the libraries of Bun and Node. */
const NOT_TLS: ReadonlySet<string> = new Set(["ERR_SSL_WRONG_VERSION_NUMBER", "ERR_SSL_HTTP_REQUEST", "EPROTO"]);

/** Whether the server answered a TLS hello with plain bytes: it speaks HTTP on that port. */
export function speaksPlainHttp(error: unknown): boolean {
  return error instanceof TransportError && error.step === "tls" && NOT_TLS.has(error.code);
}

const PLAIN_WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "connection refused",
  ENOTFOUND: "no such host",
  EAI_AGAIN: "name look-up failed for now",
  EHOSTUNREACH: "no route to host",
  ENETUNREACH: "network is unreachable",
  ETIMEDOUT: "connection timed out",
  ECONNRESET: "connection reset by peer",
  EPIPE: "connection closed by peer",
};

/** Turns a transport failure into words for people. */
export function explainTransport(error: TransportError): Explained {
  const { code, step } = error;
  if (step === "tls") return explainTls(error);
  const words = PLAIN_WORDS[code] ?? redactText(error.message);
  const unresolved = code === "ENOTFOUND";
  // A time-out was waited for already, and who refuses now does so a second later: those are for the next host, or the
  // user. A connection that broke, or a resolver that was busy, may work at once.
  const transient = !error.timedOut && ["ECONNRESET", "EPIPE", "EAI_AGAIN"].includes(code);
  return {
    reason: step === "dial" ? `dial: ${words}` : step === "proxy" ? `proxy: ${words}` : words,
    ...(unresolved ? { help: "check the name, DNS and /etc/hosts" } : {}),
    errorClass: "unavailable",
    transient,
  };
}

function explainTls(error: TransportError): Explained {
  const fixed = { errorClass: "unavailable", transient: false } as const;
  if (speaksPlainHttp(error)) {
    return {
      ...fixed,
      reason: "server gave HTTP response to HTTPS client",
      help: "use --plain-http, or an http:// server in a hosts.toml",
    };
  }
  if (UNTRUSTED.has(error.code)) {
    return {
      ...fixed,
      reason: `tls: certificate signed by unknown authority (${error.code})`,
      help: "name its CA by --tlscacert or `ca` in a hosts.toml",
    };
  }
  if (error.code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    return {
      ...fixed,
      reason: `tls: certificate is not for this host: ${redactText(error.message)}`,
      help: "use a name the certificate has",
    };
  }
  if (error.code === "CERT_HAS_EXPIRED" || error.code === "CERT_NOT_YET_VALID") {
    const what = error.code === "CERT_HAS_EXPIRED" ? "has expired" : "is not valid yet";
    return {
      ...fixed,
      reason: `tls: certificate ${what}`,
      help: "check the server's certificate and this machine's clock",
    };
  }
  if (/CERTIFICATE_REQUIRED|BAD_CERTIFICATE|HANDSHAKE_FAILURE/.test(`${error.code} ${error.message}`)) {
    return {
      ...fixed,
      reason: `tls: ${redactText(error.message)}`,
      help: "the server may want a client certificate: --tlscert and --tlskey, or `client` in a hosts.toml",
    };
  }
  return {
    errorClass: "unavailable",
    reason: `tls: ${PLAIN_WORDS[error.code] ?? redactText(error.message)}`,
    transient: error.code === "ECONNRESET",
  };
}
