// Reads what `bun test --reporter=junit` wrote: one entry a test case; and judges it against the expected failures.
import type { Expected } from "../tests/harness/expected.ts";

export type Case = {
  readonly file: string;
  /** Names of the describe blocks and of the test, joined by " > ". */
  readonly name: string;
  readonly state: "passed" | "failed" | "skipped";
  readonly message?: string;
};

/** Cases of a junit report, in its order. */
export function readJunit(xml: string): Case[] {
  const cases: Case[] = [];
  for (const match of xml.matchAll(/<testcase\b((?:\s+[\w-]+="[^"]*")*)\s*(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const attributes = new Map<string, string>();
    for (const [, key = "", value = ""] of (match[1] ?? "").matchAll(/([\w-]+)="([^"]*)"/g))
      attributes.set(key, unescape(value));
    const body = match[2] ?? "";
    const failure = /<(?:failure|error)\b(?:[^>]*?message="([^"]*)")?/.exec(body);
    cases.push({
      file: attributes.get("file") ?? "",
      name: [attributes.get("classname"), attributes.get("name")]
        .filter((part) => part !== undefined && part !== "")
        .join(" > "),
      state: failure !== null ? "failed" : /<skipped\b/.test(body) ? "skipped" : "passed",
      ...(failure?.[1] === undefined ? {} : { message: unescape(failure[1]) }),
    });
  }
  return cases;
}

/**
 * Applies the list of expected failures. A listed case that failed counts as skipped; one that passed, failed.
 * @param complete every case was run: a listed case that is not among them fails too.
 */
export function judge(cases: readonly Case[], expected: readonly Expected[], complete: boolean): Case[] {
  const byKey = new Map(expected.map((one) => [one.key, one]));
  const seen = new Set<string>();
  const judged = cases.map((one): Case => {
    const key = `${one.file} > ${one.name}`;
    const listed = byKey.get(key);
    if (listed === undefined) return one;
    seen.add(key);
    if (one.state === "failed") return { ...one, state: "skipped", message: `expected: ${listed.cause}` };
    if (one.state === "skipped") return one;
    return { ...one, state: "failed", message: `it passes, but ${listed.where} expects it to fail: remove the line` };
  });
  if (!complete) return judged;
  const unknown = expected.filter((one) => !seen.has(one.key));
  const missing = unknown.map(
    (one): Case => ({
      file: one.where,
      name: one.key,
      state: "failed",
      message: "no such case was run: remove the line",
    }),
  );
  return [...judged, ...missing];
}

function unescape(text: string): string {
  return text
    .replace(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
    .replace(/&lt;/g, "<")
    .replace(/&gt;/g, ">")
    .replace(/&quot;/g, '"')
    .replace(/&apos;/g, "'")
    .replace(/&amp;/g, "&");
}
