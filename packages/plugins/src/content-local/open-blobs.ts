import { type FileHandle, open } from "node:fs/promises";

/**
 * Milliseconds an unused blob's file stays open. Go clients read a blob in calls of 32 KiB, one after the other; opening
 * and closing the file for each cost more than the reading.
 */
const IDLE_MS = 100;
/** Files kept open without a user: the blobs that some clients at once are reading through. */
const MAX_IDLE = 32;

interface OpenBlob {
  readonly file: FileHandle;
  readonly size: number;
  users: number;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** One use of an open file; hand it back once. */
export interface BlobUse {
  readonly file: FileHandle;
  readonly size: number;
  /** Gives the file back; may be called twice. */
  release(): Promise<void>;
}

/** Blobs' files that are open, shared by their readers. Blobs never change, so a file may outlive its name for a moment. */
export class OpenBlobs {
  readonly #opening = new Map<string, Promise<OpenBlob>>();
  readonly #idle = new Set<string>();

  /** The file at `path`, opened or shared. @throws as open(2) */
  async use(path: string): Promise<BlobUse> {
    const blob = await this.#blobAt(path);
    blob.users++;
    clearTimeout(blob.timer);
    this.#idle.delete(path);
    let released = false;
    return {
      file: blob.file,
      size: blob.size,
      release: async () => {
        if (released) return;
        released = true;
        blob.users--;
        if (blob.users === 0) await this.#rest(path, blob);
      },
    };
  }

  /** Closes the file of a blob that is being deleted, once nobody reads it. */
  async forget(path: string): Promise<void> {
    const opening = this.#opening.get(path);
    if (opening === undefined) return;
    this.#opening.delete(path);
    this.#idle.delete(path);
    const blob = await opening.catch(() => undefined);
    if (blob?.users === 0) await close(blob);
  }

  #blobAt(path: string): Promise<OpenBlob> {
    const known = this.#opening.get(path);
    if (known !== undefined) return known;
    const opening = openBlob(path);
    this.#opening.set(path, opening);
    opening.catch(() => {
      if (this.#opening.get(path) === opening) this.#opening.delete(path);
    });
    return opening;
  }

  async #rest(path: string, blob: OpenBlob): Promise<void> {
    const forgotten = (await this.#opening.get(path)?.catch(() => undefined)) !== blob;
    if (forgotten) {
      if (blob.users === 0) await close(blob);
      return;
    }
    if (blob.users > 0) return;
    this.#idle.add(path);
    blob.timer = setTimeout(() => {
      if (blob.users === 0) void this.forget(path);
    }, IDLE_MS);
    blob.timer.unref();
    const [oldest] = this.#idle;
    if (this.#idle.size > MAX_IDLE && oldest !== undefined) await this.forget(oldest);
  }
}

async function openBlob(path: string): Promise<OpenBlob> {
  const file = await open(path, "r");
  try {
    return { file, size: (await file.stat()).size, users: 0, timer: undefined };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function close(blob: OpenBlob): Promise<void> {
  clearTimeout(blob.timer);
  await blob.file.close();
}
