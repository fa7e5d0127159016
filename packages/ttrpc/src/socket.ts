import { type ClassifiedError, classified } from "@stevedore/base";
import type { Socket, SocketHandler, UnixSocketListener } from "bun";
import type { Carrier, CarrierHandler, PeerCredentials } from "./carrier.ts";

/** Written bytes that wait for the other side before `write` asks its caller to wait too: 256 KiB, a few pipes' worth. */
const HIGH_WATER = 256 << 10;

/** Reads the credentials of the process at the other end of a connected unix socket (SO_PEERCRED). */
export type ReadCredentials = (fd: number) => PeerCredentials;

/** A unix socket as {@link Carrier}. Made by {@link connectUnix} and {@link listenUnix}. */
class SocketCarrier implements Carrier {
  readonly peer: PeerCredentials;
  readonly #socket: Socket<SocketState>;
  #handler: CarrierHandler | undefined;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #waiting: (() => void)[] = [];
  #early: Uint8Array[] = [];
  #ending = false;
  #closed = false;
  #closedBy: Error | undefined;

  constructor(socket: Socket<SocketState>, peer: PeerCredentials) {
    this.#socket = socket;
    this.peer = peer;
  }

  start(handler: CarrierHandler): void {
    this.#handler = handler;
    const early = this.#early;
    this.#early = [];
    for (const bytes of early) handler.data(bytes);
    if (this.#closed) handler.closed(this.#closedBy);
  }

  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#closed || this.#ending || bytes.byteLength === 0) return undefined;
    if (this.#queue.length === 0) {
      const sent = Math.max(0, this.#socket.write(bytes));
      if (sent === bytes.byteLength) return undefined;
      this.#enqueue(bytes.subarray(sent));
    } else {
      this.#enqueue(bytes);
    }
    if (this.#queuedBytes < HIGH_WATER) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  pause(): void {
    if (!this.#closed) this.#socket.pause();
  }

  resume(): void {
    if (!this.#closed) this.#socket.resume();
  }

  end(): void {
    this.#ending = true;
    if (this.#queue.length === 0 && !this.#closed) this.#socket.end();
  }

  destroy(): void {
    this.#ending = true;
    this.#queue = [];
    this.#queuedBytes = 0;
    if (!this.#closed) this.#socket.terminate();
  }

  /** From the socket: bytes arrived. */
  received(bytes: Uint8Array): void {
    if (this.#handler === undefined) this.#early.push(bytes);
    else this.#handler.data(bytes);
  }

  /** From the socket: there is room again. */
  drained(): void {
    for (;;) {
      const next = this.#queue[0];
      if (next === undefined) break;
      const sent = Math.max(0, this.#socket.write(next));
      this.#queuedBytes -= sent;
      if (sent < next.byteLength) {
        this.#queue[0] = next.subarray(sent);
        break;
      }
      this.#queue.shift();
    }
    if (this.#queuedBytes < HIGH_WATER) this.#wake();
    if (this.#queue.length === 0 && this.#ending && !this.#closed) this.#socket.end();
  }

  /** From the socket: it is closed. */
  ended(cause?: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#closedBy = cause;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#wake();
    this.#handler?.closed(cause);
  }

  #enqueue(bytes: Uint8Array): void {
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.byteLength;
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}

interface SocketState {
  carrier: SocketCarrier | undefined;
}

function socketHandlers(
  opened: (carrier: Carrier) => void,
  credentials: ReadCredentials | undefined,
): SocketHandler<SocketState> {
  return {
    open(socket) {
      // Each connection needs a state of its own: Bun hands the listener's `data` to every socket it accepts.
      const carrier = new SocketCarrier(socket, credentialsOf(socket, credentials));
      socket.data = { carrier };
      opened(carrier);
    },
    data(socket, bytes) {
      socket.data.carrier?.received(bytes);
    },
    drain(socket) {
      socket.data.carrier?.drained();
    },
    end(socket) {
      socket.data.carrier?.ended();
    },
    close(socket, cause) {
      socket.data.carrier?.ended(cause);
    },
    error(socket, cause) {
      socket.data.carrier?.ended(cause);
      socket.terminate();
    },
  };
}

function credentialsOf(socket: Socket<SocketState>, read: ReadCredentials | undefined): PeerCredentials {
  if (read === undefined) return {};
  // Bun's sockets have the descriptor, its type definitions do not.
  const fd: unknown = Reflect.get(socket, "fd");
  if (typeof fd !== "number" || fd < 0) throw classified("internal", "read peer credentials: socket has no descriptor");
  return read(fd);
}

/** How a connection is made. */
export interface ConnectOptions {
  readonly credentials?: ReadCredentials;
  readonly signal?: AbortSignal;
}

/**
 * Connects to a unix socket; a leading NUL or `@` names an abstract one.
 *
 * @throws unavailable when nobody listens there; canceled when the signal ends first.
 */
export async function connectUnix(path: string, options: ConnectOptions = {}): Promise<Carrier> {
  options.signal?.throwIfAborted();
  let made: Carrier | undefined;
  const handlers = socketHandlers((carrier) => {
    made = carrier;
  }, options.credentials);
  try {
    await Bun.connect<SocketState>({ unix: socketPath(path), data: { carrier: undefined }, socket: handlers });
  } catch (error) {
    throw dialError(path, error);
  }
  if (made === undefined) throw classified("unavailable", `dial unix ${path}: connection closed: unavailable`);
  if (options.signal?.aborted === true) {
    made.destroy();
    options.signal.throwIfAborted();
  }
  return made;
}

/** Words for errno, as a Go client prints a failed dial. */
const DIAL_TEXT: ReadonlyMap<string, string> = new Map([
  ["ENOENT", "no such file or directory"],
  ["ECONNREFUSED", "connection refused"],
  ["EACCES", "permission denied"],
  ["EAGAIN", "resource temporarily unavailable"],
]);

function dialError(path: string, cause: unknown): ClassifiedError {
  const code: unknown = typeof cause === "object" && cause !== null ? Reflect.get(cause, "code") : undefined;
  const text = (typeof code === "string" ? DIAL_TEXT.get(code) : undefined) ?? String(code ?? cause);
  return classified("unavailable", `dial unix ${path}: connect: ${text}: unavailable`, { cause });
}

/** A socket that accepts connections. */
export interface UnixListener {
  /** Stops accepting. Connections made before stay. */
  stop(): void;
}

/** What happens with accepted connections. */
export interface ListenOptions {
  readonly credentials?: ReadCredentials;
  /** Called for each connection, in the turn it was accepted. */
  readonly accept: (carrier: Carrier) => void;
}

/**
 * Listens on a unix socket; a leading NUL or `@` names an abstract one. The file, its mode and its removal are the
 * caller's business.
 */
export function listenUnix(path: string, options: ListenOptions): UnixListener {
  const listener: UnixSocketListener<SocketState> = Bun.listen<SocketState>({
    unix: socketPath(path),
    data: { carrier: undefined },
    socket: socketHandlers(options.accept, options.credentials),
  });
  return { stop: () => listener.stop(false) };
}

function socketPath(path: string): string {
  return path.startsWith("@") ? `\0${path.slice(1)}` : path;
}
