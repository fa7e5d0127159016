import { classified } from "@stevedore/base";
import type { Container } from "./containers.ts";
import type { ContentInfo, IngestStatus } from "./content.ts";
import { compileRegExp, type LinearRegExp } from "./filters-regexp.ts";
import { goQuote } from "./go-quote.ts";
import type { Image } from "./images.ts";
import type { Labels } from "./labels.ts";
import type { Lease } from "./leases.ts";
import type { SnapshotInfo } from "./snapshots.ts";

/**
 * containerd's filters: `field.path==value,other!="quoted",labels."a.b"~=/re/,labels.present`. Within one filter all
 * selectors must match; of several filters, any.
 */

/** Most filters in one call, and longest one in characters. containerd has no limit; ours keep a request bounded. */
const MAX_FILTERS = 4096;
const MAX_FILTER_LENGTH = 65_536;

/** The value at a field path of an object; undefined when the object has no such field (or it is empty, where the peer says so). */
export type FieldOf<T> = (object: T, path: readonly string[]) => string | undefined;

/** A parsed list of filters. */
export type Filter = <T>(object: T, fieldOf: FieldOf<T>) => boolean;

type Selector = { readonly path: readonly string[] } & (
  | { readonly operator: "present" }
  | { readonly operator: "==" | "!="; readonly value: string }
  | { readonly operator: "~="; readonly pattern: LinearRegExp | undefined }
);

/**
 * Parses the filters of a call. Without filters, or with an empty one, everything matches.
 *
 * @throws invalid-argument in the peer's words: `filters: parse error: [labels.a >|%|< b]: ...: invalid argument`
 */
export function parseFilters(filters: readonly string[]): Filter {
  if (filters.length === 0) return () => true;
  if (filters.length > MAX_FILTERS) {
    throw classified("invalid-argument", `filters: more than ${MAX_FILTERS} filters: invalid argument`);
  }
  const parsed = filters.map(parseFilter);
  return (object, fieldOf) =>
    parsed.some((selectors) => selectors.every((selector) => selects(selector, fieldOf(object, selector.path))));
}

/** A function that tells whether an object of one kind matches. */
export function matcher<T>(filters: readonly string[], fieldOf: FieldOf<T>): (object: T) => boolean {
  const filter = parseFilters(filters);
  return (object) => filter(object, fieldOf);
}

function selects(selector: Selector, value: string | undefined): boolean {
  switch (selector.operator) {
    case "present":
      return value !== undefined;
    case "==":
      return value === selector.value;
    case "!=":
      return (value ?? "") !== selector.value;
    case "~=":
      return selector.pattern?.test(value ?? "") ?? false;
    default:
      return selector satisfies never;
  }
}

function parseFilter(input: string): readonly Selector[] {
  if (input === "") return [];
  if (input.length > MAX_FILTER_LENGTH) {
    throw classified(
      "invalid-argument",
      `filters: filter longer than ${MAX_FILTER_LENGTH} characters: invalid argument`,
    );
  }
  return new FilterParser(input).parse();
}

type TokenKind = "end" | "quoted" | "value" | "field" | "separator" | "operator" | "illegal" | "other";

interface Token {
  readonly at: number;
  readonly kind: TokenKind;
  readonly text: string;
}

const FIELD_CHAR = /^[-_A-Za-z0-9]$/;
const SPACE = /^[\s\u0085]$/u;
const GRAPHIC = /^[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]$/u;
const OPERATOR_CHARS = "=!~";
const QUOTES = '/|"';

/** Escapes that may follow a backslash besides the quote itself and the numeric ones. */
const SIMPLE_ESCAPES: ReadonlyMap<string, number> = new Map([
  ["a", 0x07],
  ["b", 0x08],
  ["f", 0x0c],
  ["n", 0x0a],
  ["r", 0x0d],
  ["t", 0x09],
  ["v", 0x0b],
  ["\\", 0x5c],
]);

/** Digits a numeric escape has after its letter (octal: including its first digit), and their radix. */
const NUMERIC_ESCAPES: ReadonlyMap<string, { readonly digits: number; readonly radix: number }> = new Map([
  ["x", { digits: 2, radix: 16 }],
  ["u", { digits: 4, radix: 16 }],
  ["U", { digits: 8, radix: 16 }],
]);

class FilterParser {
  readonly #input: string;
  readonly #chars: readonly string[];
  #at = 0;
  /** After an operator a bare word is a value, with more characters allowed than in a field. */
  #expectValue = false;
  #scanError = "";

  constructor(input: string) {
    this.#input = input;
    this.#chars = Array.from(input);
  }

