import { KeeperClient, type Taken } from "@stevedore/keeper/client";
import { JOURNAL, type KeptExit, type Owner, PIDFD, type ProcessName } from "@stevedore/keeper/protocol";

/** How long after its keeper's death a shim looks for a new one, milliseconds; a daemon starts one at once. */
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 2_000;

/**
 * How long a process runs before its pidfd is deposited, milliseconds: most execs are over by then. What is lost without it is
 * nothing: until then the keeper has the exit of a stranger, which a shim that takes over asks it for by name.
 */
const SHORT_LIVED_MS = 20;

interface Deposit {
  readonly owner: Owner;
  readonly fds: Map<string, number>;
  process: ProcessName | undefined;
}

interface Waiting extends Deposit {
  /** What the keeper is to close. */
  readonly dropped: Set<string>;
}

/**
 * What this shim has with its keeper: descriptors that a shim which takes over could not open again. All of it is deposited
 * anew when the keeper is another one. Without a keeper (under a real containerd) everything here does nothing.
 */
export class Deposits {
  readonly #path: string;
  readonly #namespace: string;
  readonly #deposits = new Map<string, Deposit>();
  readonly #waiting = new Map<string, Waiting>();
  #flushing: ReturnType<typeof setImmediate> | undefined;
  #client: KeeperClient | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  /** @param path the keeper's socket; "" for none. */
  constructor(path: string, namespace: string) {
    this.#path = path;
    this.#namespace = namespace;
    if (path !== "") this.#connect(FIRST_RETRY_MS);
  }

  /** Whether there is a keeper, so that another shim may take over from this one. */
  get enabled(): boolean {
    return this.#path !== "";
  }

