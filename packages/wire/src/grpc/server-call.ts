import type { DescMessage, DescMethod, Message, MessageShape } from "@bufbuild/protobuf";
import { type ClassifiedError, classified, messageOf, type Span } from "@stevedore/base";
import { decodeMessage, encodeMessage } from "../codec.ts";
import type { HeaderField } from "../h2/protocol.ts";
import type { H2Stream, StreamAbort, StreamHandler } from "../h2/stream.ts";
import { Metadata } from "../rpc/metadata.ts";
import type { MethodHandler, Router, StreamHandler as StreamMethod, UnaryHandler } from "../rpc/router.ts";
import type { CallContext, Peer } from "../rpc/types.ts";
import { Code, OK, type Status, statusOf } from "../status.ts";
import { appendMetadata, CONTENT_TYPE, headerOf, metadataOf, parseTimeout, STATUS_200, trailersOf } from "./headers.ts";
import { type Budget, Inlet } from "./inlet.ts";
import { MAX_DATE_MS, MAX_TIMER_MS } from "./limits.ts";
import { messageParts } from "./message-parts.ts";
import { messagePrefix } from "./message-reader.ts";

/** A call as an observer sees it when it has ended. */
export interface ObservedEnd {
  readonly status: Status;
  /** From the request's headers to the answer, in milliseconds. */
  readonly durationMs: number;
  readonly received: number;
  readonly sent: number;
}

/** What is told of one call while it runs. Must not throw; costs what it does on every call. */
export interface CallWatch {
  /** A message of the client was read. */
  received?(): void;
  /** A message was handed to the connection. */
  sent?(): void;
  ended(end: ObservedEnd): void;
  /** The call's span, for its handler. */
  readonly span?: Span;
}

/** Told of each call of a known method, for logs, metrics and traces. Returns what to tell of it. Must not throw. */
export type CallObserver = (method: DescMethod, call: CallContext) => CallWatch | undefined;

/** Several observers as one; of those that have a span, the first counts. */
export function observeWith(observers: readonly CallObserver[]): CallObserver | undefined {
  const [only] = observers;
  if (only === undefined || observers.length === 1) return only;
  return (method, call) => {
    const watches: CallWatch[] = [];
    for (const observer of observers) {
      const watch = observer(method, call);
      if (watch !== undefined) watches.push(watch);
    }
    const [first] = watches;
    if (first === undefined || watches.length === 1) return first;
    const span = watches.find((watch) => watch.span !== undefined)?.span;
    return {
      received: () => {
        for (const watch of watches) watch.received?.();
      },
      sent: () => {
        for (const watch of watches) watch.sent?.();
      },
      ended: (end) => {
        for (const watch of watches) watch.ended(end);
      },
      ...(span === undefined ? {} : { span }),
    };
  };
}

/** What the calls of one connection share. */
export interface CallEnvironment {
  readonly router: Router;
  readonly peer: Peer;
  readonly budget: Budget;
  readonly maxReceive: number;
  readonly maxSend: number;
  readonly observer: CallObserver | undefined;
  /** A handler was started; the function it returns says that it has ended. */
  readonly running: () => () => void;
}

/** One call on the server, from its headers to its trailers. */
export class ServerCall implements CallContext, StreamHandler {
  readonly peer: Peer;
  deadline?: Date;
  readonly #environment: CallEnvironment;
  readonly #stream: H2Stream;
  readonly #inlet: Inlet;
  #fields: readonly HeaderField[] = [];
  #handler: MethodHandler | undefined;
  #metadata: Metadata | undefined;
  #responseHeaders: Metadata | undefined;
  #responseTrailers: Metadata | undefined;
  #controller: AbortController | undefined;
  #reason: ClassifiedError | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #answers: AsyncIterator<Message> | undefined;
  #headersSent = false;
  #done = false;
  #watch: CallWatch | undefined;
  #startedAt = 0;
  #received = 0;
  #sent = 0;

  constructor(stream: H2Stream, environment: CallEnvironment) {
    this.#stream = stream;
    this.#environment = environment;
    this.peer = environment.peer;
    this.#inlet = new Inlet({ stream, budget: environment.budget, max: environment.maxReceive });
  }

  get metadata(): Metadata {
    this.#metadata ??= metadataOf(this.#fields);
    return this.#metadata;
  }

  get span(): Span | undefined {
    return this.#watch?.span;
  }

  get responseHeaders(): Metadata {
    this.#responseHeaders ??= new Metadata();
    return this.#responseHeaders;
  }

  get responseTrailers(): Metadata {
    this.#responseTrailers ??= new Metadata();
    return this.#responseTrailers;
  }

