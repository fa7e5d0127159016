import type { HeaderField } from "./protocol.ts";

/** The static table of RFC 7541 appendix A; index 1 is the first. */
export const STATIC_TABLE: readonly HeaderField[] = [
  [":authority", ""],
  [":method", "GET"],
  [":method", "POST"],
  [":path", "/"],
  [":path", "/index.html"],
  [":scheme", "http"],
  [":scheme", "https"],
  [":status", "200"],
  [":status", "204"],
  [":status", "206"],
  [":status", "304"],
  [":status", "400"],
  [":status", "404"],
  [":status", "500"],
  ["accept-charset", ""],
  ["accept-encoding", "gzip, deflate"],
  ["accept-language", ""],
  ["accept-ranges", ""],
  ["accept", ""],
  ["access-control-allow-origin", ""],
  ["age", ""],
  ["allow", ""],
  ["authorization", ""],
  ["cache-control", ""],
  ["content-disposition", ""],
  ["content-encoding", ""],
  ["content-language", ""],
  ["content-length", ""],
  ["content-location", ""],
  ["content-range", ""],
  ["content-type", ""],
  ["cookie", ""],
  ["date", ""],
  ["etag", ""],
  ["expect", ""],
  ["expires", ""],
  ["from", ""],
  ["host", ""],
  ["if-match", ""],
  ["if-modified-since", ""],
  ["if-none-match", ""],
  ["if-range", ""],
  ["if-unmodified-since", ""],
  ["last-modified", ""],
  ["link", ""],
  ["location", ""],
  ["max-forwards", ""],
  ["proxy-authenticate", ""],
  ["proxy-authorization", ""],
  ["range", ""],
  ["referer", ""],
  ["refresh", ""],
  ["retry-after", ""],
  ["server", ""],
  ["set-cookie", ""],
  ["strict-transport-security", ""],
  ["transfer-encoding", ""],
  ["user-agent", ""],
  ["vary", ""],
  ["via", ""],
  ["www-authenticate", ""],
];

/** What an entry costs beside its characters, RFC 7541 section 4.1. */
const ENTRY_OVERHEAD = 32;

/** The size of a field as tables and limits count it, in bytes. */
export function fieldSize(field: HeaderField): number {
  return field[0].length + field[1].length + ENTRY_OVERHEAD;
}

/**
 * The dynamic table of one direction of one connection. Entries are known by the number of entries ever added before
 * them; `newest - number` is the distance the wire's index is made of.
 */
export class DynamicTable {
  readonly #entries = new Map<number, HeaderField>();
  readonly #dropped: ((field: HeaderField, number: number) => void) | undefined;
  #added = 0;
  #oldest = 0;
  #size = 0;
  #limit: number;

  /** @param dropped is told of each entry that leaves. */
  constructor(limit: number, dropped?: (field: HeaderField, number: number) => void) {
    this.#limit = limit;
    this.#dropped = dropped;
  }

  /** How many entries were ever added. */
  get added(): number {
    return this.#added;
  }

  get limit(): number {
    return this.#limit;
  }

  /** Sum of the entries' sizes, in bytes. */
  get size(): number {
    return this.#size;
  }

  /** The entry added `distance` entries before the newest; 0 is the newest. */
  at(distance: number): HeaderField | undefined {
    return this.#entries.get(this.#added - 1 - distance);
  }

  /** Adds an entry and returns its number; one larger than the table empties it and is not kept (-1). */
  add(field: HeaderField): number {
    const size = fieldSize(field);
    this.#shrink(this.#limit - size);
    if (size > this.#limit) return -1;
    this.#entries.set(this.#added, field);
    this.#size += size;
    return this.#added++;
  }

  resize(limit: number): void {
    this.#limit = limit;
    this.#shrink(limit);
  }

  #shrink(limit: number): void {
    while (this.#size > limit && this.#oldest < this.#added) {
      const number = this.#oldest++;
      const field = this.#entries.get(number);
      if (field === undefined) continue;
      this.#entries.delete(number);
      this.#size -= fieldSize(field);
      this.#dropped?.(field, number);
    }
  }
}
