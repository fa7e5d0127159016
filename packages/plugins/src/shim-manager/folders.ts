import { readdir } from "node:fs/promises";
import { isCode } from "./bundle.ts";

/** Names of the folders in a folder; hidden ones, which are on their way out, only when they are asked for. */
export async function folders(path: string, { hidden = false }: { readonly hidden?: boolean } = {}): Promise<string[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.filter((one) => one.isDirectory() && one.name.startsWith(".") === hidden).map(({ name }) => name);
  } catch (error) {
    if (isCode(error, "ENOENT")) return [];
    throw error;
  }
}
