import { DynamicTable, fieldSize, STATIC_TABLE } from "./header-table.ts";
import { huffmanDecode } from "./huffman.ts";
import { ConnectionError, DEFAULT_HEADER_TABLE, ErrorCode, type HeaderField } from "./protocol.ts";

/** A decoded header block. */
export interface HeaderBlock {
  readonly fields: readonly HeaderField[];
  /** The list was longer than the limit: fields from there on were dropped, the table is kept right. */
  readonly truncated: boolean;
}

/** HPACK for one direction of one connection, RFC 7541: every block must go through it, in order. */
export class HpackDecoder {
  readonly #table = new DynamicTable(DEFAULT_HEADER_TABLE);
  readonly #maxListSize: number;
  #block: Uint8Array = new Uint8Array(0);
  #at = 0;

  /** @param maxListSize the largest sum of field sizes (name, value and 32) that is kept, in bytes. */
  constructor(maxListSize: number) {
    this.#maxListSize = maxListSize;
  }

  /** @throws ConnectionError COMPRESSION_ERROR; the connection cannot go on then. */
  decode(block: Uint8Array): HeaderBlock {
    this.#block = block;
    this.#at = 0;
    const fields: HeaderField[] = [];
    let size = 0;
    let truncated = false;
    let sizeUpdates = 0;
    while (this.#at < block.length) {
      const byte = block[this.#at] ?? 0;
      let field: HeaderField;
      if (byte >= 0x80) {
        field = this.#indexed(this.#integer(7));
      } else if (byte >= 0x40) {
        field = this.#literal(6);
        this.#table.add(field);
      } else if (byte >= 0x20) {
        // Section 4.2: at the start of a block, at most the lowest and the last of several changes.
        if (fields.length > 0 || truncated || ++sizeUpdates > 2) throw broken("table size update out of place");
        const limit = this.#integer(5);
        if (limit > DEFAULT_HEADER_TABLE) throw broken(`table size ${limit} is over the limit`);
        this.#table.resize(limit);
        continue;
      } else {
        field = this.#literal(4);
      }
      size += fieldSize(field);
      if (size > this.#maxListSize) truncated = true;
      else fields.push(field);
    }
    this.#block = new Uint8Array(0);
    return { fields, truncated };
  }

  #indexed(index: number): HeaderField {
    const field =
      index <= STATIC_TABLE.length ? STATIC_TABLE[index - 1] : this.#table.at(index - STATIC_TABLE.length - 1);
    if (field === undefined) throw broken(`index ${index} names no entry`);
    return field;
  }

  #literal(prefix: number): HeaderField {
    const index = this.#integer(prefix);
    const name = index === 0 ? this.#string() : this.#indexed(index)[0];
    return [name, this.#string()];
  }

  #integer(prefix: number): number {
    const mask = (1 << prefix) - 1;
    let value = this.#byte() & mask;
    if (value < mask) return value;
    // Four more bytes hold 28 bits: more than any limit here.
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = this.#byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw broken("integer is too large");
  }

  #string(): string {
    const huffman = ((this.#block[this.#at] ?? 0) & 0x80) !== 0;
    const length = this.#integer(7);
    const end = this.#at + length;
    if (end > this.#block.length) throw broken("string ends behind its block");
    const bytes = this.#block.subarray(this.#at, end);
    this.#at = end;
    return latin1(huffman ? huffmanDecode(bytes) : bytes);
  }

  #byte(): number {
    const byte = this.#block[this.#at++];
    if (byte === undefined) throw broken("block ends inside a field");
    return byte;
  }
}

function broken(message: string): ConnectionError {
  return new ConnectionError(ErrorCode.compressionError, message);
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
