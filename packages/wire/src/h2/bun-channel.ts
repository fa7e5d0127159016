import { type ClassifiedError, classified, messageOf } from "@stevedore/base";
import type { Socket, SocketHandler, TCPSocketListener, TLSOptions, UnixSocketListener } from "bun";
import type { Peer } from "../rpc/types.ts";
import type { ByteChannel, ChannelHandler } from "./byte-channel.ts";

/** Reads the credentials of the process at the other end of a connected unix socket (SO_PEERCRED). */
export type ReadCredentials = (fd: number) => Peer;

/** A socket of Bun as {@link ByteChannel}. */
class BunChannel implements ByteChannel {
  readonly peer: Peer;
  readonly #socket: Socket<ChannelState>;
  #handler: ChannelHandler | undefined;
  #early: Uint8Array[] = [];
  #closed = false;
  #cause: Error | undefined;

  constructor(socket: Socket<ChannelState>, peer: Peer) {
    this.#socket = socket;
    this.peer = peer;
  }

  start(handler: ChannelHandler): void {
    this.#handler = handler;
    const early = this.#early;
    this.#early = [];
    for (const bytes of early) handler.data(bytes);
    if (this.#closed) handler.closed(this.#cause);
  }

  write(bytes: Uint8Array): number {
    return this.#closed ? 0 : Math.max(0, this.#socket.write(bytes));
  }

  end(): void {
    if (!this.#closed) this.#socket.end();
  }

  destroy(): void {
    if (!this.#closed) this.#socket.terminate();
  }

  /** From the socket. */
  received(bytes: Uint8Array): void {
    if (this.#handler === undefined) this.#early.push(bytes);
    else this.#handler.data(bytes);
  }

  /** From the socket. */
  drained(): void {
    this.#handler?.drained();
  }

  /** From the socket. */
  ended(cause?: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#cause = cause;
    this.#handler?.closed(cause);
  }
}

interface ChannelState {
  channel: BunChannel | undefined;
}

function handlers(
  opened: (channel: ByteChannel) => void,
  credentials: ReadCredentials | undefined,
): SocketHandler<ChannelState> {
  return {
    open(socket) {
      const channel = new BunChannel(socket, credentialsOf(socket, credentials));
      // Bun hands the listener's `data` to every socket it accepts: each needs its own.
      socket.data = { channel };
      opened(channel);
    },
    data(socket, bytes) {
      socket.data.channel?.received(bytes);
    },
    drain(socket) {
      socket.data.channel?.drained();
    },
    end(socket) {
      socket.data.channel?.ended();
      socket.end();
    },
    close(socket, cause) {
      socket.data.channel?.ended(cause);
    },
    error(socket, cause) {
      socket.data.channel?.ended(cause);
      socket.terminate();
    },
  };
}

function credentialsOf(socket: Socket<ChannelState>, read: ReadCredentials | undefined): Peer {
  if (read === undefined) return {};
  // Bun's sockets have the descriptor, its type definitions do not.
  const fd: unknown = Reflect.get(socket, "fd");
  if (typeof fd !== "number" || fd < 0) throw classified("internal", "read peer credentials: socket has no descriptor");
  return read(fd);
}

export interface Listener {
  /** The port of a TCP listener. */
  readonly port?: number;
  /** Stops accepting. Connections made before stay. */
  stop(): void;
}

export interface ListenOptions {
  readonly credentials?: ReadCredentials;
  /** Called for each connection, in the turn it was accepted. */
  readonly accept: (channel: ByteChannel) => void;
}

/** Listens on a unix socket; a leading `@` names an abstract one. File, mode and removal are the caller's business. */
export function listenUnix(path: string, options: ListenOptions): Listener {
  const listener: UnixSocketListener<ChannelState> = Bun.listen<ChannelState>({
    unix: socketPath(path),
    data: { channel: undefined },
    socket: handlers(options.accept, options.credentials),
  });
  return { stop: () => listener.stop(false) };
}

export interface TcpListenOptions extends ListenOptions {
  readonly host: string;
  /** 0 for any free one. */
  readonly port: number;
  readonly tls?: TLSOptions;
}

/** Listens on TCP, with TLS when `tls` is given. */
export function listenTcp(options: TcpListenOptions): Listener {
  const listener: TCPSocketListener<ChannelState> = Bun.listen<ChannelState>({
    hostname: options.host,
    port: options.port,
    data: { channel: undefined },
    socket: handlers(options.accept, undefined),
    ...(options.tls === undefined ? {} : { tls: { ALPNProtocols: ALPN_H2, ...options.tls } }),
  });
  return { port: listener.port, stop: () => listener.stop(false) };
}

/** The protocol list of ALPN that holds `h2` alone: length and name. */
const ALPN_H2 = Buffer.from("\x02h2", "latin1");

export type ConnectTarget =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number; readonly tls?: TLSOptions };

/** @throws unavailable when nobody answers there, in the words of a Go client. */
export async function connectBun(target: ConnectTarget): Promise<ByteChannel> {
  const opened = Promise.withResolvers<ByteChannel>();
  opened.promise.catch(() => undefined);
  const secure = target.kind === "tcp" && target.tls !== undefined;
  const base = handlers((channel) => {
    if (!secure) opened.resolve(channel);
  }, undefined);
  const socket: SocketHandler<ChannelState> = {
    ...base,
    connectError: (_socket, error) => opened.reject(error),
    close(closed, cause) {
      opened.reject(cause ?? new Error("connection closed"));
      return base.close?.(closed, cause);
    },
  };
  if (secure) {
    socket.handshake = ({ data }, success, cause) => {
      if (success && data.channel !== undefined) opened.resolve(data.channel);
      else opened.reject(new Error(`authentication handshake failed: ${cause?.message ?? "connection closed"}`));
    };
  }
  try {
    const data: ChannelState = { channel: undefined };
    const connecting =
      target.kind === "unix"
        ? Bun.connect<ChannelState>({ unix: socketPath(target.path), data, socket })
        : Bun.connect<ChannelState>({
            hostname: target.host,
            port: target.port,
            data,
            socket,
            ...(target.tls === undefined ? {} : { tls: { ALPNProtocols: ALPN_H2, ...target.tls } }),
          });
    await connecting;
    return await opened.promise;
  } catch (error) {
    throw dialError(target, error);
  }
}

/** Words for errno, as a Go client prints a failed dial. */
const DIAL_TEXT: ReadonlyMap<string, string> = new Map([
  ["ENOENT", "no such file or directory"],
  ["ECONNREFUSED", "connection refused"],
  ["EACCES", "permission denied"],
  ["EAGAIN", "resource temporarily unavailable"],
  ["ETIMEDOUT", "connection timed out"],
  ["EHOSTUNREACH", "no route to host"],
]);

/** The error of a connection that could not be made. */
export function dialError(target: ConnectTarget, cause: unknown): ClassifiedError {
  const code: unknown = typeof cause === "object" && cause !== null ? Reflect.get(cause, "code") : undefined;
  const text = (typeof code === "string" ? DIAL_TEXT.get(code) : undefined) ?? messageOf(cause);
  const where = target.kind === "unix" ? `unix ${target.path}` : `tcp ${target.host}:${target.port}`;
  return classified(
    "unavailable",
    `connection error: desc = "transport: Error while dialing: dial ${where}: connect: ${text}"`,
    { cause },
  );
}

function socketPath(path: string): string {
  return path.startsWith("@") ? `\0${path.slice(1)}` : path;
}
