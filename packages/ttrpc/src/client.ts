import { ClassifiedError as Classified, type ClassifiedError, classified, errorClassOf } from "@stevedore/base";
import type { Carrier } from "./carrier.ts";
import { encodeFrame, Flag, type Frame, FrameDecoder, FrameType, MAX_PAYLOAD, oversizedMessage } from "./frame.ts";
import { MessageQueue } from "./message-queue.ts";
import { decodeResponse, encodeRequest, type MetadataPair, type Response } from "./request.ts";
import { Code, errorOf } from "./status.ts";

/** How one call is made. */
export interface CallOptions {
  /** Ends the wait. The server is not told: the protocol has no message for it. */
  readonly signal?: AbortSignal;
  /** Milliseconds to wait, also told to the server. Absent or not finite: no limit. */
  readonly timeoutMs?: number;
  readonly metadata?: readonly MetadataPair[];
}

/** Which sides of a call stream. */
export interface StreamShape {
  /** Whether the client sends any number of messages, or exactly one. */
  readonly clientStreams: boolean;
  /** Whether the server sends any number of messages, or exactly one. */
  readonly serverStreams: boolean;
}

/** Messages that wait for a stream's reader before the connection is paused. */
const STREAM_QUEUE = 64;

/** Milliseconds a connection stays paused for one slow stream before that stream is given up; as in the peer. */
const STREAM_FULL_MS = 1000;

/** Stream ids are uint32, and a client's are odd; a connection ends when they are used up. */
const LAST_STREAM_ID = 0xffffffff;

/** The wording of the peer for a connection that is gone. */
const CLOSED = "ttrpc: closed";

/**
 * A ttrpc client over one connection. Any number of calls may run at a time; answers come in any order. All failures
 * are ClassifiedError.
 */
export class Client implements AsyncDisposable {
  readonly #carrier: Carrier;
  readonly #calls = new Map<number, PendingCall>();
  readonly #closedEvent = Promise.withResolvers<void>();
  #nextStreamId = 1;
  #pauses = 0;
  #closed = false;

  /** @param carrier an open connection; the client owns it from here. */
  constructor(carrier: Carrier) {
    this.#carrier = carrier;
    const decoder = new FrameDecoder({
      frame: (frame) => this.#frame(frame),
      // The peer never sends such a frame; the call it was for ends, the connection is sound.
      oversized: (frame) =>
        this.#calls.get(frame.streamId)?.fail(classified("resource-exhausted", oversizedMessage(frame.length))),
    });
    carrier.start({
      data: (bytes) => {
        if (!this.#closed) decoder.push(bytes);
      },
      closed: () => this.#ended(),
    });
  }

  /** Settles when the connection has ended, by either side. Never rejects. */
  get closed(): Promise<void> {
    return this.#closedEvent.promise;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /**
   * One request, one answer.
   *
   * @returns the response message's bytes.
   * @throws what the server said, by class; unavailable "ttrpc: closed" when the connection ends before the answer;
   * canceled or deadline-exceeded by the options; resource-exhausted when the request is longer than a frame may be.
   */
  async call(service: string, method: string, payload: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    const answer = Promise.withResolvers<Uint8Array>();
    const streamId = this.#begin({ service, method, payload, flags: 0 }, options, {
      response(response) {
        // Go servers before ttrpc 1.2 (Debian 12's containerd) leave the status of a success out.
        if (response.status !== undefined && response.status.code !== Code.ok) answer.reject(errorOf(response.status));
        else answer.resolve(response.payload);
      },
      data: () => answer.reject(protocolError("data on a unary call")),
      fail: (error) => answer.reject(error),
    });
    const stopWatching = this.#watch(streamId, options);
    try {
      return await answer.promise;
    } finally {
      stopWatching();
      this.#calls.delete(streamId);
    }
  }

