import { chmod, chown, mkdir, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { classified, createLogger, type Logger } from "@stevedore/base";
import type { TLSOptions } from "bun";
import { type Listener, listenTcp, listenUnix, type ReadCredentials } from "../h2/bun-channel.ts";
import type { ByteChannel } from "../h2/byte-channel.ts";
import { H2Connection } from "../h2/connection.ts";
import { MAX_CONCURRENT_STREAMS } from "../h2/limits.ts";
import type { H2Stream } from "../h2/stream.ts";
import type { Router } from "../rpc/router.ts";
import type { Peer } from "../rpc/types.ts";
import { Budget } from "./inlet.ts";
import { MAX_BUFFERED, MAX_CONNECTIONS, MAX_MESSAGE } from "./limits.ts";
import { type CallEnvironment, type CallObserver, ServerCall } from "./server-call.ts";

export { type CallObserver, type CallWatch, type ObservedEnd, observeWith } from "./server-call.ts";

/** Limits of a server; each has its default beside `limits.ts`. */
export interface GrpcLimits {
  /** Largest request message, in bytes. */
  readonly maxReceiveBytes: number;
  /** Largest response message, in bytes. */
  readonly maxSendBytes: number;
  /** Calls open on one connection; handlers that still run after their call ended count too. */
  readonly maxConcurrentStreams: number;
  /** Bytes of requests one connection may hold that no handler has taken. */
  readonly maxBufferedBytes: number;
  readonly maxConnections: number;
}

export interface GrpcServerOptions {
  readonly router: Router;
  readonly limits?: Partial<GrpcLimits>;
  /** Reads SO_PEERCRED of a unix socket's descriptor; without it `peer` is empty. */
  readonly credentials?: ReadCredentials;
  /** Called once a connection; false closes it before its first byte is looked at. Default: all may come. */
  readonly authorize?: (peer: Peer) => boolean;
  readonly observer?: CallObserver;
  readonly log?: Logger;
}

export interface UnixOptions {
  /** Mode of the socket file. Default 0o660, the peer's. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
}

export interface TcpOptions {
  readonly host: string;
  /** 0 for any free one. */
  readonly port: number;
  readonly tls?: TLSOptions;
}

/** Serves gRPC over HTTP/2 on any number of sockets. */
export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  return new GrpcServer(options);
}

export class GrpcServer {
  readonly #router: Router;
  readonly #limits: GrpcLimits;
  readonly #credentials: ReadCredentials | undefined;
  readonly #authorize: ((peer: Peer) => boolean) | undefined;
  readonly #observer: CallObserver | undefined;
  readonly #log: Logger;
  readonly #listeners: Listener[] = [];
  readonly #paths: string[] = [];
  readonly #connections = new Set<ServerConnection>();
  #stopping: Promise<void> | undefined;
  #idle: PromiseWithResolvers<void> | undefined;

