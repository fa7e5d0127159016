import { classified, decodeText } from "@stevedore/base";

/**
 * JSON that survives being read, changed and written: integers beyond 2^53 become bigint, unknown fields stay, keys keep
 * their order, and `__proto__` is a key like any other. What is not kept: white space, how a fraction or exponent was
 * spelled, and all but the last of equal keys (as in Go).
 */
export type JsonValue = null | boolean | number | bigint | string | JsonValue[] | JsonObject;

/** An object with its keys in the order of the text. */
export interface JsonObject {
  [key: string]: JsonValue;
}

/** Bounds of what is parsed. */
export interface JsonLimits {
  /** Levels of objects and lists. */
  readonly maxDepth?: number;
  /** UTF-16 units of text, or bytes. */
  readonly maxSize?: number;
}

/** Levels read by default. Go's decoder stops at 10,000; real documents have under 20, and stacks are not endless. */
export const DEFAULT_MAX_DEPTH = 256;

/** Size read by default: 8 MiB, containerd's limit for manifests and configs. */
export const DEFAULT_MAX_SIZE = 8 << 20;

/**
 * Keys that look like array indices are moved to the front by the engine; objects that have one remember their order
 * here, out of sight of Object.keys.
 */
const KEY_ORDER = Symbol("key order");

/**
 * Reads one JSON document.
 *
 * @throws invalid-argument when it is malformed, too deep or too long; the message tells where.
 */
export function parseJson(source: string | Uint8Array, limits: JsonLimits = {}): JsonValue {
  const maxSize = limits.maxSize ?? DEFAULT_MAX_SIZE;
  if (source.length > maxSize) {
    throw classified("invalid-argument", `json document of ${source.length} bytes exceeds the limit of ${maxSize}`);
  }
  const text = typeof source === "string" ? source : decodeText(source);
  return new Parser(text, limits.maxDepth ?? DEFAULT_MAX_DEPTH).document();
}

const CODE = {
  tab: 0x09,
  newline: 0x0a,
  return: 0x0d,
  space: 0x20,
  quote: 0x22,
  comma: 0x2c,
  minus: 0x2d,
  zero: 0x30,
  nine: 0x39,
  colon: 0x3a,
  openBracket: 0x5b,
  backslash: 0x5c,
  closeBracket: 0x5d,
  openBrace: 0x7b,
  closeBrace: 0x7d,
} as const;

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const INTEGER = /^-?\d+$/;
const INDEX_LIKE = /^(?:0|[1-9]\d{0,9})$/;

class Parser {
  readonly #text: string;
  readonly #maxDepth: number;
  #at = 0;

  constructor(text: string, maxDepth: number) {
    this.#text = text;
    this.#maxDepth = maxDepth;
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#space();
    if (this.#at < this.#text.length) throw this.#wrong();
    return value;
  }

  #value(depth: number): JsonValue {
    this.#space();
    const code = this.#text.charCodeAt(this.#at);
    switch (code) {
      case CODE.openBrace:
        return this.#object(depth);
      case CODE.openBracket:
        return this.#list(depth);
      case CODE.quote:
        return this.#string();
      default:
        if (code === CODE.minus || (code >= CODE.zero && code <= CODE.nine)) return this.#number();
        return this.#word();
    }
  }

