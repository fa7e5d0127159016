// Expected failures: tests/expected-failures/*.txt, one case a line, `<file> > <full test name> -- <cause>`. They only shrink:
// a listed case that passes, a listed case that does not exist, or an unlisted one that fails, fails the run.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

export type Expected = { readonly key: string; readonly cause: string; readonly where: string };

/** Reads a list. Throws on a line without a cause. */
export function parseExpected(text: string, file: string): Expected[] {
  const found: Expected[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const at = line.lastIndexOf(" -- ");
    const cause = line.slice(at + 4).trim();
    if (at < 0 || cause === "")
      throw new Error(`${file}:${index + 1}: an expected failure gives its cause after " -- "`);
    found.push({ key: line.slice(0, at).trim(), cause, where: `${file}:${index + 1}` });
  }
  return found;
}

/** Reads every list of the folder. */
export async function readExpected(folder: string): Promise<Expected[]> {
  const found: Expected[] = [];
  for (const name of await readdir(folder).catch(() => [])) {
    if (name.endsWith(".txt")) found.push(...parseExpected(await readFile(join(folder, name), "utf8"), name));
  }
  return found;
}
