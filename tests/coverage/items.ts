// What the product promises to its clients, as items: every RPC of the wire descriptors, every command and flag, every configuration key.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isString, listOf, readJson, recordOf } from "../../tools/json.ts";
import { root, sources } from "../../tools/project.ts";

const PROGRAMS = ["ctr", "containerd", "containerd-stress", "crictl", "nerdctl"] as const;

/**
 * Every item, in the spelling that tests use: `rpc:pkg.Service/Method`, `cmd:ctr run`, `flag:ctr run --rm` (a flag by its first
 * long name), `config:plugins.io.containerd.gc.v1.scheduler.pause_threshold`.
 */
export async function allItems(): Promise<string[]> {
  const items: string[] = [];
  for (const file of await sources("packages/wire/gen")) items.push(...(await rpcsOf(file)));
  for (const program of PROGRAMS) {
    const commands = await readJson(`tests/coverage/surface-${program}.json`, recordOf(recordOf(isString)));
    for (const [command, flags] of Object.entries(commands)) {
      items.push(`cmd:${command}`, ...Object.keys(flags).map((flag) => `flag:${command} ${flag}`));
    }
  }
  for (const key of await readJson("tests/coverage/surface-config.json", listOf(isString))) items.push(`config:${key}`);
  return items;
}

async function rpcsOf(path: string): Promise<string[]> {
  // The generator names each method above its entry, as package.Service.Method.
  const text = await readFile(join(root, path), "utf8");
  return [...text.matchAll(/@generated from rpc ([\w.]+)\.(\w+)/g)].map((match) => `rpc:${match[1]}/${match[2]}`);
}