  parse(): readonly Selector[] {
    const selectors = [this.#selector()];
    for (;;) {
      const next = this.#peek();
      if (next === undefined) return selectors;
      if (next !== ",") throw this.#error(this.#at, `unexpected input: ${next}`);
      this.#scan();
      selectors.push(this.#selector());
    }
  }

  #selector(): Selector {
    const path = this.#fieldPath();
    const next = this.#peek();
    if (next === undefined || next === ",") return { path, operator: "present" };
    const operator = this.#operator();
    const value = this.#value(operator === "~=");
    if (operator !== "~=") return { path, operator, value };
    return { path, operator, pattern: compiled(value) };
  }

  #fieldPath(): readonly string[] {
    const path = [this.#field()];
    while (this.#peek() === ".") {
      this.#scan();
      path.push(this.#field());
    }
    return path;
  }

  #field(): string {
    const token = this.#scan();
    if (token.kind === "field") return token.text;
    if (token.kind === "quoted") return this.#unquote(token, false);
    throw this.#error(token.at, token.kind === "illegal" ? this.#scanError : "expected field or quoted");
  }

  #operator(): "==" | "!=" | "~=" {
    const token = this.#scan();
    if (token.kind === "operator") {
      if (token.text === "==" || token.text === "!=" || token.text === "~=") return token.text;
      throw this.#error(token.at, `unsupported operator ${goQuote(token.text)}`);
    }
    throw this.#error(token.at, token.kind === "illegal" ? this.#scanError : 'expected an operator ("=="|"!="|"~=")');
  }