  constructor(options: GrpcServerOptions) {
    this.#router = options.router;
    this.#limits = {
      maxReceiveBytes: MAX_MESSAGE,
      maxSendBytes: MAX_MESSAGE,
      maxConcurrentStreams: MAX_CONCURRENT_STREAMS,
      maxBufferedBytes: MAX_BUFFERED,
      maxConnections: MAX_CONNECTIONS,
      ...options.limits,
    };
    this.#credentials = options.credentials;
    this.#authorize = options.authorize;
    this.#observer = options.observer;
    this.#log = options.log ?? createLogger();
  }

  /** Open connections. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /**
   * Listens on a unix socket. As the peer does, what stands in the socket's place is removed first and missing folders
   * are made; the caller has made sure that no other daemon uses the path.
   *
   * @throws unavailable when the socket cannot be made.
   */
  async serveUnix(path: string, options: UnixOptions = {}): Promise<void> {
    const abstract = path.startsWith("@");
    if (!abstract) {
      await mkdir(dirname(path), { recursive: true, mode: 0o770 });
      await unlink(path).catch((error: unknown) => {
        if (!isMissing(error)) throw error;
      });
    }
    const listener = this.#listen(path, () =>
      listenUnix(path, {
        accept: (channel) => this.serveChannel(channel),
        ...(this.#credentials === undefined ? {} : { credentials: this.#credentials }),
      }),
    );
    if (abstract) return;
    try {
      await chmod(path, options.mode ?? 0o660);
      if (options.uid !== undefined || options.gid !== undefined) {
        await chown(path, options.uid ?? -1, options.gid ?? -1);
      }
      this.#paths.push(path);
    } catch (error) {
      listener.stop();
      throw error;
    }
  }

  /** Listens on TCP. Returns the port. */
  async serveTcp(options: TcpOptions): Promise<{ readonly port: number }> {
    const where = `${options.host}:${options.port}`;
    const listener = this.#listen(where, () =>
      listenTcp({ ...options, accept: (channel) => this.serveChannel(channel) }),
    );
    return { port: listener.port ?? options.port };
  }

  /** Serves one connection that was made elsewhere. */
  serveChannel(channel: ByteChannel): void {
    if (this.#stopping !== undefined || this.#connections.size >= this.#limits.maxConnections) {
      channel.destroy();
      return;
    }
    if (this.#authorize?.(channel.peer) === false) {
      this.#log.warn("refused a connection", { peer: channel.peer });
      channel.destroy();
      return;
    }
    const connection = new ServerConnection(channel, {
      router: this.#router,
      limits: this.#limits,
      observer: this.#observer,
      closed: (cause) => {
        if (cause !== undefined) this.#log.debug("connection ended", { error: cause.message });
        this.#connections.delete(connection);
        if (this.#connections.size === 0) this.#idle?.resolve();
      },
    });
    this.#connections.add(connection);
  }

  /**
   * Stops listening and ends all connections. Calls get `graceMs` milliseconds to end by themselves, without it none:
   * their signals abort with unavailable and the connections close at once. May be called again to shorten a grace.
   */
  async stop(options: { readonly graceMs?: number } = {}): Promise<void> {
    const graceMs = options.graceMs ?? 0;
    if (this.#stopping !== undefined) {
      if (graceMs === 0) this.#closeAll();
      return this.#stopping;
    }
    this.#stopping = this.#stop(graceMs);
    return this.#stopping;
  }

  async #stop(graceMs: number): Promise<void> {
    for (const listener of this.#listeners.splice(0)) listener.stop();
    for (const path of this.#paths.splice(0)) await unlink(path).catch(() => undefined);
    if (this.#connections.size === 0) return;
    this.#idle = Promise.withResolvers();
    let timer: ReturnType<typeof setTimeout> | undefined;
    if (graceMs > 0) {
      for (const connection of this.#connections) connection.shutDown();
      timer = setTimeout(() => this.#closeAll(), graceMs);
    } else this.#closeAll();
    await this.#idle.promise;
    clearTimeout(timer);
  }

  #closeAll(): void {
    for (const connection of this.#connections) connection.end();
  }

  #listen(where: string, listen: () => Listener): Listener {
    if (this.#stopping !== undefined) throw classified("unavailable", `listen on ${where}: server is stopped`);
    let listener: Listener;
    try {
      listener = listen();
    } catch (cause) {
      throw classified("unavailable", `listen on ${where}: ${cause instanceof Error ? cause.message : String(cause)}`, {
        cause,
      });
    }
    this.#listeners.push(listener);
    return listener;
  }
}

class ServerConnection {
  readonly #connection: H2Connection;
  readonly #environment: CallEnvironment;
  readonly #max: number;
  #running = 0;

  constructor(
    channel: ByteChannel,
    options: {
      readonly router: Router;
      readonly limits: GrpcLimits;
      readonly observer: CallObserver | undefined;
      readonly closed: (cause: Error | undefined) => void;
    },
  ) {
    const { limits } = options;
    this.#max = limits.maxConcurrentStreams;
    this.#environment = {
      router: options.router,
      peer: channel.peer,
      budget: new Budget(limits.maxBufferedBytes),
      maxReceive: limits.maxReceiveBytes,
      maxSend: limits.maxSendBytes,
      observer: options.observer,
      running: () => {
        this.#running++;
        return () => this.#running--;
      },
    };
    this.#connection = new H2Connection(channel, {
      role: "server",
      maxConcurrentStreams: limits.maxConcurrentStreams,
      handler: {
        opened: (stream) => this.#opened(stream),
        closed: (cause) => options.closed(cause),
      },
    });
  }

  shutDown(): void {
    this.#connection.shutDown();
  }

  end(): void {
    this.#connection.end();
  }

  // A handler outlives its stream when the client has reset that: such calls still count.
  #opened(stream: H2Stream): void {
    if (this.#running < this.#max) stream.handler = new ServerCall(stream, this.#environment);
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
