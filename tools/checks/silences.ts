// The silence rule: a comment that turns a check off names the rules and, after " -- ", the reason; nothing silences a whole file's rules at once.

export type Silence = {
  /** 1-based. */
  readonly line: number;
  /** Set when the comment breaks the rule. */
  readonly problem?: string;
};

// Spelled in pieces so that this file does not count itself.
const MARK = RegExp(
  [
    "(?:oxlint|es",
    "lint)-disable(?:-next-line|-line)?|biome-",
    "ignore(?:-all|-start)?|@ts-",
    "(?:ignore|expect-error|nocheck)",
  ].join(""),
  "g",
);

/** Every silencing comment of a source text. */
export function silencesOf(text: string): Silence[] {
  const found: Silence[] = [];
  for (const [index, content] of text.split("\n").entries()) {
    for (const match of content.matchAll(MARK)) {
      if (!/\/[/*]/.test(content.slice(0, match.index))) continue;
      found.push({ line: index + 1, ...judge(match[0], content.slice(match.index + match[0].length)) });
    }
  }
  return found;
}

function judge(mark: string, rest: string): { problem?: string } {
  if (/^@ts-(ignore|nocheck)/.test(mark))
    return { problem: `${mark} is not used here: @ts-expect-error tells when it is no longer needed` };
  const reason = mark.startsWith("biome") ? /^[^:]*:\s*(\S.*)/.exec(rest)?.[1] : /\s--\s+(\S.*)/.exec(rest)?.[1];
  if (reason === undefined) return { problem: `${mark} gives no reason (after " -- ")` };
  if (mark.startsWith("@ts")) return {};
  const rules = rest.split(/--|:/)[0]?.trim() ?? "";
  if (!/^[\w@/-]+(,\s*[\w@/-]+)*$/.test(rules)) return { problem: `${mark} does not name its rule` };
  return {};
}
