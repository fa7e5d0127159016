import { classified, isErrorClass, type Logger, messageOf, type RequestContext } from "@stevedore/base";
import type { LeaseManager, MessageStream, StreamManager } from "@stevedore/core";

/** Streams at once, of all clients: far more than transfers run, few enough to hold. */
const MAX_STREAMS = 10_000;

interface Entry {
  readonly namespace: string;
  readonly lease: string | undefined;
  readonly stream: MessageStream;
}

/** A {@link StreamManager} in memory: a stream cannot outlive its connection, so nothing of it is kept. */
export class Streams implements StreamManager {
  readonly #leases: LeaseManager;
  readonly #log: Logger;
  readonly #byNamespace = new Map<string, Map<string, Entry>>();
  #count = 0;

  constructor(options: { readonly leases: LeaseManager; readonly log: Logger }) {
    this.#leases = options.leases;
    this.#log = options.log;
  }

  register(context: RequestContext, name: string, stream: MessageStream): Disposable {
    const { namespace = "", lease } = context;
    const known = this.#byNamespace.get(namespace) ?? new Map<string, Entry>();
    if (known.has(name)) throw classified("already-exists", `stream ${JSON.stringify(name)}: already exists`);
    if (this.#count >= MAX_STREAMS) {
      throw classified(
        "resource-exhausted",
        `register stream ${JSON.stringify(name)}: ${this.#count} are open already`,
      );
    }
    const entry: Entry = { namespace, lease, stream };
    known.set(name, entry);
    this.#byNamespace.set(namespace, known);
    this.#count++;
    return {
      [Symbol.dispose]: () => {
        if (known.get(name) !== entry) return;
        known.delete(name);
        this.#count--;
        if (known.size === 0) this.#byNamespace.delete(namespace);
      },
    };
  }

  get(context: RequestContext, name: string): MessageStream {
    const found = this.#byNamespace.get(context.namespace ?? "")?.get(name);
    if (found === undefined) throw classified("not-found", `stream ${JSON.stringify(name)}: not found`);
    return found.stream;
  }

  /** Closes the streams whose lease is gone. Run after each collection, as the peer's collector does it. */
  async closeUnleased(): Promise<void> {
    for (const [namespace, known] of this.#byNamespace) {
      const leased = [...known.values()].filter(({ lease }) => lease !== undefined);
      if (leased.length === 0) continue;
      try {
        const context = { signal: new AbortController().signal, namespace };
        const there = new Set((await this.#leases.list(context, [])).map(({ id }) => id));
        for (const { lease, stream } of leased) if (lease !== undefined && !there.has(lease)) stream.close();
      } catch (error) {
        if (!isErrorClass(error, "not-found")) {
          this.#log.warn("look for leases of streams", { namespace, error: messageOf(error) });
        }
      }
    }
  }
}
