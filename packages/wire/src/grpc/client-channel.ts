import { ClassifiedError as Classified, type ClassifiedError, classified, withContext } from "@stevedore/base";
import type { TLSOptions } from "bun";
import { type ConnectTarget, connectBun } from "../h2/bun-channel.ts";
import type { ByteChannel } from "../h2/byte-channel.ts";
import { H2Connection } from "../h2/connection.ts";
import type { HeaderField } from "../h2/protocol.ts";
import { Metadata } from "../rpc/metadata.ts";
import type { CallOptions } from "../rpc/types.ts";
import { CallLimits, ClientCall, Unprocessed } from "./client-call.ts";
import { appendMetadata, formatTimeout } from "./headers.ts";
import { Budget } from "./inlet.ts";
import { MAX_BUFFERED, MAX_MESSAGE, MAX_WAITING_CALLS } from "./limits.ts";

export interface ChannelOptions {
  /**
   * Where the server is: a path, `unix:///path`, `unix:path`, `unix-abstract:name`, or `host:port`. May be left out
   * when `connect` is given.
   */
  readonly address?: string;
  /** Makes the connection in another way. Rejects with unavailable. */
  readonly connect?: () => Promise<ByteChannel>;
  /** For TCP addresses. */
  readonly tls?: TLSOptions;
  /** The `:authority` header. Default: `localhost` for unix sockets, else the address. */
  readonly authority?: string;
  readonly userAgent?: string;
  /** Largest response message, in bytes. */
  readonly maxReceiveBytes?: number;
  /** Largest request message, in bytes. */
  readonly maxSendBytes?: number;
  /** Time a connection may take, in milliseconds. Default 20 s, as grpc-go's. */
  readonly connectTimeoutMs?: number;
  /** Pings a connection with open calls every `timeMs`, and gives it up when no answer comes in `timeoutMs`. */
  readonly keepalive?: { readonly timeMs: number; readonly timeoutMs: number };
}

const CONNECT_TIMEOUT_MS = 20_000;

const METHOD_POST: HeaderField = [":method", "POST"];
const TE: HeaderField = ["te", "trailers"];
const CONTENT_TYPE: HeaderField = ["content-type", "application/grpc"];

/**
 * Calls of bytes over one connection at a time: made with the first call, and anew with the first after it broke or the
 * server said goodbye. A call the server has certainly not begun is made once more by itself.
 */
export class GrpcChannel {
  readonly #options: ChannelOptions;
  readonly #connect: () => Promise<ByteChannel>;
  readonly #fixed: readonly HeaderField[];
  readonly #userAgent: HeaderField;
  readonly #budget = new Budget(MAX_BUFFERED);
  readonly #calls = new Set<CallLimits>();
  #ready: ClientConnection | undefined;
  #connecting: Promise<ClientConnection> | undefined;
  #closed: ClassifiedError | undefined;

