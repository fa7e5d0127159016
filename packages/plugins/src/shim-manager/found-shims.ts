import type { StateResponse } from "@stevedore/wire/gen/containerd/task/v3/shim_pb";
import type { BootstrapRecord } from "./bundle.ts";
import { ShimConnection } from "./shim-client.ts";

/** A shim found at the start of the daemon. */
interface FoundShim {
  readonly connection: ShimConnection;
  /** Asked for once, when the first container wants to know. */
  states: Promise<ReadonlyMap<string, StateResponse>> | undefined;
}

/**
 * Shims while the daemon looks at the bundles it finds at its start: one connection for all containers of a shared one, and one
 * question for all their states. A connection and a question each were most of what a start with a hundred containers cost.
 */
export class FoundShims {
  readonly #found = new Map<string, Promise<FoundShim>>();

  /** A connection of the caller's own, which may stand on one that others have too. @throws as {@link ShimConnection.open} */
  async connect(record: BootstrapRecord, namespace: string, signal: AbortSignal): Promise<ShimConnection> {
    const key = keyOf(record, namespace);
    const known = this.#found.get(key);
    if (known !== undefined) {
      const found = await known.catch(() => undefined);
      if (found !== undefined && !found.connection.isClosed) return found.connection.share();
    }
    const opening = ShimConnection.open(record, namespace, signal);
    const found = opening.then((connection) => ({ connection, states: undefined }));
    // The caller is told; nobody else may be waiting.
    found.catch(() => undefined);
    this.#found.set(key, found);
    return opening;
  }

  /** What a shim of ours says of one of its containers; undefined when it has none of that id, or cannot tell. */
  async state(
    record: BootstrapRecord,
    of: { readonly namespace: string; readonly id: string },
    timeoutMs: number,
  ): Promise<StateResponse | undefined> {
    try {
      const found = await this.#found.get(keyOf(record, of.namespace));
      if (found === undefined) return undefined;
      found.states ??= found.connection.states({ timeoutMs });
      return (await found.states).get(of.id);
    } catch {
      return undefined; // of an earlier version, or not answering: the container is asked for by itself
    }
  }
}

function keyOf({ address }: BootstrapRecord, namespace: string): string {
  return `${namespace}\n${address}`;
}
