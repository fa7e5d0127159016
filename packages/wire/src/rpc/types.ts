import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodClientStreaming,
  DescMethodServerStreaming,
  DescMethodStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import type { Span } from "@stevedore/base";
import type { Metadata } from "./metadata.ts";

/** Who is at the other end, as the kernel says it (SO_PEERCRED). Absent where the carrier cannot know. */
export interface Peer {
  readonly uid?: number;
  readonly gid?: number;
  readonly pid?: number;
}

/** What a handler knows of its call beside the request. One per call; the carrier owns it. */
export interface CallContext {
  /**
   * Aborts when the client cancels, the deadline passes, the connection breaks or the server stops. Its reason is a
   * ClassifiedError of class canceled, deadline-exceeded or unavailable.
   */
  readonly signal: AbortSignal;
  /** Request headers; keys in lower case, values of `-bin` keys as the base64 text that was on the wire. */
  readonly metadata: Metadata;
  /** When the caller gives up; absent when it set no limit. */
  readonly deadline?: Date;
  readonly peer: Peer;
  /** The span of this call; absent unless the server is traced. */
  readonly span?: Span | undefined;
  /** Sent before the first response message; later changes have no effect. Carriers without headers drop them. */
  readonly responseHeaders: Metadata;
  /** Sent with the status. Carriers without trailers drop them. */
  readonly responseTrailers: Metadata;
}

/**
 * What implements one method. A streaming handler that stops reading its requests makes the carrier drop the rest; one
 * that is no longer read is ended by `return()`, so `finally` blocks run.
 */
export type MethodImpl<M extends DescMethod> =
  M extends DescMethodUnary<infer I, infer O>
    ? (request: MessageShape<I>, context: CallContext) => Promise<MessageInitShape<O>>
    : M extends DescMethodServerStreaming<infer I, infer O>
      ? (request: MessageShape<I>, context: CallContext) => AsyncIterable<MessageInitShape<O>>
      : M extends DescMethodClientStreaming<infer I, infer O>
        ? (requests: AsyncIterable<MessageShape<I>>, context: CallContext) => Promise<MessageInitShape<O>>
        : M extends DescMethodBiDiStreaming<infer I, infer O>
          ? (requests: AsyncIterable<MessageShape<I>>, context: CallContext) => AsyncIterable<MessageInitShape<O>>
          : never;

/** The methods of a service by local name (`listStatuses` for ListStatuses). */
export type ServiceImpl<S extends DescService> = { [K in keyof S["method"]]: MethodImpl<S["method"][K]> };

/** How one call is made. */
export interface CallOptions {
  /** Ends the call with class canceled, or with the reason if that is a ClassifiedError. */
  readonly signal?: AbortSignal;
  /** Time the call may take, in milliseconds, also told to the server. Absent or not finite: no limit. */
  readonly timeoutMs?: number;
  /** Request headers: a Metadata, or pairs. Keys are lowered. */
  readonly metadata?: Metadata | Readonly<Record<string, string | readonly string[]>>;
  /** The span this call is made for: it gets one below it, and the server is told of that. Carriers without spans drop it. */
  readonly span?: Span;
  /** Called with the response headers, once, before the first message. */
  readonly onHeaders?: (headers: Metadata) => void;
  /** Called with the trailers, once, also when the call fails with a status. */
  readonly onTrailers?: (trailers: Metadata) => void;
}

/**
 * One way to reach a server. Calls fail with ClassifiedError only: a status of the server by the table in
 * `status.ts`; a connection that cannot be made or breaks, unavailable; a closed transport, unavailable.
 */
export interface Transport {
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    options: CallOptions,
  ): Promise<MessageShape<O>>;
  /**
   * Any streaming method. The call starts with the first `next()` of the result. Leaving the loop early cancels the
   * call. When the server answers before it has read all requests, `requests` is ended by `return()`.
   */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    requests: AsyncIterable<MessageShape<I>>,
    options: CallOptions,
  ): AsyncIterable<MessageShape<O>>;
  /** Ends running calls with unavailable and frees the connection. May be called twice. */
  close(): Promise<void>;
}

/** The call function of one method in a {@link Client}. */
export type ClientMethod<M extends DescMethod> =
  M extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
    : M extends DescMethodServerStreaming<infer I, infer O>
      ? (request: MessageInitShape<I>, options?: CallOptions) => AsyncIterable<MessageShape<O>>
      : M extends DescMethodClientStreaming<infer I, infer O>
        ? (requests: AsyncIterable<MessageInitShape<I>>, options?: CallOptions) => Promise<MessageShape<O>>
        : M extends DescMethodBiDiStreaming<infer I, infer O>
          ? (requests: AsyncIterable<MessageInitShape<I>>, options?: CallOptions) => AsyncIterable<MessageShape<O>>
          : never;

/** A typed client of one service. */
export type Client<S extends DescService> = { [K in keyof S["method"]]: ClientMethod<S["method"][K]> };
