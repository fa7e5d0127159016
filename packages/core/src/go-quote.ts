const ESCAPES: ReadonlyMap<string, string> = new Map([
  ["\u0007", "\\a"],
  ["\b", "\\b"],
  ["\f", "\\f"],
  ["\n", "\\n"],
  ["\r", "\\r"],
  ["\t", "\\t"],
  ["\v", "\\v"],
  ['"', '\\"'],
  ["\\", "\\\\"],
]);

const UNPRINTABLE = /^[\p{C}\p{Z}]$/u;

/** A string as Go's `%q` prints it, which is how the peer's messages quote names: in double quotes, control and unprintable characters escaped. */
export function goQuote(text: string): string {
  let out = '"';
  for (const char of text) {
    const escape = ESCAPES.get(char);
    if (escape !== undefined) out += escape;
    else if (char !== " " && UNPRINTABLE.test(char)) out += escapeCode(char.codePointAt(0) ?? 0);
    else out += char;
  }
  return `${out}"`;
}

function escapeCode(code: number): string {
  if (code < 0x80) return `\\x${code.toString(16).padStart(2, "0")}`;
  if (code < 0x10000) return `\\u${code.toString(16).padStart(4, "0")}`;
  return `\\U${code.toString(16).padStart(8, "0")}`;
}
