import { untilAborted } from "./until-aborted.ts";

/** Work that goes on after its caller gave up, for who must not close before it has ended. */
export class RunningWork {
  readonly #running = new Set<Promise<unknown>>();

  /** The same promise, remembered until it settles. */
  track<T>(work: Promise<T>): Promise<T> {
    this.#running.add(work);
    void Promise.allSettled([work]).then(() => this.#running.delete(work));
    return work;
  }

  /** Waits for what runs now, however it ends, at most `limitMs` milliseconds. */
  async done(limitMs: number): Promise<void> {
    const settled = Promise.allSettled(this.#running);
    await untilAborted(settled, AbortSignal.timeout(limitMs)).catch(() => undefined);
  }
}
