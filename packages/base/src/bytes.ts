const ENCODER = new TextEncoder();
const DECODER = new TextDecoder();

/** UTF-8 bytes of a string. */
export function encodeText(text: string): Uint8Array<ArrayBuffer> {
  return ENCODER.encode(text);
}

/** The string a run of UTF-8 bytes spells; malformed bytes become U+FFFD. */
export function decodeText(bytes: Uint8Array): string {
  return DECODER.decode(bytes);
}

/** One array holding all the parts in order. A single part is returned as it is, not copied. */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  const [first] = parts;
  if (first !== undefined && parts.length === 1) return first;
  let total = 0;
  for (const part of parts) total += part.byteLength;
  const all = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.byteLength;
  }
  return all;
}

/** Whether two arrays hold the same bytes. Not constant-time: never for secrets. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false;
  for (let i = 0; i < a.byteLength; i++) if (a[i] !== b[i]) return false;
  return true;
}
