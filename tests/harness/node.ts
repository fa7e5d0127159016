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
  const options = { cwd: folder, env: npmEnvironment(), timeoutMs: FETCH_LIMIT_MS };
  const fetched = await exec([...install, `${name}@${NODE_VERSION}`], options);
  if (fetched.code !== 0) throw new Error(`fetching Node ${NODE_VERSION} failed\n${fetched.stdout}${fetched.stderr}`);
  return binary;
}

/** What tells npm how the registry is reached from here: proxies, certificates, settings of its own. */
function npmEnvironment(): Record<string, string> {
  const wanted = /^(npm_config_.*|(https?|no)_proxy|NODE_EXTRA_CA_CERTS|SSL_CERT_(FILE|DIR))$/i;
  return Object.fromEntries(
    Object.entries(process.env).flatMap(([name, value]) =>
      value !== undefined && wanted.test(name) ? [[name, value]] : [],
    ),
  );
}
