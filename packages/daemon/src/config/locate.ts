/** Where a key stands in a TOML text. The parser says it only for syntax errors; a refused key needs it as well. */
import type { Position } from "./types.ts";

/**
 * The position of the key at `path`, or of the deepest part of it that has a line of its own.
 * Only looks at what a valid document can hold: headers and `key =` lines outside of multi-line strings.
 */
export function locateKey(text: string, file: string, path: readonly string[]): Position {
  let table: readonly string[] = [];
  let best: { readonly depth: number; readonly line: number; readonly column: number } = {
    depth: -1,
    line: 1,
    column: 1,
  };
  let named: { readonly line: number; readonly column: number } | undefined;
  let multiline: string | undefined;
  const lines = text.split("\n");
  for (const [at, line] of lines.entries()) {
    if (multiline !== undefined) {
      if (line.includes(multiline)) multiline = undefined;
      continue;
    }
    const header = /^\s*\[\[?(.+?)\]\]?\s*(?:#.*)?$/.exec(line);
    const keys = header?.[1] === undefined ? keyOf(line) : undefined;
    if (header?.[1] !== undefined) table = splitKey(header[1]);
    const here = keys === undefined ? table : [...table, ...keys];
    const depth = commonDepth(here, path);
    if (depth > best.depth && depth > 0 && (header !== null || keys !== undefined)) {
      best = { depth, line: at + 1, column: line.search(/\S/) + 1 };
    }
    // Migration moves keys to other tables but keeps their names, so the name alone is the second best clue.
    if (keys?.at(-1) === path.at(-1) && keys !== undefined) named ??= { line: at + 1, column: line.search(/\S/) + 1 };
    const opened = /=\s*("""|''')/.exec(line)?.[1];
    if (opened !== undefined && line.indexOf(opened) === line.lastIndexOf(opened)) multiline = opened;
  }
  const at = best.depth === path.length ? best : (named ?? best);
  return { file, line: at.line, column: at.column };
}

function keyOf(line: string): readonly string[] | undefined {
  const match =
    /^\s*((?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=/.exec(
      line,
    );
  return match?.[1] === undefined ? undefined : splitKey(match[1]);
}

function splitKey(text: string): string[] {
  const parts = text.matchAll(/"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+)/g);
  return [...parts].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

function commonDepth(here: readonly string[], path: readonly string[]): number {
  let depth = 0;
  while (depth < here.length && depth < path.length && here[depth] === path[depth]) depth++;
  return depth === here.length ? depth : 0;
}
