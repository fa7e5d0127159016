import { type ClassifiedError, classified, createLogger, type Logger, messageOf } from "@stevedore/base";
import type { Carrier, PeerCredentials } from "./carrier.ts";
import {
  encodeFrame,
  Flag,
  type Frame,
  FrameDecoder,
  FrameType,
  MAX_PAYLOAD,
  type OversizedFrame,
  oversizedMessage,
} from "./frame.ts";
import { MessageQueue } from "./message-queue.ts";
import { decodeRequest, encodeResponse, type MetadataPair, type Request } from "./request.ts";
import { Code, OK, type Status, statusOf } from "./status.ts";

/** What a method knows of its call beside the payload. */
export interface ServerCall {
  readonly service: string;
  readonly method: string;
  /** As the client sent it: keys in its case, in order. */
  readonly metadata: readonly MetadataPair[];
  /**
   * Aborts when the connection ends, the deadline passes or the server closes; the reason is a ClassifiedError. ttrpc
   * has no message for a client's cancel, so that alone is not seen.
   */
  readonly signal: AbortSignal;
  /** When the client stops waiting; absent when it set no limit. */
  readonly deadline?: Date;
  readonly peer: PeerCredentials;
}

/** A method with one request and one answer. */
export interface UnaryMethod {
  readonly kind: "unary";
  /** Takes the request message's bytes, which may share memory with a read buffer, and gives the response's. */
  call(payload: Uint8Array, call: ServerCall): Promise<Uint8Array>;
}

/** A method of which at least one side streams. */
export interface StreamMethod {
  readonly kind: "stream";
  /** Whether the client sends any number of messages, or exactly one. */
  readonly clientStreams: boolean;
  /** Whether the server sends any number of messages, or exactly one. */
  readonly serverStreams: boolean;
  call(requests: AsyncIterable<Uint8Array>, call: ServerCall): AsyncIterable<Uint8Array>;
}

/** A method of either kind. */
export type Method = UnaryMethod | StreamMethod;

/** How a server treats its connections. */
export interface ServerOptions {
  /** Refuses a connection when it answers false; see {@link sameUser}. Absent: every connection is served. */
  readonly authorize?: (peer: PeerCredentials) => boolean;
  /** Calls that may run on one connection at a time; more are answered with resource-exhausted. */
  readonly maxCalls?: number;
  readonly log?: Logger;
}

/**
 * Calls at a time on one connection. A daemon holds one Wait per process of each container; 4,096 is far above what a
 * shared shim can have, and bounds what a broken client can pile up.
 */
const DEFAULT_MAX_CALLS = 4096;

/** Messages that wait for a streaming method before the connection is paused; as in the peer. */
const STREAM_QUEUE = 64;

/** Milliseconds a connection stays paused for one slow stream before that stream is given up; as in the peer. */
const STREAM_FULL_MS = 1000;

/**
 * A ttrpc server: methods by service and name, over any number of connections. It listens to nothing itself; hand it
 * each connection with {@link Server.serve}.
 */
export class Server implements AsyncDisposable {
  readonly #services = new Map<string, ReadonlyMap<string, Method>>();
  readonly #connections = new Set<ServerConnection>();
  readonly #options: ServerOptions;
  readonly #log: Logger;
  #closing = false;
  #drained: PromiseWithResolvers<void> | undefined;

  constructor(options: ServerOptions = {}) {
    this.#options = options;
    this.#log = options.log ?? createLogger();
  }

  /**
   * Adds a service.
   *
   * @throws already-exists when one of that name was added before.
   */
  register(service: string, methods: Readonly<Record<string, Method>>): this {
    if (this.#services.has(service)) {
      throw classified("already-exists", `add service ${JSON.stringify(service)}: already exists`);
    }
    this.#services.set(service, new Map(Object.entries(methods)));
    return this;
  }

