import type { ExitRecord, ProcessState, TaskIO } from "@stevedore/core";
import type { Bundle } from "./bundle.ts";
import type { SharedShim } from "./shared-shims.ts";
import type { ShimBinary } from "./shim-binary.ts";
import type { ShimConnection } from "./shim-client.ts";
import { ToldExits } from "./told-exits.ts";

/** What is known of a task's shim. */
export type ShimState =
  /** Found on disk at the daemon's start; `settled` resolves when it is known what it is. */
  | { readonly kind: "loading"; readonly settled: Promise<void> }
  | { readonly kind: "connected"; readonly connection: ShimConnection }
  /** It has died, and another one takes its tasks over; `settled` resolves when that has worked, or has not. */
  | { readonly kind: "adopting"; readonly settled: Promise<void> }
  /** It is gone, or another state took its place; `exit` is how its task ended. */
  | { readonly kind: "gone"; readonly exit: ExitRecord };

/** A task as the daemon knows it: its bundle, its shim, and what was last heard of it. */
export class TaskEntry {
  readonly bundle: Bundle;
  readonly binary: ShimBinary;
  /** Whether its shim is a sandbox's, which does not end with the task. */
  readonly sandboxed: boolean;
  shim: ShimState;
  /** The state of init as last told. */
  last: ProcessState;
  readonly exits = new ToldExits();
  /** The shim it has in common with others; that one ends when nobody is left. */
  shared: SharedShim | undefined;
  /** Set once the task was deleted on request: the end of its shim is nothing to report then. */
  deleted = false;
  /** A question for its state that its shim has not answered in time, while it is not answered: lists do not wait again. */
  unanswered: Promise<void> | undefined;
  /** Where its shim listens, once that is known. */
  address: string | undefined;
  /** Ends when the task leaves the table. */
  readonly over = new AbortController();
  /** Resolves when what follows the death of the current shim is done; replaced with each new shim. */
  recovery: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #gone = Promise.withResolvers<ExitRecord>();
  #deleteTold: PromiseWithResolvers<void> | undefined;

  constructor(bundle: Bundle, made: { binary: ShimBinary; shim: ShimState; io: TaskIO; sandboxed: boolean }) {
    this.bundle = bundle;
    this.binary = made.binary;
    this.shim = made.shim;
    if (made.shim.kind === "connected") this.address = made.shim.connection.record.address;
    this.sandboxed = made.sandboxed;
    this.last = {
      containerId: bundle.id,
      id: bundle.id,
      pid: 0,
      status: "unknown",
      io: made.io,
      exitStatus: 0,
    };
  }

  get id(): string {
    return this.bundle.id;
  }

  /** Resolves with the exit that was made up (or found) when the shim had gone. */
  get gone(): Promise<ExitRecord> {
    return this.#gone.promise;
  }

  /** Resolves when an event has told of the delete, from now on. */
  untilDeleteTold(): Promise<void> {
    this.#deleteTold ??= Promise.withResolvers<void>();
    return this.#deleteTold.promise;
  }

  /** An event has told of the delete. Whether anybody here has asked for it. */
  setDeleteTold(): boolean {
    this.#deleteTold?.resolve();
    return this.#deleteTold !== undefined;
  }

  /** Marks the shim as gone. */
  setGone(exit: ExitRecord): void {
    this.shim = { kind: "gone", exit };
    this.#gone.resolve(exit);
  }
}

/** Tasks by namespace and id. */
export class TaskTable {
  readonly #namespaces = new Map<string, Map<string, TaskEntry>>();

  get(namespace: string, id: string): TaskEntry | undefined {
    return this.#namespaces.get(namespace)?.get(id);
  }

  add(entry: TaskEntry): void {
    const { namespace, id } = entry.bundle;
    const tasks = this.#namespaces.get(namespace) ?? new Map<string, TaskEntry>();
    tasks.set(id, entry);
    this.#namespaces.set(namespace, tasks);
  }

  /** Removes this very entry; one that has taken its place stays. */
  remove(entry: TaskEntry): void {
    const { namespace, id } = entry.bundle;
    const tasks = this.#namespaces.get(namespace);
    if (tasks?.get(id) !== entry) return;
    tasks.delete(id);
    if (tasks.size === 0) this.#namespaces.delete(namespace);
    entry.over.abort();
  }

  /** Tasks of a namespace by id, or of all. */
  list(namespace?: string): TaskEntry[] {
    const found =
      namespace === undefined
        ? [...this.#namespaces.values()].flatMap((tasks) => [...tasks.values()])
        : [...(this.#namespaces.get(namespace)?.values() ?? [])];
    return found.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }
}
