import { type FileHandle, open } from "node:fs/promises";

/** A log file that streams are appended to, in the order their chunks come. */
export class AppendFile {
  readonly #file: FileHandle;
  #tail: Promise<void> = Promise.resolve();

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Opens it for appending, with the peer's mode for a new one. */
  static async open(path: string): Promise<AppendFile> {
    return new AppendFile(await open(path, "a", 0o644));
  }

  /** Resolves when all of `bytes` is in the file. A writer that awaits this has one chunk in flight. */
  write(bytes: Uint8Array): Promise<void> {
    const done = this.#tail.then(() => this.#file.appendFile(bytes));
    this.#tail = done.catch(() => undefined);
    return done;
  }

  /** Closes it after what is being written. */
  close(): void {
    void this.#tail.then(() => this.#file.close()).catch(() => undefined);
  }
}