  /** The deposits of one process. */
  of(container: string, exec: string): ProcessDeposits {
    return new ProcessDeposits(this, { namespace: this.#namespace, container, exec });
  }

  /** What the keeper holds of a container; nothing when there is no keeper. The descriptors are the caller's. */
  async take(container: string): Promise<readonly Taken[]> {
    return (await this.#client?.take(this.#namespace, container).catch(() => [])) ?? [];
  }

  /** The exit of a process that is the keeper's child by now; undefined when it is not, or the keeper dies. */
  async watch(process: ProcessName): Promise<KeptExit | undefined> {
    return this.#client?.watch(process).catch(() => undefined);
  }

  hold(owner: Owner, fds: Readonly<Record<string, number>>, process?: ProcessName): void {
    if (this.#path === "") return;
    const key = keyOf(owner);
    const deposit = this.#deposits.get(key) ?? { owner, fds: new Map<string, number>(), process: undefined };
    this.#deposits.set(key, deposit);
    const waiting = this.#wait(owner);
    for (const one of [deposit, waiting]) {
      for (const [name, fd] of Object.entries(fds)) one.fds.set(name, fd);
      if (process !== undefined) one.process = process;
    }
    // The keeper puts a new one in the place of an old one by itself.
    for (const name of Object.keys(fds)) waiting.dropped.delete(name);
  }

  /** Sends what waits: before it matters. */
  flush(): void {
    clearImmediate(this.#flushing);
    this.#flushing = undefined;
    for (const { owner, fds, process, dropped } of this.#waiting.values()) {
      if (dropped.size > 0) this.#client?.drop(owner, [...dropped]);
      if (fds.size > 0 || process !== undefined) this.#client?.hold(owner, Object.fromEntries(fds), process);
    }
    this.#waiting.clear();
  }

  /**
   * @param names those the keeper is to close; all of the process (of init: of the container) when absent. They are closed
   * there at the end of this turn of the loop: a client sees the end of its stream a moment later than without a keeper.
   */
  drop(owner: Owner, names?: readonly string[], { over = false }: { readonly over?: boolean } = {}): void {
    if (this.#path === "") return;
    if (names !== undefined) {
      const { fds } = this.#deposits.get(keyOf(owner)) ?? { fds: new Map<string, number>() };
      const known = names.filter((name) => fds.delete(name));
      // Of a process that is over, with its output copied, nobody misses the rest: all of it is dropped when it is deleted.
      const quiet = over && known.every(isOfInput) && [...fds.keys()].every(isOfInput);
      if (known.length === 0) return;
      const waiting = this.#wait(owner);
      for (const name of known) {
        waiting.fds.delete(name);
        // It may not have been told of this one yet, but it may have an older one of that name.
        if (!quiet) waiting.dropped.add(name);
      }
      return;
    }
    for (const [one, { owner: its }] of this.#waiting) {
      if (its.container === owner.container && (owner.exec === "" || its.exec === owner.exec))
        this.#waiting.delete(one);
    }
    for (const [key, { owner: one }] of this.#deposits) {
      if (one.container === owner.container && (owner.exec === "" || one.exec === owner.exec))
        this.#deposits.delete(key);
    }
    this.#client?.drop(owner);
  }

  /** What waits for a process; sent with all else that comes in the same turn. */
  #wait(owner: Owner): Waiting {
    this.#flushing ??= setImmediate(() => this.flush());
    const key = keyOf(owner);
    const found = this.#waiting.get(key);
    if (found !== undefined) return found;
    const made = { owner, fds: new Map<string, number>(), process: undefined, dropped: new Set<string>() };
    this.#waiting.set(key, made);
    return made;
  }

  close(): void {
    this.flush();
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#client?.close();
  }

  #connect(retryMs: number): void {
    try {
      const client = KeeperClient.connect(this.#path);
      this.#client = client;
      this.#waiting.clear();
      for (const { owner, fds, process } of this.#deposits.values()) {
        client.hold(owner, Object.fromEntries(fds), process);
      }
      void this.#follow(client);
    } catch {
      this.#connectLater(retryMs);
    }
  }

  async #follow(client: KeeperClient): Promise<void> {
    await client.closed;
    this.#client = undefined;
    this.#connectLater(FIRST_RETRY_MS);
  }

  #connectLater(retryMs: number): void {
    if (this.#closed) return;
    this.#retry = setTimeout(() => this.#connect(Math.min(retryMs * 2, LONGEST_RETRY_MS)), retryMs);
    this.#retry.unref();
  }
}

/** The deposits of one process. The descriptors stay their owners', who must {@link ProcessDeposits.forget} before they close one. */
export class ProcessDeposits {
  readonly #deposits: Deposits;
  readonly #owner: Owner;
  #later: ReturnType<typeof setTimeout> | undefined;
  #over = false;

  constructor(deposits: Deposits, owner: Owner) {
    this.#deposits = deposits;
    this.#owner = owner;
  }

  keep(name: string, fd: number): void {
    this.#deposits.hold(this.#owner, { [name]: fd });
  }

  /** The keeper closes its copy, in a moment: others see the end of it when ours is closed too. */
  forget(...names: readonly string[]): void {
    this.#deposits.drop(this.#owner, names, { over: this.#over });
  }

  /** Its name, so that the keeper knows whose exit it reaps. */
  keepProcess(process: ProcessName, pidfd: number): void {
    this.#deposits.hold(this.#owner, { [PIDFD]: pidfd }, process);
  }

  /** As {@link ProcessDeposits.keepProcess}, unless it is over in a moment. */
  keepProcessSoon(process: ProcessName, pidfd: number): void {
    if (this.#deposits.enabled) this.#later = setTimeout(() => this.keepProcess(process, pidfd), SHORT_LIVED_MS);
  }

  /** The process has ended, and that is written down. */
  over(): void {
    clearTimeout(this.#later);
    this.#over = true;
  }

  keepJournal(fd: number): void {
    this.#deposits.hold(this.#owner, { [JOURNAL]: fd });
  }

  /** Deposits what has not been yet. */
  flush(): void {
    this.#deposits.flush();
  }

  /** All of it; of init: of the whole container. */
  forgetAll(): void {
    clearTimeout(this.#later);
    this.#deposits.drop(this.#owner);
  }
}

function isOfInput(name: string): boolean {
  return name === PIDFD || name.startsWith("stdin");
}

function keyOf({ namespace, container, exec }: Owner): string {
  return `${namespace}/${container}/${exec}`;
}
