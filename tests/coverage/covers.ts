// Which items the tests say they show, read from their text without running them: the `covers` list of a row(), and in any test a
// comment `@covers item, item`. An item may hold `*`, for tests that are made from the same list as the items.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseSync, Visitor } from "oxc-parser";
import { root, sources } from "../../tools/project.ts";

/** Items named in a test's source text. */
export function coversOf(file: string, text: string): string[] {
  const found: string[] = [];
  const parsed = parseSync(file, text);
  for (const comment of parsed.comments) {
    for (const match of comment.value.matchAll(/@covers\s+([^\n]+)/g)) {
      found.push(
        ...(match[1] ?? "")
          .split(",")
          .map((item) => item.replace(/\*?\/?$/, (end) => (end === "*/" ? "" : end)).trim()),
      );
    }
  }
  new Visitor({
    Property(node) {
      if (node.key.type !== "Identifier" || node.key.name !== "covers" || node.value.type !== "ArrayExpression") return;
      for (const element of node.value.elements) {
        if (element?.type === "Literal" && typeof element.value === "string") found.push(element.value);
      }
    },
  }).visit(parsed.program);
  return found.filter((item) => item !== "");
}

/** Items to the test files that show them, over the whole repository. */
export async function allCovers(): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  for (const file of (await sources("tests", "packages")).filter((name) => name.endsWith(".test.ts"))) {
    for (const item of coversOf(file, await readFile(join(root, file), "utf8")))
      found.set(item, [...(found.get(item) ?? []), file]);
  }
  return found;
}
