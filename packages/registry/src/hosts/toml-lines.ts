/**
 * Where the keys of a TOML text stand: the first line of each key and of each table above it, by path. Parsers tell
 * positions of syntax errors only; a refused key needs one as well, and hosts are tried in the order of the file.
 *
 * Only looks at what a valid document holds, so call it with one that was parsed.
 */
export function linesOfKeys(text: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  const note = (path: readonly string[], line: number): void => {
    for (let depth = 1; depth <= path.length; depth++) {
      const key = pathKey(path.slice(0, depth));
      if (!found.has(key)) found.set(key, line);
    }
  };
  let table: readonly string[] = [];
  let closing: string | undefined;
  for (const [at, line] of text.split("\n").entries()) {
    if (closing !== undefined) {
      if (line.includes(closing)) closing = undefined;
      continue;
    }
    const header = /^\s*\[\[?(.+?)\]\]?\s*(?:#.*)?$/.exec(line)?.[1];
    if (header !== undefined && !/^\s*[^[\s]+\s*=/.test(line)) {
      table = keysOf(header) ?? table;
      note(table, at + 1);
      continue;
    }
    const keys = keysBefore(line);
    if (keys !== undefined) note([...table, ...keys], at + 1);
    const opened = /=\s*("""|''')/.exec(line)?.[1];
    if (opened !== undefined && line.indexOf(opened) === line.lastIndexOf(opened)) closing = opened;
  }
  return found;
}

/** A path as the map of {@link linesOfKeys} has it. */
export function pathKey(path: readonly string[]): string {
  return JSON.stringify(path);
}

const PART = /\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*/y;

function keysBefore(line: string): readonly string[] | undefined {
  const found = readKeys(line);
  return found !== undefined && line[found.end] === "=" ? found.keys : undefined;
}

function keysOf(text: string): readonly string[] | undefined {
  const found = readKeys(text);
  return found !== undefined && found.end === text.length ? found.keys : undefined;
}

function readKeys(text: string): { readonly keys: readonly string[]; readonly end: number } | undefined {
  const keys: string[] = [];
  for (let at = 0; ; at++) {
    PART.lastIndex = at;
    const match = PART.exec(text);
    if (match === null) return undefined;
    keys.push(match[1]?.replace(/\\(.)/g, "$1") ?? match[2] ?? match[3] ?? "");
    at = PART.lastIndex;
    if (text[at] !== ".") return { keys, end: at };
  }
}
