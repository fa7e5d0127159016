import { classified } from "@stevedore/base";

/** Callers waiting for a place; beyond it the machine cannot be keeping up, and the caller should hear it. */
const MAX_WAITING = 4_096;

/** At most `size` jobs at once, the others in order of asking. */
export class Pool {
  readonly #size: number;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(size: number) {
    this.#size = Math.max(1, size);
  }

  /**
   * Runs `job` when there is room for it.
   *
   * @throws the signal's reason when that ends the wait; resource-exhausted when too many wait already.
   */
  async run<T>(job: () => Promise<T>, signal: AbortSignal): Promise<T> {
    await this.#enter(signal);
    try {
      return await job();
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
    }
  }

  async #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#running < this.#size && this.#waiting.length === 0) {
      this.#running++;
      return;
    }
    if (this.#waiting.length >= MAX_WAITING) {
      throw classified(
        "resource-exhausted",
        `wait for a layer worker: ${this.#waiting.length} jobs are waiting already`,
      );
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const go = (): void => {
      this.#running++; // before anyone else can take the place
      resolve();
    };
    this.#waiting.push(go);
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(go);
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
