import type { OwnedFd } from "@stevedore/os/fd";
import type { KeptExit, Owner, ProcessName } from "./protocol.ts";

/** What is kept of one process. */
export interface Held {
  readonly owner: Owner;
  readonly fds: Map<string, OwnedFd>;
  process: ProcessName | undefined;
  exit: KeptExit | undefined;
}

/** Ends of children whose name nobody has told yet: a shim may have died before it could. A bound, not an expectation. */
const MAX_STRANGERS = 1024;

/** The descriptors and exits that a keeper holds, by container and process. */
export class Holdings {
  readonly #containers = new Map<string, Map<string, Held>>();
  readonly #strangers = new Map<string, KeptExit>();

  get containers(): number {
    return this.#containers.size;
  }

  get descriptors(): number {
    let count = 0;
    for (const processes of this.#containers.values()) for (const { fds } of processes.values()) count += fds.size;
    return count;
  }

  /** Takes descriptors over. Returns what is held of the process now. */
  hold(owner: Owner, process: ProcessName | undefined, fds: ReadonlyMap<string, OwnedFd>): Held {
    const key = keyOf(owner);
    const processes = this.#containers.get(key) ?? new Map<string, Held>();
    this.#containers.set(key, processes);
    const held: Held = processes.get(owner.exec) ?? {
      owner,
      fds: new Map<string, OwnedFd>(),
      process: undefined,
      exit: undefined,
    };
    processes.set(owner.exec, held);
    if (process !== undefined) {
      // An exec id that is used again is another process.
      if (held.process !== undefined && nameOf(held.process) !== nameOf(process)) held.exit = undefined;
      held.process = process;
      held.exit ??= this.#strangers.get(nameOf(process));
    }
    for (const [name, fd] of fds) {
      held.fds.get(name)?.[Symbol.dispose]();
      held.fds.set(name, fd);
    }
    return held;
  }

  /** Closes some descriptors of a process, or all that is held of it; of init that means the whole container. */
  drop(owner: Owner, names: readonly string[] | undefined): void {
    const key = keyOf(owner);
    const processes = this.#containers.get(key);
    if (processes === undefined) return;
    if (names !== undefined) {
      const held = processes.get(owner.exec);
      for (const name of names) {
        held?.fds.get(name)?.[Symbol.dispose]();
        held?.fds.delete(name);
      }
      return;
    }
    for (const [exec, held] of processes) {
      if (owner.exec !== "" && exec !== owner.exec) continue;
      for (const fd of held.fds.values()) fd[Symbol.dispose]();
      processes.delete(exec);
    }
    if (processes.size === 0) this.#containers.delete(key);
  }

  /** What is held of a container. */
  of(owner: Owner): readonly Held[] {
    return [...(this.#containers.get(keyOf(owner))?.values() ?? [])];
  }

  /** Enters an exit; the process it belongs to, when that is known. */
  ended(exit: KeptExit): Held | undefined {
    const name = nameOf(exit);
    for (const processes of this.#containers.values()) {
      for (const held of processes.values()) {
        if (held.process === undefined || nameOf(held.process) !== name) continue;
        held.exit = exit;
        return held;
      }
    }
    if (this.#strangers.size >= MAX_STRANGERS) {
      const oldest = this.#strangers.keys().next();
      if (oldest.done !== true) this.#strangers.delete(oldest.value);
    }
    this.#strangers.set(name, exit);
    return undefined;
  }

  /** The exit of a process, when it was seen. */
  exitOf(process: ProcessName): KeptExit | undefined {
    const name = nameOf(process);
    const stranger = this.#strangers.get(name);
    if (stranger !== undefined) return stranger;
    for (const processes of this.#containers.values())
      for (const { exit } of processes.values()) if (exit !== undefined && nameOf(exit) === name) return exit;
    return undefined;
  }
}

export function nameOf({ pid, start }: ProcessName): string {
  return `${pid}:${start}`;
}

function keyOf({ namespace, container }: Owner): string {
  return `${namespace}/${container}`;
}