  /**
   * A streaming call. It begins with the first `next()`. Leaving the loop early forgets the call; the server learns of
   * that only when it next expects data.
   */
  async *stream(
    target: { readonly service: string; readonly method: string; readonly shape: StreamShape },
    requests: AsyncIterable<Uint8Array>,
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array> {
    const { service, method, shape } = target;
    const payload = shape.clientStreams ? EMPTY : await onlyRequest(requests, method);
    const inbox = this.#inbox();
    const begun = {
      service,
      method,
      payload,
      flags: shape.clientStreams ? Flag.remoteOpen : Flag.remoteClosed,
    };
    const streamId = this.#begin(begun, options, {
      response(response) {
        if (response.status !== undefined && response.status.code !== Code.ok)
          inbox.queue.fail(errorOf(response.status));
        else {
          if (!shape.serverStreams) inbox.queue.push(response.payload);
          inbox.queue.end();
        }
      },
      data(frame) {
        if (!shape.serverStreams) {
          inbox.queue.fail(protocolError("received data from non-streaming server"));
          return;
        }
        if ((frame.flags & Flag.noData) === 0) inbox.push(frame.payload);
        if ((frame.flags & Flag.remoteClosed) !== 0) inbox.queue.end();
      },
      fail: (error) => inbox.queue.fail(error),
    });
    const stopWatching = this.#watch(streamId, options);
    const sending = shape.clientStreams ? this.#sendAll(streamId, requests, inbox.queue) : Promise.resolve();
    try {
      for await (const message of inbox.queue) yield message;
    } finally {
      stopWatching();
      this.#calls.delete(streamId);
      inbox.close();
      // `requests` may wait for ever; its generator is told by #sendAll when it next gives something.
      sending.catch(() => undefined);
    }
  }

  /** Ends the connection; pending calls fail with unavailable. May be called twice. */
  close(): void {
    this.#carrier.destroy();
    this.#ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #begin(
    request: { service: string; method: string; payload: Uint8Array; flags: number },
    options: CallOptions,
    pending: PendingCall,
  ): number {
    if (options.signal?.aborted === true) throw abortReason(options.signal);
    if (this.#closed || this.#nextStreamId > LAST_STREAM_ID) throw classified("unavailable", CLOSED);
    const payload = encodeRequest({
      service: request.service,
      method: request.method,
      payload: request.payload,
      timeoutNano: timeoutNano(options.timeoutMs),
      metadata: options.metadata ?? [],
    });
    if (payload.byteLength > MAX_PAYLOAD) throw classified("resource-exhausted", oversizedMessage(payload.byteLength));
    const streamId = this.#nextStreamId;
    this.#nextStreamId += 2;
    this.#calls.set(streamId, pending);
    // Whoever calls waits for the answer anyway, so there is nobody to slow down here.
    void this.#carrier.write(encodeFrame({ streamId, type: FrameType.request, flags: request.flags, payload }));
    return streamId;
  }

  async #sendAll(
    streamId: number,
    requests: AsyncIterable<Uint8Array>,
    inbox: MessageQueue<Uint8Array>,
  ): Promise<void> {
    try {
      for await (const payload of requests) {
        if (inbox.ended || this.#closed) return;
        if (payload.byteLength > MAX_PAYLOAD)
          throw classified("resource-exhausted", oversizedMessage(payload.byteLength));
        await this.#carrier.write(encodeFrame({ streamId, type: FrameType.data, flags: 0, payload }));
      }
    } catch (error) {
      // The caller's own stream broke: its error is what the call fails with.
      inbox.fail(error);
      return;
    }
    if (inbox.ended || this.#closed) return;
    const flags = Flag.remoteClosed | Flag.noData;
    await this.#carrier.write(encodeFrame({ streamId, type: FrameType.data, flags, payload: EMPTY }));
  }

  /** Fails the call when its signal or its time ends. @returns what stops watching. */
  #watch(streamId: number, options: CallOptions): () => void {
    const { signal, timeoutMs } = options;
    const pending = this.#calls.get(streamId);
    if (pending === undefined) return () => undefined;
    const onAbort = (): void => {
      if (signal !== undefined) pending.fail(abortReason(signal));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    const timer =
      timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS
        ? setTimeout(() => pending.fail(classified("deadline-exceeded", "context deadline exceeded")), timeoutMs)
        : undefined;
    return () => {
      signal?.removeEventListener("abort", onAbort);
      clearTimeout(timer);
    };
  }

  #inbox(): { queue: MessageQueue<Uint8Array>; push: (payload: Uint8Array) => void; close: () => void } {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const roomAgain = (): void => {
      if (timer === undefined) return;
      clearTimeout(timer);
      timer = undefined;
      this.#resume();
    };
    const queue = new MessageQueue<Uint8Array>({
      taken: () => {
        if (queue.length < STREAM_QUEUE) roomAgain();
      },
      abandoned: roomAgain,
    });
    const push = (payload: Uint8Array): void => {
      queue.push(payload);
      if (queue.length < STREAM_QUEUE || timer !== undefined) return;
      this.#pause();
      timer = setTimeout(() => {
        queue.fail(classified("resource-exhausted", "ttrpc: stream buffer full"));
        roomAgain();
      }, STREAM_FULL_MS);
    };
    return { queue, push, close: roomAgain };
  }

  #frame(frame: Frame): void {
    // Answers of calls that were given up find nobody.
    const pending = this.#calls.get(frame.streamId);
    if (pending === undefined) return;
    if (frame.type === FrameType.data) {
      pending.data(frame);
      return;
    }
    if (frame.type !== FrameType.response) return;
    this.#calls.delete(frame.streamId);
    let response: Response;
    try {
      response = decodeResponse(frame.payload);
    } catch (cause) {
      pending.fail(classified("unknown", "unmarshal response: malformed: unknown", { cause }));
      return;
    }
    pending.response(response);
  }

  #ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    const error = classified("unavailable", CLOSED);
    for (const pending of this.#calls.values()) pending.fail(error);
    this.#calls.clear();
    this.#closedEvent.resolve();
  }

  #pause(): void {
    if (this.#pauses++ === 0) this.#carrier.pause();
  }

  #resume(): void {
    if (--this.#pauses === 0) this.#carrier.resume();
  }
}

