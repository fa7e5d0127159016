/** JSON as Go prints it for people: four spaces, `<`, `>` and `&` escaped, bigint as a number. */

/** A tree of plain values; bigints print as integers. */
export type JsonTree =
  | string
  | number
  | bigint
  | boolean
  | null
  | readonly JsonTree[]
  | { readonly [key: string]: JsonTree | undefined };

/** `value` indented by four spaces a level; keys with undefined values are left out. */
export function goJson(value: JsonTree): string {
  return write(value, "");
}

function write(value: JsonTree, indent: string): string {
  if (value === null) return "null";
  if (typeof value === "string") return goString(value);
  if (typeof value !== "object") return String(value);
  return isList(value) ? writeList(value, indent) : writeObject(value, indent);
}

function isList(value: object): value is readonly JsonTree[] {
  return Array.isArray(value);
}

function writeList(value: readonly JsonTree[], indent: string): string {
  if (value.length === 0) return "[]";
  const deeper = `${indent}    `;
  return `[\n${value.map((item) => `${deeper}${write(item, deeper)}`).join(",\n")}\n${indent}]`;
}

function writeObject(value: { readonly [key: string]: JsonTree | undefined }, indent: string): string {
  const deeper = `${indent}    `;
  const lines: string[] = [];
  for (const [key, item] of Object.entries(value)) {
    if (item !== undefined) lines.push(`${deeper}${goString(key)}: ${write(item, deeper)}`);
  }
  return lines.length === 0 ? "{}" : `{\n${lines.join(",\n")}\n${indent}}`;
}

const ESCAPES: Readonly<Record<string, string>> = {
  "<": "\\u003c",
  ">": "\\u003e",
  "&": "\\u0026",
  "\u2028": "\\u2028",
  "\u2029": "\\u2029",
};

function goString(text: string): string {
  return JSON.stringify(text).replace(/[<>&\u2028\u2029]/g, (char) => ESCAPES[char] ?? char);
}

/** JSON without blanks, as Go prints it, with line ends and `step` for each level. */
export function indentJson(compact: string, step: string): string {
  let out = "";
  let depth = 0;
  for (let at = 0; at < compact.length; at++) {
    const char = compact[at] ?? "";
    if (char === '"') {
      const end = stringEnd(compact, at);
      out += compact.slice(at, end);
      at = end - 1;
    } else if (char === "{" || char === "[") {
      const next = compact[at + 1];
      if (next === "}" || next === "]") {
        out += char + next;
        at++;
      } else out += `${char}\n${step.repeat(++depth)}`;
    } else if (char === "}" || char === "]") out += `\n${step.repeat(--depth)}${char}`;
    else if (char === ",") out += `,\n${step.repeat(depth)}`;
    else out += char === ":" ? ": " : char;
  }
  return out;
}

/** The place behind the string that begins at `start`. */
function stringEnd(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}
