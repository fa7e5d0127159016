import { lstat, symlink } from "node:fs/promises";
import { dirname } from "node:path";
import { linkSocketDir, removeQuietly } from "./bundle.ts";
import { type SocketName, socketAddress, socketPath } from "./socket-address.ts";

/** What a shim that many containers share serves, and for whom. */
export interface SharedSockets {
  readonly socket: string;
  /** "" for none. */
  readonly debugSocket: string;
  readonly daemonAddress: string;
  readonly namespace: string;
}

/** The paths at which a client looks for the sockets of a container's shim. */
function pathsFor(name: SocketName): readonly [socket: string, debugSocket: string] {
  return [socketPath(socketAddress(name)), socketPath(socketAddress({ ...name, debug: true }))];
}

/**
 * Lets clients that know only a container's id find the shim that it shares with others: a link per container and socket.
 * Changes of one container are made in their order; failures leave the container as it is, only harder to find.
 */
export class SocketLinks {
  readonly #sockets: SharedSockets;
  readonly #pending = new Map<string, Promise<void>>();

  constructor(sockets: SharedSockets) {
    this.#sockets = sockets;
  }

  /** @param bundle the container's, which tells where its sockets are, as that of a container with a shim of its own does. */
  add(id: string, bundle: string): void {
    this.#after(id, async () => {
      const { socket, debugSocket } = this.#sockets;
      const [ours, debug] = this.#paths(id);
      await linkTo(socket, ours);
      if (debugSocket !== "") await linkTo(debugSocket, debug);
      await linkSocketDir(bundle, dirname(socket));
    });
  }

  remove(id: string): void {
    this.#after(id, async () => {
      for (const path of this.#paths(id)) await removeLink(path);
    });
  }

  /** Until what was asked for is done. */
  async settled(): Promise<void> {
    await Promise.all(this.#pending.values());
  }

  #paths(id: string): readonly [socket: string, debugSocket: string] {
    const { socket, daemonAddress, namespace } = this.#sockets;
    return pathsFor({ dir: dirname(socket), daemonAddress, namespace, id });
  }

  #after(id: string, work: () => Promise<void>): void {
    const done = this.#run(this.#pending.get(id), work);
    this.#pending.set(id, done);
    void this.#forget(id, done);
  }

  async #run(before: Promise<void> | undefined, work: () => Promise<void>): Promise<void> {
    await before;
    await work().catch(() => undefined);
  }

  async #forget(id: string, done: Promise<void>): Promise<void> {
    await done;
    if (this.#pending.get(id) === done) this.#pending.delete(id);
  }
}

/** Removes what a shared shim that died left for a container. The sockets themselves, its and others', stay. */
export async function removeLinks(name: SocketName): Promise<void> {
  for (const path of pathsFor(name)) await removeLink(path);
}

async function linkTo(target: string, path: string): Promise<void> {
  if (target === path) return;
  await removeLink(path);
  await symlink(target, path);
}

async function removeLink(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found?.isSymbolicLink() === true) await removeQuietly(path);
}
