// What every tool needs to know of the project: where it is, its version, the names it delivers, how to run a command.
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** Absolute path of the repository. */
export const root = join(import.meta.dirname, "..");

/** The names the binary answers to and that `make install` links, besides `stevedore` itself. */
export const delivered = ["containerd", "containerd-shim-runc-v2", "containerd-stress", "ctr"] as const;

/** Stevedore's own version, X.Y.Z, from the root package.json. */
export const version = readVersion();

function readVersion(): string {
  const found = /"version": "(\d+\.\d+\.\d+)"/.exec(readFileSync(join(root, "package.json"), "utf8"))?.[1];
  if (found === undefined) throw new Error('package.json names no "version"');
  return found;
}

/** Prints a line to the person at the terminal. */
export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

export type Ran = { readonly code: number; readonly stdout: string; readonly stderr: string };

/** Runs a command to its end in the repository (or `cwd`), with its output kept. Does not throw on a failing exit. */
export async function run(
  command: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Ran> {
  const child = Bun.spawn([...command], {
    cwd: options.cwd ?? root,
    env: { ...process.env, ...options.env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}

/** The git revision, with `.m` when the sources differ from it; "unknown" outside a git checkout. */
export async function revision(): Promise<string> {
  const head = await run(["git", "rev-parse", "HEAD"]);
  if (head.code !== 0) return "unknown";
  const dirty = await run(["git", "status", "--porcelain", "--untracked-files=no", "--", "packages"]);
  return head.stdout.trim() + (dirty.stdout === "" ? "" : ".m");
}

/** Files of the repository that git tracks or would track (not ignored), below the given paths, sorted. */
export async function sources(...paths: readonly string[]): Promise<string[]> {
  const listed = await run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", ...paths]);
  if (listed.code !== 0) throw new Error(`git ls-files failed: ${listed.stderr.trim()}`);
  const files = new Set(listed.stdout.split("\0").filter((file) => file !== ""));
  return Array.fromAsync(existing([...files].sort()));
}

async function* existing(files: readonly string[]): AsyncGenerator<string> {
  for (const file of files) if (await Bun.file(join(root, file)).exists()) yield file;
}

/** The command that runs a package's tool on the pinned Bun, whatever Node the machine has. */
export function tool(name: "biome" | "tsc" | "oxlint" | "knip"): string[] {
  return [process.execPath, "--bun", join(root, "node_modules", ".bin", name)];
}
