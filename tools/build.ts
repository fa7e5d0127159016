// Compiles the one binary, build/stevedore, and links build/bin/<name> to it for each delivered name.
// Does nothing when no input is newer than the last build: the key covers every source file, the lockfile and the git revision.
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { delivered, revision, root, say, sources, version } from "./project.ts";

/** Modules that run as threads of the binary: `new Worker` finds them by their path below the repository root. */
const WORKERS = "packages/*/src/**/*-worker.ts";
const MAIN = "packages/cli/src/main.ts";

async function inputKey(extra: readonly string[]): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  // Every file of the packages: what is imported as text or bytes counts as well.
  const files = (await sources("packages", "bun.lock", "tools/build.ts")).filter((file) => !file.endsWith(".test.ts"));
  for (const file of files) {
    const stat = await Bun.file(join(root, file)).stat();
    hash.update(`${file} ${stat.size} ${stat.mtimeMs}\n`);
  }
  hash.update(extra.join("\n"));
  return hash.digest("hex");
}

async function compile(outfile: string, defines: Readonly<Record<string, string>>): Promise<void> {
  const temporary = `${outfile}.${process.pid}.tmp`;
  const workers = await Array.fromAsync(new Bun.Glob(WORKERS).scan({ cwd: root }));
  const entrypoints = [MAIN, ...workers.filter((file) => !file.includes("node_modules")).sort()];
  for (const file of entrypoints)
    if (!existsSync(join(root, file))) throw new Error(`the build's entry ${file} is not there`);
  const child = Bun.spawn(
    [
      process.execPath,
      "build",
      "--compile",
      "--bytecode",
      "--format=esm",
      "--splitting",
      "--minify",
      "--target=bun",
      // What lies in the folder that a command is started in is not the program's: no .env, and no bunfig.toml, whose
      // preload would be run.
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
      // See packages/cli/src/jit.ts.
      "--compile-jit-policy=50",
      "--root=.",
      ...Object.entries(defines).flatMap(([name, value]) => ["--define", `${name}=${value}`]),
      ...entrypoints,
      `--outfile=${temporary}`,
    ],
    { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "inherit" },
  );
  const output = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) {
    await rm(temporary, { force: true });
    throw new Error(`bun build failed\n${output}`);
  }
  await rename(temporary, outfile);
}

async function link(path: string, target: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  await symlink(target, temporary);
  await rename(temporary, path);
}

async function main(): Promise<void> {
  const build = join(root, "build");
  await mkdir(join(build, "bin"), { recursive: true });
  const rev = await revision();
  const key = await inputKey([rev, version]);
  const stamp = join(build, "build.stamp");
  const outfile = join(build, "stevedore");
  if (existsSync(outfile) && (await readFile(stamp, "utf8").catch(() => "")) === key) return;
  const started = performance.now();
  await compile(outfile, {
    STEVEDORE_VERSION: JSON.stringify(version),
    STEVEDORE_REVISION: JSON.stringify(rev),
    // Tells the compiled binary from a run of the sources; workers are found by another path there.
    STEVEDORE_COMPILED: "true",
  });
  for (const name of delivered) await link(join(build, "bin", name), "../stevedore");
  await link(join(build, "bin", "stevedore"), "../stevedore");
  await writeFile(stamp, key);
  say(`+ bun build --compile ${MAIN} -> ${relative(root, outfile)} (${Math.round(performance.now() - started)} ms)`);
}

await main();
