import { ClassifiedError as Classified, type ClassifiedError, classified, errorClassOf } from "@stevedore/base";
import { ErrorCode, type HeaderField } from "../h2/protocol.ts";
import type { H2Stream, StreamAbort, StreamHandler } from "../h2/stream.ts";
import type { CallOptions } from "../rpc/types.ts";
import { Code, errorOf } from "../status.ts";
import { headerOf, metadataOf, statusOfTrailers } from "./headers.ts";
import { type Budget, Inlet } from "./inlet.ts";
import { MAX_TIMER_MS } from "./limits.ts";
import { messagePrefix } from "./message-reader.ts";

/** A call that the server has certainly not begun, and that may be made once more on another connection. */
export class Unprocessed extends Error {
  override readonly name = "Unprocessed";
  readonly error: ClassifiedError;

  constructor(error: ClassifiedError) {
    super(error.message);
    this.error = error;
  }
}

/** When and why a call ends from our side: the caller's signal, its time, or the transport's end. */
export class CallLimits {
  readonly #undo: (() => void)[] = [];
  #ended: ((reason: ClassifiedError) => void) | undefined;
  #reason: ClassifiedError | undefined;
  /** When the call must be over, by `performance.now()`; infinite without limit. */
  readonly until: number;

  constructor(options: CallOptions) {
    const { signal, timeoutMs } = options;
    if (signal !== undefined) {
      const abort = (): void => this.end(reasonOf(signal.reason));
      if (signal.aborted) abort();
      else {
        signal.addEventListener("abort", abort, { once: true });
        this.#undo.push(() => signal.removeEventListener("abort", abort));
      }
    }
    this.until = timeoutMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs;
    if (timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS) {
      const timer = setTimeout(
        () => this.end(classified("deadline-exceeded", "context deadline exceeded")),
        Math.max(0, timeoutMs),
      );
      this.#undo.push(() => clearTimeout(timer));
    }
  }

  get reason(): ClassifiedError | undefined {
    return this.#reason;
  }

  /** Calls `ended` when the call must end, at once if that was before. One listener; a later one takes its place. */
  onEnd(ended: (reason: ClassifiedError) => void): void {
    this.#ended = ended;
    if (this.#reason !== undefined) ended(this.#reason);
  }

  end(reason: ClassifiedError): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#ended?.(reason);
  }

  /** The call is over: nothing is listened to any more. */
  free(): void {
    for (const undo of this.#undo.splice(0)) undo();
    this.#ended = undefined;
  }
}

/** What a client is told when its own signal ends a call: the reason when that has a class, else canceled. */
function reasonOf(reason: unknown): ClassifiedError {
  if (reason instanceof Classified) return reason;
  return errorClassOf(reason) === "deadline-exceeded"
    ? classified("deadline-exceeded", "context deadline exceeded", { cause: reason })
    : classified("canceled", "context canceled", { cause: reason });
}

/** The client's side of one stream: messages out, messages in, and an error for every status but ok. */
export class ClientCall implements StreamHandler {
  readonly stream: H2Stream;
  readonly #inlet: Inlet;
  readonly #options: CallOptions;
  readonly #maxSend: number;
  readonly #over = Promise.withResolvers<void>();
  #headersSeen = false;
  #httpStatus = "200";
  #answered = false;
  #done = false;

