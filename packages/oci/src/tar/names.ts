/**
 * File names are bytes; most are UTF-8. In memory they are strings without loss: a byte that is not part of a valid
 * UTF-8 sequence becomes the lone surrogate U+DC80..U+DCFF (the convention Python calls surrogateescape), and
 * {@link encodeName} turns it back into that byte. Strings compare and serve as map keys, and nearly all of them can go
 * to the kernel as they are.
 */

const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** First escaped unit; the byte is the unit minus 0xdc00. */
const ESCAPE = 0xdc00;

/** The name spelt by `bytes`. Never fails, and `encodeName` gives the same bytes back. */
export function decodeName(bytes: Uint8Array): string {
  if (bytes.length < SHORT) {
    let ascii = true;
    for (let i = 0; i < bytes.length; i++) {
      if ((bytes[i] ?? 0) >= 0x80) {
        ascii = false;
        break;
      }
    }
    if (ascii) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  }
  try {
    return STRICT.decode(bytes);
  } catch {
    return decodeEscaped(bytes);
  }
}

/** Longest name that is first tried as ASCII: names in archives mostly are. */
const SHORT = 512;

function decodeEscaped(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at);
    if (length === 0) {
      text += String.fromCharCode(ESCAPE + (bytes[at] ?? 0));
      at++;
    } else {
      text += STRICT.decode(bytes.subarray(at, at + length));
      at += length;
    }
  }
  return text;
}

/** Length of the valid UTF-8 sequence at `at`, or 0 when there is none. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0;
  if (first < 0x80) return 1;
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || at + length > bytes.length) return 0;
  try {
    STRICT.decode(bytes.subarray(at, at + length));
    return length;
  } catch {
    return 0;
  }
}

/**
 * What to hand to the kernel or to a writer: the string itself when it is plain UTF-8, otherwise its bytes. Lone
 * surrogates that no byte stands for (they cannot come from {@link decodeName}) become U+FFFD.
 */
export function encodeName(name: string): string | Uint8Array {
  if (name.isWellFormed()) return name;
  const parts: Uint8Array[] = [];
  let plain = "";
  for (const char of name) {
    const unit = char.charCodeAt(0);
    if (char.length === 1 && unit >= ESCAPE + 0x80 && unit <= ESCAPE + 0xff) {
      if (plain !== "") parts.push(Buffer.from(plain, "utf8"));
      plain = "";
      parts.push(new Uint8Array([unit - ESCAPE]));
    } else plain += char;
  }
  if (plain !== "") parts.push(Buffer.from(plain, "utf8"));
  return Buffer.concat(parts);
}

/** {@link encodeName}, always as bytes. */
export function nameBytes(name: string): Uint8Array {
  const encoded = encodeName(name);
  return typeof encoded === "string" ? Buffer.from(encoded, "utf8") : encoded;
}
