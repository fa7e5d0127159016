/**
 * Generates packages/wire/gen from packages/wire/proto: `bun tools/gen.ts`. With `--check`, generates into a scratch
 * folder instead and fails when what is committed differs. buf and protoc-gen-es come from node_modules; nothing is
 * fetched.
 */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";

const ROOT = resolve(import.meta.dir, "..");
const WIRE = join(ROOT, "packages/wire");

async function run(check: boolean): Promise<number> {
  const gen = join(WIRE, "gen");
  if (!check) {
    const status = await buf([]);
    return status === 0 ? light(gen, join(gen, "light")) : status;
  }
  const scratch = await mkdtemp(join(tmpdir(), "stevedore-gen-"));
  try {
    const status = await buf(["--output", scratch]);
    if (status !== 0) return status;
    // Made of the committed code, which is compared too.
    const lightStatus = await light(gen, join(scratch, "gen/light"));
    if (lightStatus !== 0) return lightStatus;
    const differing = await differences(gen, join(scratch, "gen"));
    for (const path of differing)
      process.stderr.write(`packages/wire/gen/${path}: not what tools/gen.ts makes of the .proto files\n`);
    return differing.length === 0 ? 0 : 1;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function buf(more: readonly string[]): Promise<number> {
  const bin = join(ROOT, "node_modules/.bin");
  const child = Bun.spawn([join(bin, "buf"), "generate", ...more], {
    cwd: WIRE,
    env: {
      ...process.env,
      PATH: `${bin}:${process.env["PATH"] ?? ""}`,
      BUF_CACHE_DIR: join(tmpdir(), "stevedore-buf"),
    },
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  return child.exited;
}

/** The second tree, for shims and command lines: docs/decisions/0020-light-messages.md. */
async function light(gen: string, out: string): Promise<number> {
  const child = Bun.spawn([process.execPath, join(WIRE, "src/light/generate.ts"), gen, out], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  return child.exited;
}

async function differences(committed: string, made: string): Promise<string[]> {
  const [left, right] = await Promise.all([files(committed), files(made)]);
  const found: string[] = [];
  for (const path of new Set([...left, ...right])) {
    const same =
      left.has(path) &&
      right.has(path) &&
      (await readFile(join(committed, path), "utf8")) === (await readFile(join(made, path), "utf8"));
    if (!same) found.push(path);
  }
  return found.sort();
}

async function files(folder: string): Promise<Set<string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return new Set(entries.filter((e) => e.isFile()).map((e) => relative(folder, join(e.parentPath, e.name))));
}

if (import.meta.main) process.exitCode = await run(process.argv.includes("--check"));
