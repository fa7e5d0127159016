// Packs the SDK's root export for Node: one ESM file without dependencies, its type declarations, and the package.json to
// publish them with. `npm pack` in the folder makes the tarball.
//   bun tools/sdk-pack.ts [folder]      default build/sdk
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { root, say, version } from "./project.ts";
import { writeSdkTypes } from "./sdk-types.ts";

const ENTRY = "packages/sdk/src/index.ts";
/** The first Node with everything the bundle uses: Promise.withResolvers came last. */
const NODE = ">=22";

async function bundle(folder: string): Promise<void> {
  const args = ["build", "--target=node", "--format=esm", ENTRY, `--outfile=${join(folder, "index.mjs")}`];
  const child = Bun.spawn([process.execPath, ...args], { cwd: root, stdout: "ignore", stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error("bundling the SDK failed");
}

async function pack(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await bundle(folder);
  const types = `./types/${await writeSdkTypes(join(folder, "types"))}`;
  const manifest = {
    name: "@stevedore/sdk",
    version: version,
    license: "Apache-2.0",
    type: "module",
    engines: { node: NODE },
    types,
    exports: { ".": { types, default: "./index.mjs" } },
    files: ["index.mjs", "types"],
  };
  await writeFile(join(folder, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  await writeFile(join(folder, "LICENSE"), await readFile(join(root, "LICENSE")));
  say(`packed ${folder}`);
}

await pack(process.argv[2] ?? join(root, "build/sdk"));
