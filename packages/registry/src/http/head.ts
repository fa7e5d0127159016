import { TransportError } from "./failure.ts";

/** Headers by lower-case name; each name has its values in order. */
export type HttpHeaders = ReadonlyMap<string, readonly string[]>;

/** The first value of a header, or undefined. */
export function headerOf(headers: HttpHeaders, name: string): string | undefined {
  return headers.get(name)?.[0];
}

/** All values of a list header, as one comma-joined text. */
export function joinedHeader(headers: HttpHeaders, name: string): string {
  return (headers.get(name) ?? []).join(", ");
}

/** Status line and headers of an answer. */
export interface ResponseHead {
  readonly status: number;
  /** The server's words for it, or "". */
  readonly reason: string;
  readonly headers: HttpHeaders;
  /** Whether the connection may carry another request. */
  readonly keepAlive: boolean;
}

/** How the end of a body is found. */
export type Framing =
  | { readonly kind: "none" }
  | { readonly kind: "length"; readonly length: number }
  | { readonly kind: "chunked" }
  | { readonly kind: "close" };

/** Lines a head may have: far more than any registry sends. */
const MAX_LINES = 256;

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9][0-9]{2})(?: (.*))?$/;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

/**
 * Reads a head, without the empty line at its end.
 *
 * @throws TransportError for what is no HTTP/1 answer.
 */
export function parseHead(text: string): ResponseHead {
  const lines = text.split("\n").map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
  const [first = "", ...rest] = lines;
  const match = STATUS_LINE.exec(first);
  if (match === null) throw new TransportError("answer", "the server does not answer in HTTP/1");
  if (rest.length > MAX_LINES) throw new TransportError("answer", `the answer has more than ${MAX_LINES} header lines`);
  const headers = new Map<string, string[]>();
  for (const line of rest) {
    if (line === "") continue;
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(0, colon)).toLowerCase();
    if (!TOKEN.test(name)) throw new TransportError("answer", "the answer has a malformed header line");
    const value = line.slice(colon + 1).trim();
    const known = headers.get(name);
    if (known === undefined) headers.set(name, [value]);
    else known.push(value);
  }
  const connection = joinedHeader(headers, "connection").toLowerCase();
  const keepAlive = match[1] === "1" ? !/\bclose\b/.test(connection) : /\bkeep-alive\b/.test(connection);
  return { status: Number(match[2]), reason: match[3] ?? "", headers, keepAlive };
}

/** How the body of an answer to `method` is framed. @throws TransportError for contradictory lengths. */
export function framingOf(head: ResponseHead, method: string): Framing {
  // A length that makes no sense is refused however the body is framed, while the connection can still be closed for it.
  const length = contentLength(head.headers);
  if (method === "HEAD" || head.status === 204 || head.status === 304 || head.status < 200) return { kind: "none" };
  const coding = joinedHeader(head.headers, "transfer-encoding").toLowerCase();
  if (coding !== "" && coding !== "identity") {
    if (coding === "chunked") return { kind: "chunked" };
    throw new TransportError("answer", `the answer has a transfer-encoding this client does not know`);
  }
  return length === undefined ? { kind: "close" } : { kind: "length", length };
}

/** The Content-Length, or undefined without one. @throws TransportError when it is malformed or contradictory. */
export function contentLength(headers: HttpHeaders): number | undefined {
  const values = new Set(
    (headers.get("content-length") ?? []).flatMap((value) => value.split(",")).map((v) => v.trim()),
  );
  const [value] = values;
  if (value === undefined) return undefined;
  const length = /^[0-9]{1,16}$/.test(value) ? Number(value) : Number.NaN;
  if (values.size > 1 || !Number.isSafeInteger(length)) {
    throw new TransportError("answer", "the answer has a malformed content-length");
  }
  return length;
}
