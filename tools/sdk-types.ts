// The type declarations of the SDK's root export: what the compiler makes of it and of the packages behind it, with
// imports by path, so that the packed package needs no other one.
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { root } from "./project.ts";

const ENTRY = "sdk/src/index.d.ts";
/** Packages whose declarations may be reached from the entry. */
const PACKAGES = ["base", "core", "oci", "convert", "wire", "os", "ttrpc"];
/** A compile takes a second; more means that it hangs. */
const LIMIT_MS = 60_000;

const SPECIFIER = /((?:\bfrom|\bimport\()\s*)"([^"]+)"/g;

/** Compiles the declarations of everything the entry imports into `folder`. */
async function emit(folder: string): Promise<void> {
  const paths = Object.fromEntries(
    PACKAGES.flatMap((name): [string, string[]][] => {
      const at = join(root, "packages", name);
      return [
        [`@stevedore/${name}`, [`${at}/src/index.ts`]],
        [`@stevedore/${name}/gen/*`, [`${at}/gen/*.ts`]],
        [`@stevedore/${name}/*`, [`${at}/src/*.ts`]],
      ];
    }),
  );
  const project = join(folder, "tsconfig.json");
  const compilerOptions = {
    noEmit: false,
    declaration: true,
    emitDeclarationOnly: true,
    outDir: folder,
    rootDir: join(root, "packages"),
    typeRoots: [join(root, "node_modules/@types")],
    paths,
  };
  const extended = join(root, "tsconfig.base.json");
  const files = [join(root, "packages/sdk/src/index.ts")];
  await writeFile(project, JSON.stringify({ extends: extended, compilerOptions, files }));
  const child = Bun.spawn([join(root, "node_modules/.bin/tsc"), "-p", project], {
    stdout: "inherit",
    stderr: "inherit",
    timeout: LIMIT_MS,
  });
  if ((await child.exited) !== 0) throw new Error("compiling the SDK's declarations failed");
}

/** The declaration file that a specifier in `file` means, below the folder of declarations; undefined for what is not ours. */
function target(file: string, specifier: string): string | undefined {
  if (specifier.startsWith(".")) return join(dirname(file), specifier).replace(/\.ts$/, ".d.ts");
  const [, name, rest] = /^@stevedore\/([^/]+)(?:\/(.+))?$/.exec(specifier) ?? [];
  if (name === undefined) return undefined;
  if (rest?.startsWith("gen/") === true) return join(name, `${rest}.d.ts`);
  return join(name, "src", `${rest ?? "index"}.d.ts`);
}

/**
 * Writes the declarations into `folder`.
 *
 * @returns the entry's path, relative to `folder`.
 */
export async function writeSdkTypes(folder: string): Promise<string> {
  const made = join(folder, ".declarations");
  await mkdir(made, { recursive: true });
  try {
    await emit(made);
    const queue = [ENTRY];
    const seen = new Set(queue);
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const from = file;
      const text = await readFile(join(made, from), "utf8");
      const rewritten = text.replace(SPECIFIER, (whole, before: string, specifier: string) => {
        const found = target(from, specifier);
        if (found === undefined) return whole;
        if (!seen.has(found)) {
          seen.add(found);
          queue.push(found);
        }
        const path = relative(dirname(from), found).replace(/\.d\.ts$/, ".js");
        return `${before}"${path.startsWith(".") ? path : `./${path}`}"`;
      });
      const to = resolve(folder, from);
      await mkdir(dirname(to), { recursive: true });
      // Symbol.asyncDispose is not in the libraries of older targets.
      const head = from === ENTRY ? '/// <reference lib="esnext.disposable" />\n' : "";
      await writeFile(to, `${head}${rewritten}`);
    }
  } finally {
    await rm(made, { recursive: true, force: true });
  }
  return ENTRY;
}
