import { DynamicTable, STATIC_TABLE } from "./header-table.ts";
import { huffmanEncode, huffmanLength } from "./huffman.ts";
import { DEFAULT_HEADER_TABLE, type HeaderField } from "./protocol.ts";

/** Values that differ from call to call: in the table they would only push out what is worth keeping. */
const NOT_KEPT: ReadonlySet<string> = new Set([
  "grpc-message",
  "grpc-status-details-bin",
  "grpc-timeout",
  "traceparent",
]);

/** Never in a table, here or behind any proxy: RFC 7541 section 7.1.3. */
const SECRET: ReadonlySet<string> = new Set(["authorization", "cookie", "proxy-authorization"]);

/** Longer values are written anew each time. A path of a method and a namespace are shorter. */
const LONGEST_KEPT = 256;

type Index = Map<string, Map<string, number>>;

let staticIndex: Index | undefined;

// Name → value → index in the static table; the value "" of each name gives its first index.
function staticTable(): Index {
  if (staticIndex !== undefined) return staticIndex;
  staticIndex = new Map();
  STATIC_TABLE.forEach(([name, value], i) => {
    const values = staticIndex?.get(name);
    if (values === undefined) staticIndex?.set(name, new Map([[value, i + 1]]).set("", i + 1));
    else values.set(value, i + 1);
  });
  return staticIndex;
}

/** HPACK for one direction of one connection: blocks must be sent in the order in which they were encoded. */
export class HpackEncoder {
  readonly #index: Index = new Map();
  readonly #table = new DynamicTable(DEFAULT_HEADER_TABLE, (field, number) => this.#forget(field, number));
  #pendingLimits: number[] = [];
  #out = new Uint8Array(512);
  #at = 0;

  /** The peer's SETTINGS_HEADER_TABLE_SIZE; we never use more than the default. Told to the peer in the next block. */
  setPeerLimit(limit: number): void {
    const ours = Math.min(limit, DEFAULT_HEADER_TABLE);
    if (ours === this.#table.limit) return;
    this.#table.resize(ours);
    this.#pendingLimits.push(ours);
  }

  /** The block of `fields`. The array is the caller's. */
  encode(fields: readonly HeaderField[]): Uint8Array {
    this.#at = 0;
    if (this.#pendingLimits.length > 0) this.#sizeUpdates();
    for (const field of fields) this.#field(field);
    return this.#out.slice(0, this.#at);
  }

  #sizeUpdates(): void {
    const last = this.#pendingLimits.at(-1) ?? DEFAULT_HEADER_TABLE;
    const lowest = Math.min(...this.#pendingLimits);
    this.#pendingLimits = [];
    this.#reserve(16);
    if (lowest < last) this.#integer(0x20, 5, lowest);
    this.#integer(0x20, 5, last);
  }

  #field(field: HeaderField): void {
    const [name, value] = field;
    // Both strings at their longest, plus three integers.
    this.#reserve(name.length + value.length + 24);
    const fixed = staticTable().get(name);
    const exact = value === "" ? undefined : fixed?.get(value);
    if (exact !== undefined) return this.#integer(0x80, 7, exact);
    const known = this.#index.get(name);
    const number = known?.get(value);
    if (number !== undefined) return this.#integer(0x80, 7, this.#wireIndex(number));
    const nameIndex = fixed?.get("") ?? this.#nameIndex(known);
    if (SECRET.has(name)) this.#literal(0x10, 4, nameIndex, field);
    else if (NOT_KEPT.has(name) || value.length > LONGEST_KEPT) this.#literal(0, 4, nameIndex, field);
    else {
      this.#literal(0x40, 6, nameIndex, field);
      this.#remember(field);
    }
  }

  #nameIndex(known: Map<string, number> | undefined): number {
    if (known === undefined) return 0;
    for (const number of known.values()) return this.#wireIndex(number);
    return 0;
  }

  #wireIndex(number: number): number {
    return STATIC_TABLE.length + this.#table.added - number;
  }

  #remember(field: HeaderField): void {
    const number = this.#table.add(field);
    if (number < 0) return;
    const values = this.#index.get(field[0]);
    if (values === undefined) this.#index.set(field[0], new Map([[field[1], number]]));
    else values.set(field[1], number);
  }

  #forget([name, value]: HeaderField, number: number): void {
    const values = this.#index.get(name);
    if (values?.get(value) !== number) return;
    values.delete(value);
    if (values.size === 0) this.#index.delete(name);
  }

  #literal(first: number, prefix: number, nameIndex: number, [name, value]: HeaderField): void {
    this.#integer(first, prefix, nameIndex);
    if (nameIndex === 0) this.#string(name);
    this.#string(value);
  }

  #string(text: string): void {
    const packed = huffmanLength(text);
    if (packed < text.length) {
      this.#integer(0x80, 7, packed);
      this.#at = huffmanEncode(text, this.#out, this.#at);
      return;
    }
    this.#integer(0, 7, text.length);
    for (let i = 0; i < text.length; i++) this.#out[this.#at++] = text.charCodeAt(i);
  }

  #integer(first: number, prefix: number, value: number): void {
    const mask = (1 << prefix) - 1;
    if (value < mask) {
      this.#out[this.#at++] = first | value;
      return;
    }
    this.#out[this.#at++] = first | mask;
    let rest = value - mask;
    while (rest >= 0x80) {
      this.#out[this.#at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#out[this.#at++] = rest;
  }

  #reserve(bytes: number): void {
    if (this.#at + bytes <= this.#out.length) return;
    const larger = new Uint8Array(Math.max(2 * this.#out.length, this.#at + bytes));
    larger.set(this.#out);
    this.#out = larger;
  }
}