  #value(anyQuotes: boolean): string {
    const token = this.#scan();
    if (token.kind === "value" || token.kind === "field") return token.text;
    if (token.kind === "quoted") return this.#unquote(token, anyQuotes);
    throw this.#error(token.at, token.kind === "illegal" ? this.#scanError : "expected value or quoted");
  }

  #peek(): string | undefined {
    return this.#chars[this.#at];
  }

  #scan(): Token {
    while (SPACE.test(this.#peek() ?? "")) this.#at++;
    const at = this.#at;
    const char = this.#peek();
    if (char === undefined) return { at, kind: "end", text: "" };
    this.#at++;
    const token = (kind: TokenKind): Token => ({ at, kind, text: this.#chars.slice(at, this.#at).join("") });
    if (char === "\0" || char === "\ufffd") {
      this.#fail(char === "\0" ? "unexpected null" : "rune error");
      return token("illegal");
    }
    if (QUOTES.includes(char)) return token(this.#scanQuoted(char) ? "quoted" : "illegal");
    if (char === "," || char === ".") {
      this.#expectValue = false;
      return token("separator");
    }
    if (OPERATOR_CHARS.includes(char)) {
      while (OPERATOR_CHARS.includes(this.#peek() ?? " ")) this.#at++;
      this.#expectValue = true;
      return token("operator");
    }
    if (this.#expectValue) {
      this.#expectValue = false;
      while (isValueChar(this.#peek())) this.#at++;
      return token("value");
    }
    if (FIELD_CHAR.test(char)) {
      while (FIELD_CHAR.test(this.#peek() ?? "")) this.#at++;
      return token("field");
    }
    return { at, kind: "other", text: "" };
  }

  /** Moves past the closing quote. False when there is none or an escape is wrong; the reason is kept. */
  #scanQuoted(quote: string): boolean {
    let legal = true;
    for (;;) {
      const char = this.#peek();
      if (char === undefined || char === "\n" || char === "\0") {
        this.#fail("quoted literal not terminated");
        return false;
      }
      this.#at++;
      if (char === quote) return legal;
      if (char === "\\" && !this.#scanEscape(quote)) legal = false;
    }
  }

  #scanEscape(quote: string): boolean {
    const letter = this.#peek();
    if (letter !== undefined && (letter === quote || SIMPLE_ESCAPES.has(letter))) {
      this.#at++;
      return true;
    }
    const numeric = letter === undefined ? undefined : NUMERIC_ESCAPES.get(letter);
    if (numeric !== undefined) {
      this.#at++;
      return this.#scanDigits(/^[0-9A-Fa-f]$/, numeric.digits);
    }
    if (letter !== undefined && /^[0-7]$/.test(letter)) return this.#scanDigits(/^[0-7]$/, 3);
    this.#fail("illegal escape sequence");
    return false;
  }

  #scanDigits(digit: RegExp, count: number): boolean {
    for (let i = 0; i < count; i++) {
      if (!digit.test(this.#peek() ?? "")) {
        this.#fail("illegal numeric escape sequence");
        return false;
      }
      this.#at++;
    }
    return true;
  }

  #unquote(token: Token, anyQuotes: boolean): string {
    const quote = token.text.charAt(0);
    if (!anyQuotes && quote !== '"') throw this.#error(token.at, "invalid quote encountered");
    const chars = Array.from(token.text).slice(1, -1);
    const out: (string | number)[] = [];
    for (let i = 0; i < chars.length; i++) {
      const char = chars[i];
      if (char === undefined) break;
      if (char !== "\\") {
        out.push(char);
        continue;
      }
      const letter = chars[++i] ?? "";
      const simple = SIMPLE_ESCAPES.get(letter);
      const numeric = NUMERIC_ESCAPES.get(letter);
      if (simple !== undefined) out.push(String.fromCodePoint(simple));
      else if (letter === quote) out.push(quote);
      else if (numeric === undefined) {
        const byte = Number.parseInt(chars.slice(i, i + 3).join(""), 8);
        i += 2;
        if (!(byte <= 255)) throw this.#error(token.at, "unquoting failed: quote syntax error");
        out.push(byte);
      } else {
        const code = Number.parseInt(chars.slice(i + 1, i + 1 + numeric.digits).join(""), numeric.radix);
        i += numeric.digits;
        if (!(code <= 0x10ffff)) throw this.#error(token.at, "unquoting failed: quote syntax error");
        out.push(letter === "x" ? code : String.fromCodePoint(code));
      }
    }
    // Octal and \x escapes are bytes, which may spell UTF-8 together.
    return Buffer.concat(
      out.map((part) => (typeof part === "string" ? Buffer.from(part) : Buffer.of(part))),
    ).toString();
  }

  #fail(message: string): void {
    if (this.#scanError === "") this.#scanError = message;
  }

  #error(at: number, message: string): Error {
    const where =
      at < this.#chars.length
        ? `[${this.#chars.slice(0, at).join("")} >|${this.#chars[at] ?? ""}|< ${this.#chars.slice(at + 1).join("")}]`
        : `[${this.#input}]`;
    return classified("invalid-argument", `filters: parse error: ${where}: ${message}: invalid argument`);
  }
}

function isValueChar(char: string | undefined): boolean {
  return char !== undefined && char !== "," && !SPACE.test(char) && GRAPHIC.test(char);
}

/** A pattern that does not compile matches nothing; the peer does not report it either. */
function compiled(pattern: string): LinearRegExp | undefined {
  try {
    return compileRegExp(pattern);
  } catch {
    return undefined;
  }
}

function filled(value: string): string | undefined {
  return value === "" ? undefined : value;
}

/** The value of a label by the rest of a field path, whose parts the peer joins with dots. */
export function labelAt(labels: Labels | undefined, path: readonly string[]): string | undefined {
  const key = path.slice(1).join(".");
  return labels !== undefined && Object.hasOwn(labels, key) ? labels[key] : undefined;
}

/** Fields `name`, `target.digest`, `target.mediatype`, `labels."k"`, `annotations."k"`. */
export const imageField: FieldOf<Image> = (image, path) => {
  if (path[0] === "name") return filled(image.name);
  if (path[0] === "labels") return labelAt(image.labels, path);
  if (path[0] === "annotations") return labelAt(image.target.annotations, path);
  if (path[0] !== "target") return undefined;
  if (path[1] === "digest") return filled(image.target.digest);
  return path[1] === "mediatype" ? filled(image.target.mediaType) : undefined;
};

/** Fields `id`, `runtime.name`, `image`, `labels."k"`. */
export const containerField: FieldOf<Container> = (container, path) => {
  if (path[0] === "id") return filled(container.id);
  if (path[0] === "image") return filled(container.image);
  if (path[0] === "labels") return labelAt(container.labels, path);
  return path[0] === "runtime" && path[1] === "name" ? filled(container.runtime.name) : undefined;
};

/** Fields `digest`, `size`, `labels."k"`. */
export const contentField: FieldOf<ContentInfo> = (info, path) => {
  if (path[0] === "digest") return info.digest;
  if (path[0] === "size") return String(info.size);
  return path[0] === "labels" ? labelAt(info.labels, path) : undefined;
};

/** Field `ref`. */
export const ingestField: FieldOf<IngestStatus> = (status, path) => (path[0] === "ref" ? status.ref : undefined);

/** Fields `id`, `labels."k"`. */
export const leaseField: FieldOf<Lease> = (lease, path) => {
  if (path[0] === "id") return filled(lease.id);
  return path[0] === "labels" ? labelAt(lease.labels, path) : undefined;
};

/** Fields `kind`, `name`, `parent`, `labels."k"`. */
export const snapshotField: FieldOf<SnapshotInfo> = (info, path) => {
  if (path[0] === "kind") return info.kind;
  if (path[0] === "name") return info.name;
  if (path[0] === "parent") return info.parent;
  return path[0] === "labels" ? labelAt(info.labels, path) : undefined;
};
