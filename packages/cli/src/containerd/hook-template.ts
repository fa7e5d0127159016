/** The templates of `oci-hook`: text with `{{ function }}` or `{{ function "argument" }}`, in Go's template syntax. */
import { classified } from "@stevedore/base";

/** A function of the template: takes a text where it has a parameter. */
export type TemplateFunction =
  | { readonly parameter: false; readonly value: () => string }
  | { readonly parameter: true; readonly value: (argument: string) => string };

export type TemplateFunctions = Readonly<Record<string, TemplateFunction>>;

const ACTION = /\{\{(- )?\s*([^}]*?)\s*( -)?\}\}/g;
const CALL = /^([A-Za-z_][A-Za-z0-9_]*)(?:\s+("(?:[^"\\]|\\.)*"|`[^`]*`))?$/;

/** @throws invalid-argument for an action that is no call of one of `functions` */
export function renderTemplate(source: string, functions: TemplateFunctions): string {
  let rest = 0;
  let out = "";
  let trimNext = false;
  const take = (text: string): string => (trimNext ? text.trimStart() : text);
  for (const match of source.matchAll(ACTION)) {
    const before = take(source.slice(rest, match.index));
    out += match[1] === undefined ? before : before.trimEnd();
    out += evaluate(match[2] ?? "", functions);
    trimNext = match[3] !== undefined;
    rest = match.index + match[0].length;
  }
  const tail = source.slice(rest);
  if (tail.includes("{{")) throw classified("invalid-argument", `template: oci-hook: unclosed action in "${source}"`);
  return out + take(tail);
}

function evaluate(action: string, functions: TemplateFunctions): string {
  if (/^\/\*.*\*\/$/s.test(action)) return "";
  const match = CALL.exec(action);
  const name = match?.[1] ?? "";
  const found = Object.hasOwn(functions, name) ? functions[name] : undefined;
  if (match === null || found === undefined) {
    throw classified("invalid-argument", `template: oci-hook: function "${name === "" ? action : name}" not defined`);
  }
  const argument = match[2];
  if (!found.parameter) {
    if (argument !== undefined) throw wrongCount(name, { want: 0, got: 1 });
    return found.value();
  }
  if (argument === undefined) throw wrongCount(name, { want: 1, got: 0 });
  return found.value(unquote(argument));
}

function wrongCount(name: string, { want, got }: { readonly want: number; readonly got: number }): Error {
  return classified(
    "invalid-argument",
    `template: oci-hook: wrong number of args for ${name}: want ${want} got ${got}`,
  );
}

function unquote(text: string): string {
  if (text.startsWith("`")) return text.slice(1, -1);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "string") return value;
  } catch {
    // Falls through to the refusal: Go's escapes beyond JSON's are not worth a parser here.
  }
  throw classified("invalid-argument", `template: oci-hook: malformed string ${text}`);
}
