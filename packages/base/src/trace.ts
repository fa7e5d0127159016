/**
 * Tracing as all rooms see it: a span that may be in the context of a call. Nothing here records or sends; without tracing
 * no context has a span, and code that would make one only looks for it.
 */

/** What an attribute may be. Numbers that are whole are sent as integers. */
export type SpanValue = string | number | boolean;
/** Attributes by name. */
export type SpanAttributes = Readonly<Record<string, SpanValue>>;

/** Who a span stands for: one's own work, a call that was received, a call that was made. */
export type SpanKind = "internal" | "server" | "client";

/** How a span begins. */
export interface SpanOptions {
  /** Default internal. */
  readonly kind?: SpanKind;
  readonly attributes?: SpanAttributes;
}

/** A piece of work with a beginning, an end and a place below another. Must not throw. */
export interface Span {
  /** What it has in common with all others of one request: 32 hex digits. */
  readonly traceId: string;
  /** Begins a span below this one. Names come from a small set; what varies is an attribute. */
  child(name: string, options?: SpanOptions): Span;
  set(attributes: SpanAttributes): void;
  /** Something that happened at a moment within the span. */
  event(name: string, attributes?: SpanAttributes): void;
  /** Headers of W3C trace context for a call made on behalf of this span: `traceparent`, and what came with it. */
  headers(): Readonly<Record<string, string>>;
  /** Ends it; with an error it has failed. The first call counts. */
  end(error?: unknown): void;
}

/**
 * Runs `work` in a span below the context's. Without one, this is the call and nothing else.
 *
 * @throws what `work` throws; the span has it then.
 */
export async function traced<C extends { readonly span?: Span }, T>(
  context: C,
  { name, attributes = {} }: { readonly name: string; readonly attributes?: SpanAttributes },
  work: (context: C) => Promise<T>,
): Promise<T> {
  if (context.span === undefined) return work(context);
  const span = context.span.child(name, { attributes });
  try {
    const result = await work({ ...context, span });
    span.end();
    return result;
  } catch (error) {
    span.end(error);
    throw error;
  }
}
