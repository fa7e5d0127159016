/**
 * Streams of a container for criu. Init has the client's FIFOs themselves (decision 0060), which are files of the host: criu
 * finds no mount of the container for them, and gives up. Named in its configuration as external, they are left to who
 * restores; which of them was which stream is kept beside criu's images.
 */
import { readdir, readFile, readlink, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { classified, messageOf } from "@stevedore/base/errors";
import { isJsonObject, parseJson } from "@stevedore/oci/json-lossless";
import type { StdioNames } from "./stdio/target.ts";

/** Beside criu's images. criu passes over what it does not know. */
const STREAMS_FILE = "stevedore-streams.json";

/** Its content is three short lines. */
const MAX_STREAMS_BYTES = 4096;

/** criu reads the file this variable of its environment names. */
export const CRIU_CONFIG_VARIABLE = "CRIU_CONFIG_FILE";

/** A file that criu leaves out, in its own words (`file[mount id:inode]`, both in hexadecimal), and the stream it is. */
export interface ExternalStream {
  readonly stream: 0 | 1 | 2;
  readonly key: string;
}

const KEY = /^file\[[0-9a-f]{1,16}:[0-9a-f]{1,16}\]$/;

/** The FIFOs among `names` that processes have open. A process that has ended meanwhile has none. */
export async function externalStreams(pids: readonly number[], names: StdioNames): Promise<ExternalStream[]> {
  const found = new Map<string, ExternalStream>();
  for (const pid of pids) {
    for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const one = await externalStream(`/proc/${pid}`, fd, names).catch(() => undefined);
      if (one !== undefined) found.set(`${one.stream} ${one.key}`, one);
    }
  }
  return [...found.values()];
}

async function externalStream(process: string, fd: string, names: StdioNames): Promise<ExternalStream | undefined> {
  // Whoever made it may have removed it.
  const path = (await readlink(`${process}/fd/${fd}`)).replace(/ \(deleted\)$/, "");
  if (!path.startsWith("/")) return undefined;
  const stream = path === names.stdin ? 0 : path === names.stdout ? 1 : path === names.stderr ? 2 : undefined;
  if (stream === undefined) return undefined;
  const [file, info] = await Promise.all([stat(`${process}/fd/${fd}`), readFile(`${process}/fdinfo/${fd}`, "utf8")]);
  const mount = /^mnt_id:\s*(\d+)$/m.exec(info)?.[1];
  if (!file.isFIFO() || mount === undefined) return undefined;
  return { stream, key: `file[${Number(mount).toString(16)}:${file.ino.toString(16)}]` };
}

/** Writes criu's configuration for a dump that leaves `streams` out. */
export async function writeDumpConfig(path: string, streams: readonly ExternalStream[]): Promise<void> {
  await writeFile(path, streams.map(({ key }) => `external ${key}\n`).join(""), { mode: 0o600 });
}

/** Keeps beside criu's images which stream was which file. */
export async function keepStreams(images: string, streams: readonly ExternalStream[]): Promise<void> {
  await writeFile(join(images, STREAMS_FILE), JSON.stringify({ streams }), { mode: 0o600 });
}

/**
 * Writes criu's configuration for a restore whose stdio takes the place of what was left out. Whether there was something:
 * checkpoints of other shims have none.
 *
 * @throws invalid-argument for a list that is damaged, or was made to say more than streams
 */
export async function writeRestoreConfig(path: string, images: string): Promise<boolean> {
  const list = join(images, STREAMS_FILE);
  const found = await stat(list).catch(() => undefined);
  if (found === undefined) return false;
  if (!found.isFile() || found.size > MAX_STREAMS_BYTES) throw damaged(list, "it is no small file");
  const streams = parseStreams(list, await readFile(list, "utf8"));
  await writeFile(path, streams.map(({ stream, key }) => `inherit-fd fd[${stream}]:${key}\n`).join(""), {
    mode: 0o600,
  });
  return true;
}

function parseStreams(list: string, text: string): ExternalStream[] {
  let tree: ReturnType<typeof parseJson>;
  try {
    tree = parseJson(text);
  } catch (error) {
    throw damaged(list, messageOf(error));
  }
  const entries = isJsonObject(tree) ? tree["streams"] : undefined;
  if (!Array.isArray(entries)) throw damaged(list, "it has no streams");
  return entries.map((entry) => {
    const { stream, key } = isJsonObject(entry) ? entry : {};
    // A key becomes a line of a configuration that can name programs.
    if ((stream !== 0 && stream !== 1 && stream !== 2) || typeof key !== "string" || !KEY.test(key)) {
      throw damaged(list, "a stream is none");
    }
    return { stream, key };
  });
}

function damaged(list: string, why: string): Error {
  return classified("invalid-argument", `read the streams of a checkpoint, ${list}: ${why}: invalid argument`);
}
