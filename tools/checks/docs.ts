// The docs check: relative links lead somewhere, decisions are numbered without a gap in meaning, README's make targets exist,
// and every symbol a package's door exports has a doc comment.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";
import { root, sources } from "../project.ts";
import { undocumentedExports } from "./doors.ts";

/** Relative links of a markdown text, without their fragments. */
export function linksOf(text: string): string[] {
  const withoutCode = text.replace(/```[\s\S]*?```/g, "").replace(/`[^`\n]*`/g, "");
  return [...withoutCode.matchAll(/\]\(([^)\s]+)\)/g)]
    .map((match) => match[1] ?? "")
    .filter((link) => !/^[a-z]+:|^#/.test(link))
    .map((link) => link.replace(/#.*/, ""));
}

/** `make` targets a text's code names, e.g. "demo". */
export function targetsOf(text: string): string[] {
  return [...text.matchAll(/^(?:\$ )?(?:sudo )?make ([a-z][a-z-]*)/gm), ...text.matchAll(/`make ([a-z][a-z-]*)/g)].map(
    (match) => match[1] ?? "",
  );
}

async function links(files: readonly string[]): Promise<string[]> {
  const problems: string[] = [];
  for (const file of files) {
    for (const link of linksOf(await readFile(join(root, file), "utf8"))) {
      const path = normalize(join(dirname(file), link));
      if (!existsSync(join(root, path))) problems.push(`${file}: the link to ${link} leads nowhere`);
    }
  }
  return problems;
}

function decisions(files: readonly string[]): string[] {
  const problems: string[] = [];
  const byNumber = new Map<string, string>();
  for (const file of files.filter((name) => name.startsWith("docs/decisions/"))) {
    const number = /^docs\/decisions\/(\d{4})-[a-z0-9-]+\.md$/.exec(file)?.[1];
    if (number === undefined) problems.push(`${file}: a decision is named NNNN-title.md`);
    else if (byNumber.has(number)) problems.push(`${file}: ${byNumber.get(number)} has the same number`);
    else byNumber.set(number, file);
  }
  return problems;
}

async function targets(files: readonly string[]): Promise<string[]> {
  const makefile = await readFile(join(root, "Makefile"), "utf8");
  const problems: string[] = [];
  for (const file of files) {
    for (const target of targetsOf(await readFile(join(root, file), "utf8"))) {
      if (!RegExp(`^(?:[a-z-]+ )*${target}(?: [a-z-]+)*:`, "m").test(makefile))
        problems.push(`${file}: there is no "make ${target}"`);
    }
  }
  return problems;
}

/** Every problem of the documents and doors. */
export async function checkDocs(): Promise<string[]> {
  const files = (await sources()).filter((file) => file.endsWith(".md"));
  return [...(await links(files)), ...decisions(files), ...(await targets(files)), ...(await undocumentedExports())];
}