/** What waits for the frames of one stream id. */
interface PendingCall {
  response(response: Response): void;
  data(frame: Frame): void;
  fail(error: ClassifiedError): void;
}

const EMPTY = new Uint8Array(0);

/** setTimeout's limit, about 24 days; a call that may take longer has no timer. */
const MAX_TIMER_MS = 2 ** 31 - 1;

function timeoutNano(timeoutMs: number | undefined): bigint {
  if (timeoutMs === undefined || !Number.isFinite(timeoutMs)) return 0n;
  // At least 1: a timeout of 0 means none on the wire.
  return BigInt(Math.max(1, Math.min(Math.round(timeoutMs * 1e6), Number.MAX_SAFE_INTEGER)));
}

function abortReason(signal: AbortSignal): ClassifiedError {
  const reason: unknown = signal.reason;
  if (reason instanceof Classified) return reason;
  if (errorClassOf(reason) === "deadline-exceeded") {
    return classified("deadline-exceeded", "context deadline exceeded", { cause: reason });
  }
  return classified("canceled", "context canceled", { cause: reason });
}

function protocolError(found: string): ClassifiedError {
  return classified("unknown", `${found}: protocol error: unknown`);
}

async function onlyRequest(requests: AsyncIterable<Uint8Array>, method: string): Promise<Uint8Array> {
  let only: Uint8Array | undefined;
  for await (const request of requests) {
    if (only !== undefined) throw classified("internal", `method ${method} takes one request, found more`);
    only = request;
  }
  if (only === undefined) throw classified("internal", `method ${method} takes one request, found none`);
  return only;
}
