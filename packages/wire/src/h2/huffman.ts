import { ConnectionError, ErrorCode } from "./protocol.ts";

/**
 * The Huffman code of RFC 7541 appendix B. The code is canonical: the codes of one length are consecutive in the order
 * of their symbols, so the lengths below say it all.
 */
const LENGTHS = new Uint8Array([
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
  28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6,
  5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23,
  22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22,
  23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26,
  20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27,
  27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
  27, 27, 27, 26, 30,
]);

/** The symbol that ends a string; it may only appear cut short, as padding. */
const END = 256;

const LONGEST = 30;

interface Code {
  /** The code of each symbol, in the low bits. */
  readonly codes: Uint32Array;
  /** All symbols in the order of their codes. */
  readonly symbols: Uint16Array;
  /** For each length: its first code, how many codes it has, and where its symbols begin in `symbols`. */
  readonly first: Uint32Array;
  readonly counts: Uint16Array;
  readonly starts: Uint16Array;
}

let built: Code | undefined;

// Built at the first use, in two passes: a command line that meets one Huffman string pays for it in its start.
function code(): Code {
  if (built !== undefined) return built;
  const counts = new Uint16Array(LONGEST + 1);
  for (const length of LENGTHS) counts[length] = (counts[length] ?? 0) + 1;
  const first = new Uint32Array(LONGEST + 1);
  const starts = new Uint16Array(LONGEST + 1);
  let next = 0;
  let start = 0;
  for (let length = 1; length <= LONGEST; length++) {
    next *= 2;
    first[length] = next;
    starts[length] = start;
    next += counts[length] ?? 0;
    start += counts[length] ?? 0;
  }
  const codes = new Uint32Array(LENGTHS.length);
  const symbols = new Uint16Array(LENGTHS.length);
  const used = new Uint16Array(LONGEST + 1);
  for (let symbol = 0; symbol < LENGTHS.length; symbol++) {
    const length = LENGTHS[symbol] ?? 0;
    const nth = used[length] ?? 0;
    used[length] = nth + 1;
    codes[symbol] = (first[length] ?? 0) + nth;
    symbols[(starts[length] ?? 0) + nth] = symbol;
  }
  built = { codes, symbols, first, counts, starts };
  return built;
}

/**
 * The bytes a Huffman string stands for.
 *
 * @throws ConnectionError COMPRESSION_ERROR when it holds the end symbol or ends in anything but 0 to 7 one bits.
 */
export function huffmanDecode(bytes: Uint8Array): Uint8Array {
  const { symbols, first, counts, starts } = code();
  // The shortest code has five bits.
  const out = new Uint8Array(Math.floor((bytes.length * 8) / 5));
  let size = 0;
  let bits = 0;
  let length = 0;
  for (const byte of bytes) {
    for (let shift = 7; shift >= 0; shift--) {
      bits = (bits << 1) | ((byte >>> shift) & 1);
      length++;
      const nth = bits - (first[length] ?? 0);
      if (nth < 0 || nth >= (counts[length] ?? 0)) continue;
      const symbol = symbols[(starts[length] ?? 0) + nth] ?? END;
      if (symbol === END) throw new ConnectionError(ErrorCode.compressionError, "huffman string holds its end symbol");
      out[size++] = symbol;
      bits = 0;
      length = 0;
    }
  }
  if (length > 7 || bits !== (1 << length) - 1) {
    throw new ConnectionError(ErrorCode.compressionError, "huffman string is badly padded");
  }
  return out.subarray(0, size);
}

/** How many bytes {@link huffmanEncode} makes of a string of characters below 256. */
export function huffmanLength(text: string): number {
  let bits = 0;
  for (let i = 0; i < text.length; i++) bits += LENGTHS[text.charCodeAt(i) & 0xff] ?? 0;
  return (bits + 7) >>> 3;
}

/** Writes the Huffman form of a string of characters below 256 to `out` from `at` on. Returns where it ends. */
export function huffmanEncode(text: string, out: Uint8Array, at: number): number {
  const { codes } = code();
  let end = at;
  let current = 0;
  let free = 8;
  for (let i = 0; i < text.length; i++) {
    const symbol = text.charCodeAt(i) & 0xff;
    const bits = codes[symbol] ?? 0;
    let left = LENGTHS[symbol] ?? 0;
    while (left > 0) {
      const take = Math.min(free, left);
      left -= take;
      current = (current << take) | ((bits >>> left) & ((1 << take) - 1));
      free -= take;
      if (free === 0) {
        out[end++] = current;
        current = 0;
        free = 8;
      }
    }
  }
  if (free < 8) out[end++] = (current << free) | ((1 << free) - 1);
  return end;
}