  /** Serves a connection until it ends; the server owns it from here. Refused ones are closed at once. */
  serve(carrier: Carrier): void {
    if (this.#closing) {
      carrier.destroy();
      return;
    }
    if (this.#options.authorize !== undefined && !this.#options.authorize(carrier.peer)) {
      this.#log.error("ttrpc: refusing connection after handshake", { peer: carrier.peer });
      carrier.destroy();
      return;
    }
    const connection = new ServerConnection(carrier, {
      find: (service, method) => this.#find(service, method),
      maxCalls: this.#options.maxCalls ?? DEFAULT_MAX_CALLS,
      log: this.#log,
      idle: () => {
        if (this.#closing) connection.end();
      },
      closed: () => {
        this.#connections.delete(connection);
        if (this.#connections.size === 0) this.#drained?.resolve();
      },
    });
    this.#connections.add(connection);
    connection.start();
  }

  /** Connections that are open. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Calls that run, over all connections. */
  get calls(): number {
    let calls = 0;
    for (const connection of this.#connections) calls += connection.calls;
    return calls;
  }

  /**
   * Takes no more connections, closes idle ones, and waits for the calls of the others; answers given before are
   * sent. When `signal` aborts, what is left is closed as by {@link Server.close}.
   */
  async shutdown(signal?: AbortSignal): Promise<void> {
    this.#closing = true;
    if (this.#connections.size === 0) return;
    this.#drained ??= Promise.withResolvers();
    const giveUp = (): void => this.close();
    signal?.addEventListener("abort", giveUp, { once: true });
    try {
      if (signal?.aborted === true) giveUp();
      for (const connection of this.#connections) if (connection.calls === 0) connection.end();
      await this.#drained.promise;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
  }

  /** Closes every connection at once; running calls are aborted. May be called twice. */
  close(): void {
    this.#closing = true;
    for (const connection of this.#connections) connection.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #find(service: string, method: string): Method | string {
    const methods = this.#services.get(service);
    if (methods === undefined) return `service ${service}`;
    return methods.get(method) ?? `method ${method}`;
  }
}

/**
 * An `authorize` that admits only processes of the given user and group, as the peer's shims do.
 *
 * @param own ids of this process, from geteuid and getegid.
 */
export function sameUser(own: { readonly uid: number; readonly gid: number }): (peer: PeerCredentials) => boolean {
  return (peer) => peer.uid === own.uid && peer.gid === own.gid;
}

interface ConnectionOwner {
  /** The method, or what to say when there is none. */
  readonly find: (service: string, method: string) => Method | string;
  readonly maxCalls: number;
  readonly log: Logger;
  /** The last running call has been answered. */
  readonly idle: () => void;
  readonly closed: () => void;
}

class ServerConnection {
  readonly #carrier: Carrier;
  readonly #owner: ConnectionOwner;
  readonly #decoder: FrameDecoder;
  readonly #calls = new Map<number, RunningCall>();
  #lastStreamId = 0;
  #pauses = 0;
  #closed = false;

  constructor(carrier: Carrier, owner: ConnectionOwner) {
    this.#carrier = carrier;
    this.#owner = owner;
    this.#decoder = new FrameDecoder({
      frame: (frame) => this.#frame(frame),
      oversized: (frame) => this.#oversized(frame),
    });
  }

  get calls(): number {
    return this.#calls.size;
  }

  start(): void {
    this.#carrier.start({
      data: (bytes) => {
        if (!this.#closed) this.#decoder.push(bytes);
      },
      closed: () => this.#ended(),
    });
  }

  end(): void {
    this.#carrier.end();
  }

  destroy(): void {
    this.#carrier.destroy();
    this.#ended();
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    const reason = classified("canceled", "context canceled");
    for (const call of this.#calls.values()) call.abort(reason);
    this.#calls.clear();
    this.#owner.closed();
  }

  #oversized(frame: OversizedFrame): void {
    this.#refuse(frame.streamId, Code.resourceExhausted, oversizedMessage(frame.length));
  }

  #frame(frame: Frame): void {
    if (frame.streamId % 2 !== 1) {
      this.#refuse(frame.streamId, Code.invalidArgument, "StreamID must be odd for client initiated streams");
      return;
    }
    // Frames of other types are left unread, for the protocol may grow.
    if (frame.type === FrameType.data) this.#data(frame);
    else if (frame.type === FrameType.request) this.#request(frame);
  }

  #data(frame: Frame): void {
    const queue = this.#calls.get(frame.streamId)?.queue;
    if (queue === undefined) {
      this.#refuse(frame.streamId, Code.invalidArgument, "StreamID is no longer active");
      return;
    }
    if ((frame.flags & Flag.noData) === 0) {
      if (queue.ended) {
        this.#refuse(frame.streamId, Code.invalidArgument, "data handling error: ttrpc: stream closed");
        return;
      }
      queue.push(frame.payload);
      if (queue.length >= STREAM_QUEUE) this.#calls.get(frame.streamId)?.full();
    }
    if ((frame.flags & Flag.remoteClosed) !== 0) queue.end();
  }

  #request(frame: Frame): void {
    const { streamId } = frame;
    if (streamId <= this.#lastStreamId) {
      this.#refuse(streamId, Code.invalidArgument, "StreamID cannot be re-used and must increment");
      return;
    }
    this.#lastStreamId = streamId;
    let request: Request;
    try {
      request = decodeRequest(frame.payload);
    } catch (error) {
      this.#refuse(streamId, Code.invalidArgument, `unmarshal request error: ${messageOf(error)}`);
      return;
    }
    const method = this.#owner.find(request.service, request.method);
    if (typeof method === "string") {
      this.#refuse(streamId, Code.unimplemented, method);
      return;
    }
    if (this.#calls.size >= this.#owner.maxCalls) {
      this.#refuse(streamId, Code.resourceExhausted, `more than ${this.#owner.maxCalls} calls on one connection`);
      return;
    }
    const call = new RunningCall(request, this.#carrier.peer, {
      pause: () => this.#pause(),
      resume: () => this.#resume(),
    });
    this.#calls.set(streamId, call);
    const run =
      method.kind === "unary"
        ? this.#runUnary(streamId, method, call, request)
        : this.#runStream(streamId, method, call, request, frame.flags);
    // Neither rejects; should one do, the call must still end.
    run
      .catch((error: unknown) => this.#owner.log.error("ttrpc: call failed", { error: messageOf(error) }))
      .finally(() => this.#done(streamId, call));
  }

  async #runUnary(streamId: number, method: UnaryMethod, call: RunningCall, request: Request): Promise<void> {
    let payload: Uint8Array = EMPTY;
    let status = OK;
    try {
      payload = await method.call(request.payload, call);
    } catch (error) {
      status = statusOf(error);
    }
    await this.#respond(streamId, status, payload);
  }

  async #runStream(
    streamId: number,
    method: StreamMethod,
    call: RunningCall,
    request: Request,
    flags: number,
  ): Promise<void> {
    const queue = call.openQueue();
    // An empty first message cannot be told from none when the client streams; the peer reads it as none.
    if (!method.clientStreams || request.payload.byteLength > 0) queue.push(request.payload);
    if (!method.clientStreams || (flags & Flag.remoteClosed) !== 0) queue.end();
    let last: Uint8Array | undefined;
    try {
      for await (const message of method.call(queue, call)) {
        if (this.#closed) break;
        if (method.serverStreams) await this.#sendData(streamId, message);
        else if (last === undefined) last = message;
        else throw classified("internal", `method ${call.method} answers once, found more`);
      }
    } catch (error) {
      await this.#respond(streamId, statusOf(error), EMPTY);
      return;
    }
    if (method.serverStreams) await this.#send(streamId, FrameType.data, Flag.remoteClosed | Flag.noData, EMPTY);
    else if (last === undefined) {
      await this.#respond(streamId, statusOf(classified("internal", `method ${call.method} gave no answer`)), EMPTY);
    } else await this.#respond(streamId, OK, last);
  }

  async #sendData(streamId: number, message: Uint8Array): Promise<void> {
    if (message.byteLength > MAX_PAYLOAD) {
      throw classified("resource-exhausted", oversizedMessage(message.byteLength));
    }
    await this.#send(streamId, FrameType.data, 0, message);
  }