  // Made when a handler first asks: most calls look at no signal.
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  headers(fields: readonly HeaderField[], end: boolean, truncated: boolean): void {
    if (this.#handler !== undefined || this.#done) {
      // Trailers of a request say nothing in gRPC but that it ends.
      if (end) this.#ended();
      return;
    }
    if (truncated) return this.#refuse(Code.resourceExhausted, "peer header list size exceeded limit");
    this.#fields = fields;
    const problem = this.#begin();
    if (problem !== undefined) return this.#refuse(problem.code, problem.message, problem.httpStatus);
    if (end) this.#ended();
  }

  data(bytes: Uint8Array, end: boolean): void {
    if (this.#done) return this.#stream.consumed(bytes.length);
    try {
      this.#inlet.push(bytes);
    } catch (error) {
      return this.#cut(error);
    }
    if (end) this.#ended();
  }

  aborted(abort: StreamAbort): void {
    const reason =
      abort.by === "connection"
        ? classified("canceled", `connection of the client ended: ${abort.message}`)
        : classified("canceled", "context canceled");
    this.abort(reason);
  }

  /** Ends the call: the handler learns by its signal, the client, if it is still there, by the status. */
  abort(reason: ClassifiedError): void {
    if (this.#done) return;
    this.#finish(statusOf(reason));
    this.#leave(reason);
  }

  #begin(): { readonly code: number; readonly message: string; readonly httpStatus?: number } | undefined {
    const fields = this.#fields;
    let path = "";
    let httpMethod = "";
    let contentType = "";
    let encoding = "identity";
    let timeout: string | undefined;
    for (const [name, value] of fields) {
      if (name === ":path") path = value;
      else if (name === ":method") httpMethod = value;
      else if (name === "content-type") contentType = value;
      else if (name === "grpc-encoding") encoding = value;
      else if (name === "grpc-timeout") timeout = value;
    }
    if (!isGrpcContentType(contentType)) {
      const message = `invalid gRPC request content-type ${JSON.stringify(contentType)}`;
      return { code: Code.invalidArgument, message, httpStatus: 415 };
    }
    if (httpMethod !== "POST") {
      const message = `Received a HEADERS frame with :method ${JSON.stringify(httpMethod)} which should be POST`;
      return { code: Code.internal, message, httpStatus: 405 };
    }
    if (timeout !== undefined) {
      const ms = parseTimeout(timeout);
      if (ms === undefined) {
        const message = `malformed grpc-timeout: ${JSON.stringify(timeout)}`;
        return { code: Code.internal, message, httpStatus: 400 };
      }
      this.deadline = new Date(Math.min(Date.now() + ms, MAX_DATE_MS));
      if (ms <= MAX_TIMER_MS) {
        this.#timer = setTimeout(
          () => this.abort(classified("deadline-exceeded", "context deadline exceeded")),
          Math.ceil(ms),
        );
      }
    }
    const found = this.#environment.router.findPath(path);
    if (found.kind === "none") return { code: Code.unimplemented, message: found.message };
    if (encoding !== "identity" && encoding !== "") {
      const message = `grpc: Decompressor is not installed for grpc-encoding ${JSON.stringify(encoding)}`;
      return { code: Code.unimplemented, message };
    }
    this.#handler = found;
    this.#startedAt = performance.now();
    this.#watch = this.#environment.observer?.(found.method, this);
    if (found.kind === "stream") void this.#runStream(found);
    return undefined;
  }

