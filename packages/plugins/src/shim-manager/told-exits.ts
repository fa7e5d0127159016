import type { ExitRecord } from "@stevedore/core";

/** Deleted processes whose exit events are still on their way, at most: a shim that died never sends the last ones. */
const MAX_LATE = 1_000;

/**
 * Ends of a task's processes by their ids, as its events told them; what they told must not be told again. The delete of a process
 * may be answered before its exit event comes: that exit is not kept then, neither for ever nor for a new process of the same id.
 */
export class ToldExits {
  readonly #exits = new Map<string, ExitRecord>();
  /** Pids of processes that were deleted before their exits were told. */
  readonly #late = new Set<number>();

  get(id: string): ExitRecord | undefined {
    return this.#exits.get(id);
  }

  /** How many are kept, with those that are still to come. */
  get size(): number {
    return this.#exits.size + this.#late.size;
  }

  /** An event told of an exit. */
  tell(exit: ExitRecord): void {
    if (!this.#late.delete(exit.pid)) this.#exits.set(exit.id, exit);
  }

  /** A process was deleted; `pid` is 0 when it never ran, so that no event comes. */
  forget(id: string, pid: number): void {
    if (this.#exits.get(id)?.pid === pid) {
      this.#exits.delete(id);
      return;
    }
    if (pid === 0) return;
    this.#late.add(pid);
    const [oldest] = this.#late;
    if (this.#late.size > MAX_LATE && oldest !== undefined) this.#late.delete(oldest);
  }
}