  async #respond(streamId: number, status: Status, payload: Uint8Array): Promise<void> {
    let bytes = encodeResponse({ status, payload });
    if (bytes.byteLength > MAX_PAYLOAD) {
      const refusal = { code: Code.resourceExhausted, message: oversizedMessage(bytes.byteLength), details: [] };
      bytes = encodeResponse({ status: refusal, payload: EMPTY });
    }
    await this.#send(streamId, FrameType.response, 0, bytes);
  }

  #send(streamId: number, type: number, flags: number, payload: Uint8Array): Promise<void> | undefined {
    if (this.#closed) return undefined;
    return this.#carrier.write(encodeFrame({ streamId, type, flags, payload }));
  }

  /** Answers a frame that belongs to no call. A client that does not read its refusals is not read either. */
  #refuse(streamId: number, code: number, message: string): void {
    const payload = encodeResponse({ status: { code, message, details: [] }, payload: EMPTY });
    const wait = this.#send(streamId, FrameType.response, 0, payload);
    if (wait === undefined) return;
    this.#pause();
    void wait.then(() => this.#resume());
  }

  #done(streamId: number, call: RunningCall): void {
    call.finish();
    if (this.#calls.get(streamId) === call) this.#calls.delete(streamId);
    if (this.#calls.size === 0 && !this.#closed) this.#owner.idle();
  }

  #pause(): void {
    if (this.#pauses++ === 0) this.#carrier.pause();
  }

  #resume(): void {
    if (--this.#pauses === 0) this.#carrier.resume();
  }
}