  /** The client has sent all. */
  #ended(): void {
    if (this.#done) return;
    try {
      this.#inlet.end();
    } catch (error) {
      return this.#cut(error);
    }
    if (this.#handler?.kind === "unary") void this.#runUnary(this.#handler);
  }

  async #runUnary(handler: UnaryHandler): Promise<void> {
    const { messages, waiting } = this.#inlet;
    if (waiting !== 1) {
      const found = waiting === 0 ? "none" : `${waiting}`;
      return this.#finish(statusOf(classified("internal", `unary call takes one request message, found ${found}`)));
    }
    const ended = this.#environment.running();
    try {
      const first = await messages.next();
      // Cancelled before it began: no handler is started for it.
      if (first.done === true || this.#done) return;
      const request = this.#parse(handler.method.input, first.value);
      const answer = await handler.call(request, this);
      // Nobody waits for the queue of a single message.
      if (!this.#done) void this.#send([encodeMessage(handler.method.output, answer)]);
      this.#finish(OK);
    } catch (error) {
      this.#finish(statusOf(error));
    } finally {
      ended();
    }
  }

  async #runStream(handler: StreamMethod): Promise<void> {
    const ended = this.#environment.running();
    try {
      const { input, output } = handler.method;
      const { messages } = this.#inlet;
      const requests: AsyncIterableIterator<Message> = {
        next: async () => {
          const next = await messages.next();
          if (next.done === true) return { done: true, value: undefined };
          return { done: false, value: this.#parse(input, next.value) };
        },
        return: async () => {
          await messages.return();
          return { done: true, value: undefined };
        },
        [Symbol.asyncIterator]: () => requests,
      };
      const answers = handler.call(requests, this)[Symbol.asyncIterator]();
      this.#answers = answers;
      for (;;) {
        const next = await answers.next();
        if (this.#done) return;
        if (next.done === true) break;
        // The handler goes on when this has left, so its bytes need no copy.
        const wait = this.#send(messageParts(output, next.value));
        if (wait !== undefined) await wait;
        if (this.#done) return;
      }
      this.#finish(OK);
    } catch (error) {
      this.#finish(statusOf(error));
      leave(this.#answers);
    } finally {
      ended();
    }
  }

  #parse<D extends DescMessage>(schema: D, payload: Uint8Array): MessageShape<D> {
    this.#received++;
    this.#watch?.received?.();
    try {
      return decodeMessage(schema, payload);
    } catch (cause) {
      throw classified("internal", `grpc: error unmarshalling request: ${messageOf(cause)}`, { cause });
    }
  }

  #send(parts: readonly Uint8Array[]): Promise<void> | undefined {
    let length = 0;
    for (const part of parts) length += part.length;
    if (length > this.#environment.maxSend) {
      throw classified(
        "resource-exhausted",
        `grpc: trying to send message larger than max (${length} vs. ${this.#environment.maxSend})`,
      );
    }
    this.#sendHeaders();
    this.#sent++;
    this.#watch?.sent?.();
    return this.#stream.sendData([messagePrefix(length), ...parts]);
  }

  #sendHeaders(): void {
    if (this.#headersSent) return;
    this.#headersSent = true;
    this.#stream.sendHeaders(this.#leadFields());
  }

  #leadFields(): HeaderField[] {
    const fields: HeaderField[] = [STATUS_200, CONTENT_TYPE];
    if (this.#responseHeaders !== undefined) appendMetadata(fields, this.#responseHeaders);
    return fields;
  }

  /** Sends the status; the first one counts. */
  #finish(status: Status): void {
    if (this.#done) return;
    this.#done = true;
    clearTimeout(this.#timer);
    const maxList = this.#stream.connection.peerMaxHeaderList;
    if (this.#headersSent) {
      this.#stream.sendTrailers(trailersOf(status, { metadata: this.#responseTrailers, maxList }));
    } else if (status.code === Code.ok) {
      // A client tells headers from trailers by the order: a success has both.
      this.#sendHeaders();
      this.#stream.sendTrailers(trailersOf(status, { metadata: this.#responseTrailers, maxList }));
    } else {
      const lead = this.#leadFields();
      this.#stream.sendTrailers(trailersOf(status, { lead, metadata: this.#responseTrailers, maxList }));
    }
    this.#inlet.fail(classified("canceled", "context canceled"));
    this.#inlet.free();
    this.#watch?.ended({
      status,
      durationMs: performance.now() - this.#startedAt,
      received: this.#received,
      sent: this.#sent,
    });
  }

  /** The request itself is broken: the handler, if it runs, gets the reason. */
  #cut(error: unknown): void {
    this.#inlet.fail(error);
    const status = statusOf(error);
    this.#finish(status);
    this.#leave(classified("canceled", "context canceled", { cause: error }));
  }

  #leave(reason: ClassifiedError): void {
    this.#reason ??= reason;
    this.#controller?.abort(reason);
    leave(this.#answers);
  }

  /** Answers before any handler: by trailers alone. */
  #refuse(code: number, message: string, httpStatus = 200): void {
    this.#done = true;
    clearTimeout(this.#timer);
    const lead: HeaderField[] = [[":status", String(httpStatus)], CONTENT_TYPE];
    if (headerOf(this.#fields, "grpc-encoding") !== undefined) lead.push(["grpc-accept-encoding", "identity"]);
    const maxList = this.#stream.connection.peerMaxHeaderList;
    this.#stream.sendTrailers(trailersOf({ code, message, details: [] }, { lead, maxList }));
    this.#inlet.free();
  }
}

/** Tells a handler's iterator that nobody reads it any more; what it makes of that is its own affair. */
function leave(answers: AsyncIterator<Message> | undefined): void {
  Promise.resolve()
    .then(() => answers?.return?.())
    .catch(() => undefined);
}

function isGrpcContentType(value: string): boolean {
  const lower = value.toLowerCase();
  if (!lower.startsWith("application/grpc")) return false;
  const next = lower.charAt("application/grpc".length);
  return next === "" || next === "+" || next === ";";
}
