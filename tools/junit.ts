// Reads what `bun test --reporter=junit` wrote: one entry a test case.

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

function unescape(text: string): string {
  return text
    .replace(/&#(\d+);/g, (_, code: string) => String.fromCodePoint(Number(code)))
    .replace(/&lt;/g, "<")
    .replace(/&gt;/g, ">")
    .replace(/&quot;/g, '"')
    .replace(/&apos;/g, "'")
    .replace(/&amp;/g, "&");
}
