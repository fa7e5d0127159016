/** How the daemon starts other parts of its own binary. */
import { fileURLToPath } from "node:url";

/** The command that runs a hidden part: the compiled binary itself, or Bun on the sources. */
export function workerCommand(part: string): readonly string[] {
  if (import.meta.url.includes("/$bunfs/")) return [process.execPath, part];
  return [process.execPath, fileURLToPath(new URL("../../cli/src/main.ts", import.meta.url)), part];
}
