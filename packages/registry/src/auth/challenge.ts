import { type HttpHeaders } from "../http/head.ts";

/** One way a server offers to authenticate. */
export interface Challenge {
  /** Lower case: `bearer`, `basic`. */
  readonly scheme: string;
  /** By lower-case name. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Length of a WWW-Authenticate header that is looked at: real ones stay below 1 KiB. */
const MAX_LENGTH = 16 << 10;

const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const PARAMETER = /[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))/y;

/** The challenges of WWW-Authenticate headers, bearer first, as the peer prefers it. What is malformed is left out. */
export function parseChallenges(headers: HttpHeaders): readonly Challenge[] {
  const found = (headers.get("www-authenticate") ?? []).flatMap((value) => parseOne(value.slice(0, MAX_LENGTH)));
  const rank = (challenge: Challenge): number => (challenge.scheme === "bearer" ? 0 : 1);
  return found.toSorted((a, b) => rank(a) - rank(b));
}

function parseOne(text: string): Challenge[] {
  const found: { readonly scheme: string; readonly parameters: Map<string, string> }[] = [];
  let at = 0;
  while (at < text.length) {
    at = skip(text, at);
    PARAMETER.lastIndex = at;
    const parameter = PARAMETER.exec(text);
    const last = found.at(-1);
    if (parameter !== null && last !== undefined) {
      const [, name = "", quoted, bare = ""] = parameter;
      const key = name.toLowerCase();
      if (!last.parameters.has(key)) last.parameters.set(key, quoted?.replace(/\\(.)/g, "$1") ?? bare);
      at = PARAMETER.lastIndex;
      continue;
    }
    TOKEN.lastIndex = at;
    const scheme = TOKEN.exec(text)?.[0];
    if (scheme === undefined) break;
    found.push({ scheme: scheme.toLowerCase(), parameters: new Map() });
    at += scheme.length;
  }
  return found;
}

function skip(text: string, from: number): number {
  let at = from;
  while (at < text.length && /[\s,]/.test(text.charAt(at))) at++;
  return at;
}
