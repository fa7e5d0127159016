// Many containers that end at the same moment: they wait at a FIFO, and go on together when it is opened for writing.
import { constants } from "node:fs";
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { exec } from "./process.ts";

/** A gate of containers; see {@link Gate.mount} and {@link Gate.wait}. */
export class Gate implements AsyncDisposable {
  readonly #folder: string;
  #open = false;
  #opening: Promise<void> | undefined;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Makes one in a folder that is not there yet. */
  static async make(folder: string): Promise<Gate> {
    await mkdir(folder);
    const made = await exec(["mkfifo", join(folder, "gate")]);
    if (made.code !== 0) throw new Error(made.stderr);
    return new Gate(folder);
  }

  /** What `ctr run --mount` takes. */
  get mount(): string {
    return `type=bind,src=${this.#folder},dst=/gate,options=rbind:rw`;
  }

  /** A shell command that ends when the gate opens. */
  static readonly wait = "read line < /gate/gate";

  /** Opens it, for those who come later too, until it is disposed. */
  open(): void {
    this.#open = true;
    this.#opening ??= this.#keepOpen();
  }

  async #keepOpen(): Promise<void> {
    while (this.#open) {
      // Fails when nobody waits.
      const writer = await open(join(this.#folder, "gate"), constants.O_WRONLY | constants.O_NONBLOCK).catch(
        () => undefined,
      );
      await writer?.close();
      await Bun.sleep(20);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#open = false;
    await this.#opening;
  }
}

/** Calls `work` for 0 to count - 1, at most `parallel` at a time. */
export async function eachOf(count: number, parallel: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) await work(index);
  };
  await Promise.all(Array.from({ length: parallel }, worker));
}
