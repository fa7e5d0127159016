import { classified } from "@stevedore/base";

/** Callers waiting for a place; beyond it nobody can be keeping up, and the caller should hear it. */
const MAX_WAITING = 20_000;

interface Waiting {
  readonly go: () => void;
  readonly cost: number;
}

/** At most `size` jobs at once, the cheapest of the others next, and in order of asking among those that cost the same. */
export class Pool {
  readonly #size: number;
  readonly #what: string;
  #running = 0;
  readonly #waiting: Waiting[] = [];

  /**
   * @param size jobs at once; at least 1 is taken.
   * @param what a place is, for the error of one who finds too many waiting.
   */
  constructor(size: number, what: string) {
    this.#size = Math.max(1, size);
    this.#what = what;
  }

  /**
   * Runs `job` when there is room for it.
   *
   * @param cost the job's, in a unit of the pool's users: what is cheap goes before what is dear. All the same by default.
   * @throws the signal's reason when that ends the wait; resource-exhausted when too many wait already.
   */
  async run<T>(job: () => Promise<T>, signal: AbortSignal, cost = 0): Promise<T> {
    await this.#enter(signal, cost);
    try {
      return await job();
    } finally {
      this.#running--;
      this.#waiting.shift()?.go();
    }
  }

  async #enter(signal: AbortSignal, cost: number): Promise<void> {
    signal.throwIfAborted();
    if (this.#running < this.#size && this.#waiting.length === 0) {
      this.#running++;
      return;
    }
    if (this.#waiting.length >= MAX_WAITING) {
      throw classified(
        "resource-exhausted",
        `wait for ${this.#what}: ${this.#waiting.length} jobs are waiting already`,
      );
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const go = (): void => {
      this.#running++; // before anyone else can take the place
      resolve();
    };
    const entry: Waiting = { go, cost };
    const dearer = this.#waiting.findIndex((other) => other.cost > cost);
    this.#waiting.splice(dearer < 0 ? this.#waiting.length : dearer, 0, entry);
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(entry);
      if (at < 0) return;
      this.#waiting.splice(at, 1);
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
