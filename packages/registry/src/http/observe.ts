import { redactText } from "../redact.ts";
import type { HttpHeaders } from "./head.ts";

/** What a client does on the wire, for `--http-dump` and `--http-trace`. Holds no secrets and no bodies. */
export type HttpEvent =
  | {
      /** A connection was taken for a request. */
      readonly kind: "connection";
      /** `https://registry.example:443`. */
      readonly to: string;
      readonly reused: boolean;
      /** Address and port, or "" when the socket is gone. */
      readonly remote: string;
    }
  | {
      readonly kind: "request";
      readonly method: string;
      /** Path and query, those that may be secret taken out. */
      readonly target: string;
      readonly headers: readonly (readonly [name: string, value: string])[];
    }
  | {
      readonly kind: "response";
      readonly status: number;
      readonly reason: string;
      readonly headers: readonly (readonly [name: string, value: string])[];
    };

/** Is told what happens, at once. Must not throw. */
export type HttpObserver = (event: HttpEvent) => void;

/** Headers whose values are secrets. */
const SECRET: ReadonlySet<string> = new Set([
  "authorization",
  "proxy-authorization",
  "cookie",
  "set-cookie",
  "x-registry-auth",
  "x-amz-security-token",
]);

/** A list of headers as it may be shown. */
export function shownHeaders(
  headers: readonly (readonly [name: string, value: string])[],
): readonly (readonly [string, string])[] {
  return headers.map(([name, value]) => [name, SECRET.has(name.toLowerCase()) ? "xxxxx" : value]);
}

/** An answer's headers as they may be shown. Where it leads may be signed. */
export function shownAnswer(headers: HttpHeaders): readonly (readonly [string, string])[] {
  const pairs = [...headers].flatMap(([name, values]) => values.map((value): [string, string] => [name, value]));
  return shownHeaders(pairs).map(([name, value]) => [name, name === "location" ? redactText(value, [], 2048) : value]);
}

/** An event as text, heads in the form they have on the wire. */
export function formatHttpEvent(event: HttpEvent): string {
  switch (event.kind) {
    case "connection":
      return `connection to ${event.to}: ${event.remote}${event.reused ? ", reused" : ""}\n`;
    case "request":
      return headText(`${event.method} ${event.target} HTTP/1.1`, event.headers);
    case "response":
      return headText(`HTTP/1.1 ${event.status} ${event.reason}`.trimEnd(), event.headers);
    default:
      return event satisfies never;
  }
}

function headText(first: string, headers: readonly (readonly [string, string])[]): string {
  return `${[first, ...headers.map(([name, value]) => `${name}: ${value}`)].join("\n")}\n\n`;
}