  #object(depth: number): JsonObject {
    if (depth >= this.#maxDepth) throw this.#tooDeep();
    const made: JsonObject = {};
    let order: string[] | undefined;
    this.#at++;
    this.#space();
    if (this.#take(CODE.closeBrace)) return made;
    for (;;) {
      this.#space();
      if (this.#text.charCodeAt(this.#at) !== CODE.quote) throw this.#wrong();
      const key = this.#string();
      this.#space();
      if (!this.#take(CODE.colon)) throw this.#wrong();
      const value = this.#value(depth + 1);
      if (order === undefined && INDEX_LIKE.test(key)) order = Object.keys(made);
      if (order !== undefined && !Object.hasOwn(made, key)) order.push(key);
      setKey(made, key, value);
      this.#space();
      if (this.#take(CODE.comma)) continue;
      if (!this.#take(CODE.closeBrace)) throw this.#wrong();
      if (order !== undefined) Object.defineProperty(made, KEY_ORDER, { value: order });
      return made;
    }
  }

  #list(depth: number): JsonValue[] {
    if (depth >= this.#maxDepth) throw this.#tooDeep();
    const made: JsonValue[] = [];
    this.#at++;
    this.#space();
    if (this.#take(CODE.closeBracket)) return made;
    for (;;) {
      made.push(this.#value(depth + 1));
      this.#space();
      if (this.#take(CODE.comma)) continue;
      if (!this.#take(CODE.closeBracket)) throw this.#wrong();
      return made;
    }
  }

  #string(): string {
    const start = this.#at;
    for (let at = start + 1; ; at++) {
      const code = this.#text.charCodeAt(at);
      if (code === CODE.quote) {
        this.#at = at + 1;
        return this.#text.slice(start + 1, at);
      }
      if (code === CODE.backslash) return this.#escapedString(start);
      // NaN is the end of the text.
      if (!(code >= CODE.space)) {
        this.#at = at;
        throw this.#wrong();
      }
    }
  }

  /** A string with escapes: its end is found here, its meaning left to the platform's parser. */
  #escapedString(start: number): string {
    for (let at = start + 1; ; at++) {
      const code = this.#text.charCodeAt(at);
      if (code === CODE.backslash) at++;
      else if (code === CODE.quote) {
        this.#at = at + 1;
        try {
          const value: unknown = JSON.parse(this.#text.slice(start, at + 1));
          if (typeof value === "string") return value;
        } catch {
          // Told below with its place, which the platform's error lacks.
        }
        this.#at = start;
        throw this.#wrong();
      } else if (Number.isNaN(code)) {
        this.#at = at;
        throw this.#wrong();
      }
    }
  }

  #number(): number | bigint {
    NUMBER.lastIndex = this.#at;
    const literal = NUMBER.exec(this.#text)?.[0];
    if (literal === undefined) throw this.#wrong();
    const value = Number(literal);
    if (INTEGER.test(literal)) {
      if (literal.length > MAX_INTEGER_DIGITS) throw this.#wrong();
      this.#at += literal.length;
      return Number.isSafeInteger(value) ? value : BigInt(literal);
    }
    if (!Number.isFinite(value)) throw this.#wrong();
    this.#at += literal.length;
    return value;
  }

  #word(): JsonValue {
    for (const [word, value] of WORDS) {
      if (!this.#text.startsWith(word, this.#at)) continue;
      this.#at += word.length;
      return value;
    }
    throw this.#wrong();
  }

  #space(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== CODE.space && code !== CODE.newline && code !== CODE.return && code !== CODE.tab) return;
      this.#at++;
    }
  }

  #take(code: number): boolean {
    if (this.#text.charCodeAt(this.#at) !== code) return false;
    this.#at++;
    return true;
  }

  #tooDeep(): Error {
    return classified("invalid-argument", `json document is nested deeper than ${this.#maxDepth} levels`);
  }

  #wrong(): Error {
    if (this.#at >= this.#text.length) return classified("invalid-argument", "unexpected end of json input");
    const found = JSON.stringify(String.fromCodePoint(this.#text.codePointAt(this.#at) ?? 0));
    return classified("invalid-argument", `invalid json at offset ${this.#at}: unexpected ${found}`);
  }
}

/** Digits of an integer that is read: BigInt's cost grows with the square, and 2^64 has 20. */
const MAX_INTEGER_DIGITS = 1024;

const WORDS: readonly (readonly [string, JsonValue])[] = [
  ["true", true],
  ["false", false],
  ["null", null],
];

function setKey(object: JsonObject, key: string, value: JsonValue): void {
  if (key === "__proto__") {
    Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  } else object[key] = value;
}

/** How a value is written. */
export interface EncodeOptions {
  /**
   * Writes `<`, `>` and `&` as escapes, as Go's encoder does unless told not to. On by default, so that a document
   * that containerd would have written has its bytes. U+2028 and U+2029 are always escaped, as in Go.
   */
  readonly escapeHtml?: boolean;
  /** White space for each level, as in `JSON.stringify`; none by default. */
  readonly indent?: string;
}

/** Any plain tree: keys with undefined values are left out. */
export type JsonEncodable =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly JsonEncodable[]
  | { readonly [key: string]: JsonEncodable | undefined };

/**
 * Writes JSON as Go's encoder does: no white space unless asked for, bigint as integers.
 *
 * @throws invalid-argument for NaN and the infinities, which JSON cannot say.
 */
export function encodeJson(value: JsonEncodable, options: EncodeOptions = {}): string {
  const parts: string[] = [];
  write(value, parts, {
    escapes: options.escapeHtml === false ? /[\u2028\u2029]/g : /[<>&\u2028\u2029]/g,
    indent: options.indent ?? "",
    margin: "\n",
  });
  return parts.join("");
}

interface Style {
  readonly escapes: RegExp;
  readonly indent: string;
  readonly margin: string;
}

function write(value: JsonEncodable, parts: string[], style: Style): void {
  if (typeof value === "string") parts.push(quote(value, style));
  else if (value === null || typeof value === "bigint" || typeof value === "boolean") parts.push(String(value));
  else if (typeof value === "number") {
    if (!Number.isFinite(value)) throw classified("invalid-argument", `write json: unsupported value ${value}`);
    parts.push(Object.is(value, -0) ? "-0" : String(value));
  } else if (isList(value)) writeList(value, parts, style);
  else writeObject(value, parts, style);
}

function isList(value: object): value is readonly JsonEncodable[] {
  return Array.isArray(value);
}

function writeList(list: readonly JsonEncodable[], parts: string[], style: Style): void {
  if (list.length === 0) {
    parts.push("[]");
    return;
  }
  const deeper = deepen(style);
  parts.push("[");
  list.forEach((item, i) => {
    if (i > 0) parts.push(",");
    if (style.indent !== "") parts.push(deeper.margin);
    write(item, parts, deeper);
  });
  if (style.indent !== "") parts.push(style.margin);
  parts.push("]");
}

function writeObject(
  object: { readonly [key: string]: JsonEncodable | undefined },
  parts: string[],
  style: Style,
): void {
  const deeper = deepen(style);
  let first = true;
  parts.push("{");
  for (const key of keysInOrder(object)) {
    const value = object[key];
    if (value === undefined) continue;
    if (!first) parts.push(",");
    first = false;
    if (style.indent !== "") parts.push(deeper.margin);
    parts.push(quote(key, style), style.indent === "" ? ":" : ": ");
    write(value, parts, deeper);
  }
  if (style.indent !== "" && !first) parts.push(style.margin);
  parts.push("}");
}

function deepen(style: Style): Style {
  return style.indent === "" ? style : { ...style, margin: style.margin + style.indent };
}

/** The keys as they were read, without those removed since, then those added since. */
function keysInOrder(object: object): readonly string[] {
  const keys = Object.keys(object);
  const order: unknown = Reflect.get(object, KEY_ORDER);
  if (!Array.isArray(order)) return keys;
  const kept = order.filter((key): key is string => typeof key === "string" && Object.hasOwn(object, key));
  const known = new Set(kept);
  return [...kept, ...keys.filter((key) => !known.has(key))];
}

const ESCAPED: Readonly<Record<string, string>> = {
  "<": "\\u003c",
  ">": "\\u003e",
  "&": "\\u0026",
  "\u2028": "\\u2028",
  "\u2029": "\\u2029",
};

function quote(text: string, style: Style): string {
  return JSON.stringify(text).replace(style.escapes, (char) => ESCAPED[char] ?? char);
}

/** Whether a value is an object. */
export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A copy that shares nothing with `value` and keeps key order. */
export function cloneJson(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(cloneJson);
  if (!isJsonObject(value)) return value;
  const made: JsonObject = {};
  for (const [key, item] of Object.entries(value)) setKey(made, key, cloneJson(item));
  const order = keysInOrder(value);
  if (Reflect.has(value, KEY_ORDER)) Object.defineProperty(made, KEY_ORDER, { value: order });
  return made;
}
