// The Node that the SDK is promised to run on: the machine's may be older, so a pinned one is fetched from npm.
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { repository } from "./daemon.ts";
import { exec } from "./process.ts";

/** Of the oldest line the SDK is promised for. */
export const NODE_VERSION = "22.23.3";

/** A download of 45 MB. */
const FETCH_LIMIT_MS = 240_000;

/** The path of the pinned Node; fetched into build/ when it is not there. */
export async function pinnedNode(): Promise<string> {
  // The package of the binary itself: it needs no install script.
  const name = `node-linux-${process.arch}`;
  const folder = join(repository, "build/node", NODE_VERSION);
  const binary = join(folder, "node_modules", name, "bin/node");
  if (existsSync(binary)) return binary;
  await mkdir(folder, { recursive: true });
  const install = ["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
  const fetched = await exec([...install, `${name}@${NODE_VERSION}`], { cwd: folder, timeoutMs: FETCH_LIMIT_MS });
  if (fetched.code !== 0) throw new Error(`fetching Node ${NODE_VERSION} failed\n${fetched.stdout}${fetched.stderr}`);
  return binary;
}
