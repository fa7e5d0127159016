import type { Descriptor, TransferProgress } from "@stevedore/core";
import { refKey } from "./ref-key.ts";

/** How often bytes are told: containerd's. */
const TICK_MS = 300;

interface Job {
  readonly name: string;
  readonly descriptor: Descriptor;
  readonly parents: string[];
  moved: number;
  told: number;
}

/**
 * Tells of blobs on their way, in the words of containerd's transfer service: `waiting` when a blob is known, bytes at most
 * every 300 ms, and each end at once. Without anybody to tell, it does nothing.
 */
export class BlobProgress implements Disposable {
  readonly #root: string;
  readonly #moving: string;
  readonly #tell: ((progress: TransferProgress) => void) | undefined;
  readonly #jobs = new Map<string, Job>();
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param root name of the image, which is what blobs without a parent belong to.
   * @param moving the event of bytes under way: `downloading` or `uploading`.
   */
  constructor(root: string, moving: string, tell: ((progress: TransferProgress) => void) | undefined) {
    this.#root = root;
    this.#moving = moving;
    this.#tell = tell;
  }

  /** A blob that will be moved, below `parent` unless it is the first. */
  add(descriptor: Descriptor, parent?: Descriptor): void {
    if (this.#tell === undefined) return;
    const above = parent === undefined ? this.#root : refKey(parent);
    const known = this.#jobs.get(descriptor.digest);
    if (known !== undefined) {
      if (!known.parents.includes(above)) known.parents.push(above);
      return;
    }
    const job: Job = { name: refKey(descriptor), descriptor, parents: [above], moved: 0, told: 0 };
    this.#jobs.set(descriptor.digest, job);
    this.#event(job, "waiting", 0);
  }

  /** Bytes of a blob that are there by now. */
  moved(descriptor: Descriptor, bytes: number): void {
    const job = this.#jobs.get(descriptor.digest);
    if (job === undefined) return;
    job.moved = bytes;
    this.#timer ??= setTimeout(() => this.#tick(), TICK_MS);
  }

  #tick(): void {
    this.#timer = undefined;
    for (const job of this.#jobs.values()) {
      if (job.moved <= job.told) continue;
      job.told = job.moved;
      this.#event(job, this.#moving, job.moved);
    }
  }

  /** A blob's end: `complete`, `already exists`, `extracting`, `extracted`. */
  reached(descriptor: Descriptor, event: "complete" | "already exists" | "extracting" | "extracted"): void {
    const job = this.#jobs.get(descriptor.digest);
    if (job === undefined) return;
    const whole = event === "extracting" ? 0 : job.descriptor.size;
    job.moved = 0;
    this.#event(job, event, whole);
  }

  #event(job: Job, event: string, progress: number): void {
    const { name, parents, descriptor } = job;
    this.#tell?.({ event, name, parents: [...parents], progress, total: descriptor.size, descriptor });
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