  constructor(options: ChannelOptions) {
    this.#options = options;
    const target = options.address === undefined ? undefined : parseAddress(options.address, options.tls);
    if (options.connect !== undefined) this.#connect = options.connect;
    else if (target !== undefined) this.#connect = () => connectTo(target);
    else throw classified("invalid-argument", "make grpc channel: neither address nor connect given");
    const authority = options.authority ?? (target?.kind === "tcp" ? `${target.host}:${target.port}` : "localhost");
    const secure = target?.kind === "tcp" && target.tls !== undefined;
    this.#fixed = [
      [":scheme", secure ? "https" : "http"],
      [":authority", authority],
    ];
    this.#userAgent = ["user-agent", options.userAgent ?? "stevedore"];
  }

  /** One message there, one back. @throws as every {@link Transport} does. */
  async unary(path: string, request: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    const limits = this.#limits(options);
    try {
      return await this.#unaryOnce(path, request, options, limits);
    } catch (error) {
      if (!(error instanceof Unprocessed)) throw error;
      return await this.#unaryOnce(path, request, options, limits).catch((again: unknown) => {
        throw again instanceof Unprocessed ? again.error : again;
      });
    } finally {
      this.#free(limits);
    }
  }

  async #unaryOnce(path: string, request: Uint8Array, options: CallOptions, limits: CallLimits): Promise<Uint8Array> {
    // In the turn of the headers, so that both leave in one write. Nobody waits for the queue of a single message.
    const call = await this.#open(path, options, limits, (made) => void made.send(request, true));
    try {
      const { messages } = call;
      const first = await messages.next();
      if (first.done === true) throw classified("internal", "server answered without a message");
      const rest = await messages.next();
      if (rest.done !== true) throw classified("internal", "server answered a unary call with several messages");
      return first.value;
    } finally {
      call.cancel(classified("canceled", "context canceled"));
    }
  }

  /**
   * Messages both ways. The call starts with the first `next()`; leaving the loop early cancels it; when the server
   * ends it before it has read all, `requests` is ended by `return()`.
   */
  async *stream(
    path: string,
    requests: AsyncIterable<Uint8Array>,
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array> {
    const limits = this.#limits(options);
    let call: ClientCall | undefined;
    try {
      call = await this.#open(path, options, limits);
      void sendAll(call, requests);
      for (;;) {
        const next = await call.messages.next();
        if (next.done === true) return;
        yield next.value;
      }
    } catch (error) {
      throw error instanceof Unprocessed ? error.error : error;
    } finally {
      call?.cancel(classified("canceled", "context canceled"));
      this.#free(limits);
    }
  }

  /** Ends running calls with unavailable. */
  close(): void {
    if (this.#closed !== undefined) return;
    this.#closed = classified("unavailable", "transport closed: unavailable");
    for (const limits of this.#calls) limits.end(this.#closed);
    this.#ready?.connection.end();
    this.#ready = undefined;
    void this.#connecting?.then(
      (made) => made.connection.end(),
      () => undefined,
    );
  }

  #limits(options: CallOptions): CallLimits {
    if (this.#closed !== undefined) throw this.#closed;
    const limits = new CallLimits(options);
    this.#calls.add(limits);
    return limits;
  }

  #free(limits: CallLimits): void {
    limits.free();
    this.#calls.delete(limits);
  }

  async #open(
    path: string,
    options: CallOptions,
    limits: CallLimits,
    begin?: (call: ClientCall) => void,
  ): Promise<ClientCall> {
    if (limits.reason !== undefined) throw limits.reason;
    let ready = this.#ready;
    if (ready === undefined || !ready.connection.usable) ready = await this.#within(limits, this.#connection());
    while (!ready.connection.hasCapacity) {
      await this.#within(limits, ready.capacity());
      if (!ready.connection.usable) ready = await this.#within(limits, this.#connection());
    }
    const { connection } = ready;
    const fields = this.#headers(path, options, limits);
    const call = new ClientCall({
      open: (handler) => connection.request(fields, handler),
      call: options,
      budget: this.#budget,
      maxReceive: this.#options.maxReceiveBytes ?? MAX_MESSAGE,
      maxSend: this.#options.maxSendBytes ?? Number.POSITIVE_INFINITY,
    });
    limits.onEnd((reason) => call.cancel(reason));
    try {
      begin?.(call);
    } catch (error) {
      call.cancel(toClassified(error));
    }
    return call;
  }

  #headers(path: string, options: CallOptions, limits: CallLimits): HeaderField[] {
    const fields: HeaderField[] = [METHOD_POST, ...this.#fixed, [":path", path], CONTENT_TYPE, TE, this.#userAgent];
    if (limits.until !== Number.POSITIVE_INFINITY) {
      fields.push(["grpc-timeout", formatTimeout(limits.until - performance.now())]);
    }
    if (options.metadata !== undefined) {
      const { metadata } = options;
      appendMetadata(fields, metadata instanceof Metadata ? metadata : Metadata.from(metadata));
    }
    return fields;
  }

  /** `work`, or the reason of the call's end when that comes first. */
  async #within<T>(limits: CallLimits, work: Promise<T>): Promise<T> {
    const ended = Promise.withResolvers<never>();
    limits.onEnd((reason) => ended.reject(reason));
    ended.promise.catch(() => undefined);
    work.catch(() => undefined);
    return Promise.race([work, ended.promise]);
  }

  async #connection(): Promise<ClientConnection> {
    if (this.#ready?.connection.usable === true) return this.#ready;
    this.#ready = undefined;
    this.#connecting ??= this.#dial().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #dial(): Promise<ClientConnection> {
    const limitMs = this.#options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
    const channel = await inTime(this.#connect(), limitMs);
    if (this.#closed !== undefined) {
      channel.destroy();
      throw this.#closed;
    }
    const made = new ClientConnection(channel, {
      keepalive: this.#options.keepalive,
      // Somebody who takes the connection and says nothing is no server.
      handshakeMs: limitMs,
      closed: () => {
        if (this.#ready === made) this.#ready = undefined;
      },
    });
    this.#ready = made;
    return made;
  }
}

/** One connection with who waits for room on it, and its keepalive. */
class ClientConnection {
  readonly connection: H2Connection;
  #waiting: PromiseWithResolvers<void>[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    channel: ByteChannel,
    options: {
      readonly keepalive: ChannelOptions["keepalive"];
      readonly handshakeMs: number;
      readonly closed: () => void;
    },
  ) {
    const { keepalive, handshakeMs, closed } = options;
    this.connection = new H2Connection(channel, {
      role: "client",
      handshakeMs,
      handler: {
        capacity: () => this.#wake(),
        goaway: () => this.#wake(),
        closed: () => {
          clearTimeout(this.#timer);
          closed();
          this.#wake();
        },
      },
    });
    if (keepalive !== undefined) this.#keepAlive(keepalive);
  }

  /** Settles when there may be room for another call, or no more room ever. */
  capacity(): Promise<void> {
    if (this.#waiting.length >= MAX_WAITING_CALLS) {
      return Promise.reject(
        classified("resource-exhausted", `more than ${MAX_WAITING_CALLS} calls wait for the server`),
      );
    }
    const waiting = Promise.withResolvers<void>();
    this.#waiting.push(waiting);
    return waiting.promise;
  }

  #wake(): void {
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const each of waiting) each.resolve();
  }

  #keepAlive(keepalive: { readonly timeMs: number; readonly timeoutMs: number }): void {
    this.#timer = setTimeout(() => {
      if (this.connection.streamCount === 0) return this.#keepAlive(keepalive);
      this.#timer = setTimeout(
        () => this.connection.end(0, "keepalive ping failed to receive ACK within timeout"),
        keepalive.timeoutMs,
      );
      this.connection.ping(() => {
        clearTimeout(this.#timer);
        if (this.connection.open) this.#keepAlive(keepalive);
      });
    }, keepalive.timeMs);
    this.#timer.unref();
  }
}

