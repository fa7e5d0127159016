import {
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  type MessageShape,
} from "@bufbuild/protobuf";
import { ClassifiedError as Classified, type ClassifiedError, classified, errorClassOf } from "@stevedore/base";
import { decodeMessage, encodeMessage } from "../codec.ts";
import { errorOf, statusOf } from "../status.ts";
import { Metadata } from "./metadata.ts";
import type { MethodHandler, Router } from "./router.ts";
import type { CallContext, CallOptions, Peer, Transport } from "./types.ts";

/**
 * A transport straight into a router, for tests and for a client in the daemon's own process. Messages and errors pass
 * through their wire form, so neither side sees the other's objects.
 */
export function memoryTransport(router: Router, options: { readonly peer?: Peer } = {}): Transport {
  return new MemoryTransport(router, options.peer ?? {});
}

class MemoryTransport implements Transport {
  readonly #router: Router;
  readonly #peer: Peer;
  readonly #closing = new AbortController();

  constructor(router: Router, peer: Peer) {
    this.#router = router;
    this.#peer = peer;
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    options: CallOptions,
  ): Promise<MessageShape<O>> {
    const call = new MemoryCall(this.#peer, options, this.#closing.signal);
    try {
      const handler = this.#find(method.parent.typeName, method.name);
      if (handler.kind !== "unary") throw classified("internal", `method ${method.name} is not unary`);
      const copy = decodeMessage(handler.method.input, encodeMessage(method.input, request));
      const answer = await call.race(handler.call(copy, call));
      options.onHeaders?.(call.responseHeaders);
      return decodeMessage(method.output, encodeMessage(handler.method.output, answer));
    } catch (error) {
      throw onWire(error);
    } finally {
      call.finish();
      options.onTrailers?.(call.responseTrailers);
    }
  }

  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    requests: AsyncIterable<MessageShape<I>>,
    options: CallOptions,
  ): AsyncGenerator<MessageShape<O>> {
    const call = new MemoryCall(this.#peer, options, this.#closing.signal);
    let answers: AsyncIterator<unknown> | undefined;
    try {
      const handler = this.#find(method.parent.typeName, method.name);
      if (handler.kind !== "stream") throw classified("internal", `method ${method.name} does not stream`);
      const { input, output } = handler.method;
      const copies = mapAsync(requests, (each) => decodeMessage(input, encodeMessage(method.input, each)));
      const iterator = handler.call(copies, call)[Symbol.asyncIterator]();
      answers = iterator;
      let first = true;
      for (;;) {
        const next = await call.race(iterator.next());
        if (first) options.onHeaders?.(call.responseHeaders);
        first = false;
        if (next.done === true) break;
        yield decodeMessage(method.output, encodeMessage(output, next.value));
      }
    } catch (error) {
      throw onWire(error);
    } finally {
      call.finish();
      // A handler that waits in `next` ends by its signal; nobody waits for that here.
      answers?.return?.().catch(() => undefined);
      options.onTrailers?.(call.responseTrailers);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort(classified("unavailable", "transport closed: unavailable"));
  }

  #find(service: string, name: string): MethodHandler {
    if (this.#closing.signal.aborted) throw classified("unavailable", "transport closed: unavailable");
    const found = this.#router.find(service, name);
    if (found.kind === "none") throw classified("not-implemented", found.message);
    return found;
  }
}

class MemoryCall implements CallContext {
  readonly peer: Peer;
  readonly metadata: Metadata;
  readonly deadline?: Date;
  readonly responseHeaders = new Metadata();
  readonly responseTrailers = new Metadata();
  readonly #controller = new AbortController();
  readonly #undo: (() => void)[] = [];

  constructor(peer: Peer, options: CallOptions, closing: AbortSignal) {
    this.peer = peer;
    this.metadata = Metadata.from(options.metadata);
    for (const signal of [options.signal, closing]) {
      if (signal === undefined) continue;
      const abort = (): void => this.#controller.abort(abortError(signal.reason));
      if (signal.aborted) abort();
      signal.addEventListener("abort", abort, { once: true });
      this.#undo.push(() => signal.removeEventListener("abort", abort));
    }
    const { timeoutMs } = options;
    if (timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS) {
      this.deadline = new Date(Date.now() + timeoutMs);
      const late = (): void => this.#controller.abort(classified("deadline-exceeded", "context deadline exceeded"));
      const timer = setTimeout(late, timeoutMs);
      this.#undo.push(() => clearTimeout(timer));
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The value of `work`, or the reason of the signal when that comes first. */
  async race<T>(work: Promise<T>): Promise<T> {
    const { signal } = this.#controller;
    const ended = Promise.withResolvers<never>();
    const onAbort = (): void => ended.reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([work, ended.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
      work.catch(() => undefined);
    }
  }

  /** The call is over for its client: a handler still at work learns it by the signal. */
  finish(): void {
    for (const undo of this.#undo) undo();
    this.#controller.abort(classified("canceled", "context canceled"));
  }
}

/** setTimeout's limit, about 24 days; a call that may take longer has no timer. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What a client is told when its own signal ends a call: the reason when that has a class, else canceled. */
export function abortError(reason: unknown): ClassifiedError {
  if (reason instanceof Classified) return reason;
  return errorClassOf(reason) === "deadline-exceeded"
    ? classified("deadline-exceeded", "context deadline exceeded", { cause: reason })
    : classified("canceled", "context canceled", { cause: reason });
}

function onWire(error: unknown): ClassifiedError {
  return errorOf(statusOf(error));
}

async function* mapAsync<T, U>(values: AsyncIterable<T>, to: (value: T) => U): AsyncGenerator<U> {
  for await (const value of values) yield to(value);
}
