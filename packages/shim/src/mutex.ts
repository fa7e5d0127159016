/** Runs one piece of work at a time, in the order they came. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();

  /** Runs `work` after everything given before has settled, and gives its result. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined);
    return result;
  }
}
