import { classified } from "@stevedore/base";
import type { ContentReader } from "@stevedore/core";
import { fileError } from "./file-error.ts";
import type { BlobUse } from "./open-blobs.ts";

/** Largest single read, in bytes: a caller that wants more asks again. */
const MAX_READ = 16 * 1024 * 1024;

/** A blob's file. Reads do not move a position, so they may overlap. */
export class LocalReader implements ContentReader {
  readonly size: number;
  readonly #use: BlobUse;

  constructor(use: BlobUse) {
    this.#use = use;
    this.size = use.size;
  }

  get fd(): number {
    return this.#use.file.fd;
  }

  async readAt(offset: number, length: number): Promise<Uint8Array> {
    if (offset < 0) throw classified("out-of-range", `read content at negative offset ${offset}: out of range`);
    const wanted = Math.min(length, this.size - offset, MAX_READ);
    if (wanted <= 0) return new Uint8Array();
    const bytes = Buffer.allocUnsafeSlow(wanted);
    let filled = 0;
    try {
      while (filled < wanted) {
        const { bytesRead } = await this.#use.file.read(bytes, filled, wanted - filled, offset + filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
    } catch (error) {
      throw fileError(`read content at ${offset}`, error);
    }
    return filled === wanted ? bytes : bytes.subarray(0, filled);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#use.release();
  }
}
