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

/** Shorter strings are written as they are: on a local socket their few bytes cost less than the packing. */
const SHORTEST_PACKED = 512;

type Index = Map<string, Map<string, number>>;

/** The static table's index of a field that gRPC sends, 0 for none. By hand: a table costs time at each start. */
function staticField(name: string, value: string): number {
  switch (name) {
    case ":method":
      return value === "POST" ? 3 : 0;
    case ":scheme":
      return value === "http" ? 6 : value === "https" ? 7 : 0;
    case ":status":
      return value === "200" ? 8 : value === "400" ? 12 : 0;
    default:
      return 0;
  }
}

/** The static table's index of a name that gRPC sends, 0 for none. */
function staticName(name: string): number {
  switch (name) {
    case ":authority":
      return 1;
    case ":method":
      return 2;
    case ":path":
      return 4;
    case ":scheme":
      return 6;
    case ":status":
      return 8;
    case "authorization":
      return 23;
    case "content-type":
      return 31;
    case "user-agent":
      return 58;
    default:
      return 0;
  }
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
    const exact = staticField(name, value);
    if (exact > 0) return this.#integer(0x80, 7, exact);
    const known = this.#index.get(name);
    const number = known?.get(value);
    if (number !== undefined) return this.#integer(0x80, 7, this.#wireIndex(number));
    const nameIndex = staticName(name) || this.#nameIndex(known);
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
    const packed = text.length < SHORTEST_PACKED ? text.length : huffmanLength(text);
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
