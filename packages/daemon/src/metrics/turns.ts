/** How long a scrape works at a stretch before the loop gets its turn: calls must not wait for a page of 500 containers. */
const STRETCH_MS = 4;

/** Gives the loop its turn now and then. */
export class Turns {
  #since = performance.now();

  /** Call between pieces of work. @throws the signal's reason */
  async give(signal?: AbortSignal): Promise<void> {
    if (performance.now() - this.#since < STRETCH_MS) return;
    await new Promise((resolve) => setImmediate(resolve));
    signal?.throwIfAborted();
    this.#since = performance.now();
  }
}