const EMPTY = new Uint8Array(0);

/** setTimeout's limit; a later deadline needs no timer, its client is gone before. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** One call from its request to its answer. The signal is made when a handler first asks for it. */
class RunningCall implements ServerCall {
  readonly service: string;
  readonly method: string;
  readonly metadata: readonly MetadataPair[];
  readonly peer: PeerCredentials;
  readonly deadline?: Date;
  queue: MessageQueue<Uint8Array> | undefined;
  #controller: AbortController | undefined;
  #aborted: ClassifiedError | undefined;
  #deadlineTimer: ReturnType<typeof setTimeout> | undefined;
  #fullTimer: ReturnType<typeof setTimeout> | undefined;
  readonly #flow: { readonly pause: () => void; readonly resume: () => void };

  constructor(request: Request, peer: PeerCredentials, flow: { pause: () => void; resume: () => void }) {
    this.service = request.service;
    this.method = request.method;
    this.metadata = request.metadata;
    this.peer = peer;
    this.#flow = flow;
    if (request.timeoutNano > 0n) {
      const ms = Number(request.timeoutNano) / 1e6;
      this.deadline = new Date(Math.min(Date.now() + ms, MAX_DATE_MS));
      if (ms <= MAX_TIMER_MS) {
        this.#deadlineTimer = setTimeout(
          () => this.abort(classified("deadline-exceeded", "context deadline exceeded")),
          Math.ceil(ms),
        );
      }
    }
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted !== undefined) this.#controller.abort(this.#aborted);
    }
    return this.#controller.signal;
  }

  abort(reason: ClassifiedError): void {
    if (this.#aborted !== undefined) return;
    this.#aborted = reason;
    this.#controller?.abort(reason);
    this.queue?.fail(reason);
  }

  openQueue(): MessageQueue<Uint8Array> {
    this.queue = new MessageQueue({
      taken: () => {
        if (this.queue !== undefined && this.queue.length < STREAM_QUEUE) this.#roomAgain();
      },
      abandoned: () => this.#roomAgain(),
    });
    if (this.#aborted !== undefined) this.queue.fail(this.#aborted);
    return this.queue;
  }

  /** The queue is full: the connection waits for it, but not for long, since others share it. */
  full(): void {
    if (this.#fullTimer !== undefined) return;
    this.#flow.pause();
    this.#fullTimer = setTimeout(() => {
      this.queue?.fail(classified("resource-exhausted", "ttrpc: stream buffer full"));
      this.#roomAgain();
    }, STREAM_FULL_MS);
  }

  finish(): void {
    clearTimeout(this.#deadlineTimer);
    this.#roomAgain();
  }

  #roomAgain(): void {
    if (this.#fullTimer === undefined) return;
    clearTimeout(this.#fullTimer);
    this.#fullTimer = undefined;
    this.#flow.resume();
  }
}

/** The last moment a Date can hold. */
const MAX_DATE_MS = 8.64e15;