  constructor(options: {
    readonly open: (handler: StreamHandler) => H2Stream;
    readonly call: CallOptions;
    readonly budget: Budget;
    readonly maxReceive: number;
    readonly maxSend: number;
  }) {
    this.#options = options.call;
    this.#maxSend = options.maxSend;
    this.stream = options.open(this);
    this.#inlet = new Inlet({
      stream: this.stream,
      budget: options.budget,
      max: options.maxReceive,
      abandoned: () => this.cancel(classified("canceled", "context canceled")),
    });
  }

  /** Response messages; the end of the call, when that is an error, is the error of the last read. */
  get messages(): AsyncIterableIterator<Uint8Array> {
    return this.#inlet.messages;
  }

  /** Settles when the call has ended, however. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  get done(): boolean {
    return this.#done;
  }

  /** @throws resource-exhausted when the message is too large. */
  send(payload: Uint8Array, end: boolean): Promise<void> | undefined {
    if (payload.length > this.#maxSend) {
      const found = `${payload.length} vs. ${this.#maxSend}`;
      throw classified("resource-exhausted", `trying to send message larger than max (${found})`);
    }
    return this.stream.sendData([messagePrefix(payload.length), payload], { end });
  }

  /** No more messages from us. */
  closeSend(): void {
    void this.stream.sendData([], { end: true });
  }

  /** Ends the call with `reason`, here and at the server. */
  cancel(reason: ClassifiedError): void {
    if (this.#done) return;
    this.stream.reset(ErrorCode.cancel);
    this.#fail(reason);
  }

  headers(fields: readonly HeaderField[], end: boolean, truncated: boolean): void {
    if (truncated) {
      return this.#break(classified("internal", "peer header list size exceeded limit"));
    }
    if (end) {
      if (!this.#headersSeen) this.#httpStatus = headerOf(fields, ":status") ?? "";
      return this.#finish(fields);
    }
    if (this.#headersSeen) return this.#break(classified("internal", "a stream has more than two header blocks"));
    const status = headerOf(fields, ":status") ?? "";
    // Interim answers, RFC 9110 section 15.2.
    if (status.length === 3 && status.startsWith("1")) return;
    this.#headersSeen = true;
    this.#httpStatus = status;
    this.#answered = true;
    if (status === "200") {
      const contentType = headerOf(fields, "content-type") ?? "";
      if (!contentType.startsWith("application/grpc")) {
        const text = `unexpected HTTP status code received from server: 200 (OK); transport: received unexpected content-type ${JSON.stringify(contentType)}`;
        return this.#break(classified("unknown", text));
      }
      this.#options.onHeaders?.(metadataOf(fields));
    }
  }

  data(bytes: Uint8Array, end: boolean): void {
    if (this.#done) return this.stream.consumed(bytes.length);
    this.#answered = true;
    try {
      this.#inlet.push(bytes);
    } catch (error) {
      return this.#break(
        error instanceof Classified ? error : classified("internal", "read response", { cause: error }),
      );
    }
    if (end) this.#break(classified("internal", "server closed the stream without sending trailers"));
  }

  aborted(abort: StreamAbort): void {
    if (this.#done) return;
    const error = errorOfAbort(abort);
    this.#fail(abort.unprocessed && !this.#answered ? new Unprocessed(error) : error);
  }

  #finish(fields: readonly HeaderField[]): void {
    if (this.#done) return;
    this.#options.onTrailers?.(metadataOf(fields));
    const status = statusOfTrailers(fields);
    if (status === undefined) return this.#break(errorOfHttp(this.#httpStatus));
    if (status.code !== Code.ok) return this.#break(errorOf(status));
    try {
      this.#inlet.end();
    } catch {
      return this.#break(classified("internal", "server ended the stream inside a message"));
    }
    this.#settle();
  }

  /** The call has ended with an error, while the stream may not have. */
  #break(error: ClassifiedError): void {
    if (!this.stream.gone) this.stream.reset(ErrorCode.cancel);
    this.#fail(error);
  }

  #fail(error: unknown): void {
    if (this.#done) return;
    this.#inlet.fail(error);
    this.#settle();
  }

  #settle(): void {
    this.#done = true;
    this.#inlet.free();
    // The server has said all; what we have not sent it will not read.
    if (!this.stream.gone && !this.stream.localClosed) this.stream.reset(ErrorCode.noError);
    this.#over.resolve();
  }
}

/** The class of a stream reset by its code, as gRPC's mapping of HTTP/2 errors has it. */
function errorOfAbort(abort: StreamAbort): ClassifiedError {
  if (abort.by === "connection" || abort.unprocessed) return classified("unavailable", abort.message);
  switch (abort.code) {
    case ErrorCode.refusedStream:
      return classified("unavailable", abort.message);
    case ErrorCode.cancel:
      return classified("canceled", abort.message);
    case ErrorCode.flowControlError:
    case ErrorCode.enhanceYourCalm:
      return classified("resource-exhausted", abort.message);
    case ErrorCode.inadequateSecurity:
      return classified("permission-denied", abort.message);
    default:
      return classified("internal", abort.message);
  }
}

/** The class of an HTTP answer that is no gRPC answer, as gRPC's mapping of HTTP statuses has it. */
function errorOfHttp(status: string): ClassifiedError {
  const text = `unexpected HTTP status code received from server: ${status}`;
  switch (status) {
    case "400":
      return classified("internal", text);
    case "401":
      return classified("unauthenticated", text);
    case "403":
      return classified("permission-denied", text);
    case "404":
      return classified("not-implemented", text);
    case "429":
    case "502":
    case "503":
    case "504":
      return classified("unavailable", text);
    case "200":
      return classified("internal", "server closed the stream without a status");
    default:
      return classified("unknown", text);
  }
}
