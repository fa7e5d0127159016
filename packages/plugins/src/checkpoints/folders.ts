/** The folders of criu's images that are on their way between the content store and a runtime. */
import { randomBytes } from "node:crypto";
import { mkdir, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { classified } from "@stevedore/base";
import { removeTree } from "@stevedore/os/blocking";

/** Memory of processes is in them: for root alone. */
const PRIVATE = 0o700;

/** Files a checkpoint may have. criu writes some dozens, and a few for each process. */
const MAX_FILES = 100_000;

/** A checkpoint's own folders: criu writes none, runc at most one. */
const MAX_DEPTH = 8;

/** A task that has not been started yet, and the folders it may be restored from. */
export interface KeptRestore {
  readonly namespace: string;
  readonly id: string;
  readonly folders: readonly string[];
}

/** `<root>/restore/<namespace>/<id>/<random>` until a restored task has started, `<root>/dump/<random>` during a checkpoint. */
export class CheckpointFolders {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  async makeDump(): Promise<string> {
    return this.#make("dump");
  }

  async makeRestore(namespace: string, id: string): Promise<string> {
    return this.#make("restore", namespace, id);
  }

  /** Folders of checkpoints that were being made when the daemon ended. */
  async dumps(): Promise<string[]> {
    return (await names(join(this.#root, "dump"))).map((name) => join(this.#root, "dump", name));
  }

  async restores(): Promise<KeptRestore[]> {
    const found: KeptRestore[] = [];
    const top = join(this.#root, "restore");
    for (const namespace of await names(top)) {
      for (const id of await names(join(top, namespace))) {
        const folders = (await names(join(top, namespace, id))).map((name) => join(top, namespace, id, name));
        found.push({ namespace, id, folders });
      }
    }
    return found;
  }

  /** Removes one with what is in it, and what it alone was in. */
  async remove(path: string): Promise<void> {
    await removeTree(path);
    const { rmdir } = await import("node:fs/promises");
    let parent = dirname(path);
    try {
      for (; parent.length > this.#root.length; parent = dirname(parent)) await rmdir(parent);
    } catch {
      // Another is in it, or has just been made.
    }
  }

  async #make(...parts: readonly string[]): Promise<string> {
    const parent = join(this.#root, ...parts);
    const path = join(parent, randomBytes(8).toString("hex"));
    for (;;) {
      await mkdir(parent, { recursive: true, mode: PRIVATE });
      try {
        await mkdir(path, { mode: PRIVATE });
        return path;
      } catch (error) {
        // Its parent went with another's folder in between.
        if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
      }
    }
  }
}

/**
 * Refuses what no checkpoint holds: criu opens its images by name, follows links and waits at pipes, and what was packed by a
 * stranger must not have it read or write elsewhere.
 *
 * @throws invalid-argument
 */
export async function requirePlainFiles(folder: string): Promise<void> {
  let count = 0;
  const look = async (path: string, depth: number): Promise<void> => {
    for (const entry of await readdir(path, { withFileTypes: true })) {
      const name = join(path, entry.name);
      count += 1;
      if (count > MAX_FILES) throw classified("invalid-argument", `more than ${MAX_FILES} files: invalid argument`);
      if (entry.isFile()) continue;
      if (!entry.isDirectory() || depth === MAX_DEPTH) {
        const what = entry.isDirectory() ? `is deeper than ${MAX_DEPTH} folders` : "is no plain file";
        throw classified(
          "invalid-argument",
          `${JSON.stringify(name.slice(folder.length + 1))} ${what}, and a checkpoint has nothing else: invalid argument`,
        );
      }
      await look(name, depth + 1);
    }
  };
  await look(folder, 0);
}

async function names(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw error;
  }
}