async function sendAll(call: ClientCall, requests: AsyncIterable<Uint8Array>): Promise<void> {
  const iterator = requests[Symbol.asyncIterator]();
  let ended = false;
  // A source that waits for something else than us must not hold the iterator when the call is over.
  void call.over.then(() => {
    if (!ended) return iterator.return?.().catch(() => undefined);
    return undefined;
  });
  try {
    for (;;) {
      const next = await iterator.next();
      if (call.done) return;
      if (next.done === true) {
        ended = true;
        return call.closeSend();
      }
      const wait = call.send(next.value, false);
      if (wait !== undefined) await wait;
    }
  } catch (error) {
    ended = true;
    call.cancel(toClassified(error));
    await iterator.return?.().catch(() => undefined);
  }
}

/** The requests of a stream failed at their source: the caller gets that error, with its class if it has one. */
function toClassified(error: unknown): ClassifiedError {
  return error instanceof Classified ? error : withContext("send request", error);
}

async function inTime(work: Promise<ByteChannel>, ms: number): Promise<ByteChannel> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(classified("unavailable", 'connection error: desc = "transport: Error while dialing: timeout"')),
      ms,
    );
  });
  try {
    return await Promise.race([work, late]);
  } catch (error) {
    void work.then(
      (channel) => channel.destroy(),
      () => undefined,
    );
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

// Bun's own sockets start faster; Node has only node:net.
async function connectTo(target: ConnectTarget): Promise<ByteChannel> {
  if (process.versions["bun"] !== undefined) return connectBun(target);
  const { connectNode } = await import("../h2/node-channel.ts");
  return connectNode(target);
}

/** @throws invalid-argument for what is no address. */
export function parseAddress(address: string, tls?: TLSOptions): ConnectTarget {
  if (address.startsWith("/") || address.startsWith("@")) return { kind: "unix", path: address };
  if (address.startsWith("unix:///")) return { kind: "unix", path: address.slice("unix://".length) };
  if (address.startsWith("unix:")) return { kind: "unix", path: address.slice("unix:".length) };
  if (address.startsWith("unix-abstract:")) return { kind: "unix", path: `@${address.slice("unix-abstract:".length)}` };
  const tcp = /^(?:(?:tcp|dns):\/{0,3})?(\[[0-9a-fA-F:.]+\]|[^:/[\]]+):(\d{1,5})$/.exec(address);
  const [, host, port] = tcp ?? [];
  if (host === undefined || port === undefined || Number(port) > 65_535) {
    throw classified(
      "invalid-argument",
      `parse grpc address ${JSON.stringify(address)}: neither a unix socket nor host:port`,
    );
  }
  const bare = host.startsWith("[") ? host.slice(1, -1) : host;
  return { kind: "tcp", host: bare, port: Number(port), ...(tls === undefined ? {} : { tls }) };
}
