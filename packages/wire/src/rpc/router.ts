import {
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type DescService,
  isMessage,
  type Message,
} from "@bufbuild/protobuf";
import { classified } from "@stevedore/base";
import { makeMessage } from "../codec.ts";
import type { CallContext, ServiceImpl } from "./types.ts";

/** A unary method as carriers call it. */
export interface UnaryHandler {
  readonly kind: "unary";
  readonly method: DescMethodUnary;
  /** @param request a message of `method.input`. @returns a message of `method.output`. */
  call(request: Message, context: CallContext): Promise<Message>;
}

/** Any streaming method as carriers call it: a stream in, a stream out, whatever the kind. */
export interface StreamHandler {
  readonly kind: "stream";
  readonly method: DescMethodStreaming;
  /**
   * Server-streaming methods read exactly one request, client-streaming ones yield exactly one response; both are
   * enforced here.
   */
  call(requests: AsyncIterable<Message>, context: CallContext): AsyncIterable<Message>;
}

/** A method of either kind as carriers call it. */
export type MethodHandler = UnaryHandler | StreamHandler;

/** Sees every call of a router, outermost first. Throwing refuses the call. Must call `next` at most once. */
export interface Interceptor {
  unary(
    method: DescMethod,
    request: Message,
    context: CallContext,
    next: (request: Message, context: CallContext) => Promise<Message>,
  ): Promise<Message>;
  stream(
    method: DescMethod,
    requests: AsyncIterable<Message>,
    context: CallContext,
    next: (requests: AsyncIterable<Message>, context: CallContext) => AsyncIterable<Message>,
  ): AsyncIterable<Message>;
}

/** What `Router.find` answers when there is no such method: the reason, in gRPC's words. */
export interface NoMethod {
  readonly kind: "none";
  readonly message: string;
}

/**
 * The services of a server, by full name. Carriers look methods up here and know nothing else of services. A method in
 * a service's description without implementation answers not-implemented (UNIMPLEMENTED).
 */
export class Router {
  readonly #methods = new Map<string, Map<string, MethodHandler>>();
  readonly #services: DescService[] = [];
  readonly #interceptors: Interceptor[] = [];

  /**
   * Adds a service.
   *
   * @throws already-exists when a service of that name was added before.
   */
  service<S extends DescService>(service: S, implementation: Partial<ServiceImpl<S>>): this {
    if (this.#methods.has(service.typeName)) {
      throw classified("already-exists", `add service ${JSON.stringify(service.typeName)}: already exists`);
    }
    const methods = new Map<string, MethodHandler>();
    for (const method of service.methods) {
      const found: unknown = Reflect.get(implementation, method.localName);
      const bound = typeof found === "function" ? bind(found, implementation) : undefined;
      methods.set(method.name, this.#intercepted(handlerOf(method, bound)));
    }
    this.#methods.set(service.typeName, methods);
    this.#services.push(service);
    return this;
  }

  /** Adds an interceptor around all methods, also of services added before. The first added is outermost. */
  use(interceptor: Interceptor): this {
    this.#interceptors.push(interceptor);
    return this;
  }

  /** The handler of `service`/`method` by full service name and the name in the proto file. */
  find(service: string, method: string): MethodHandler | NoMethod {
    const methods = this.#methods.get(service);
    if (methods === undefined) return { kind: "none", message: `unknown service ${service}` };
    return methods.get(method) ?? { kind: "none", message: `unknown method ${method} for service ${service}` };
  }

  /** The handler of a gRPC path, `/package.Service/Method`. */
  findPath(path: string): MethodHandler | NoMethod {
    const slash = path.lastIndexOf("/");
    if (!path.startsWith("/") || slash < 1) return { kind: "none", message: `malformed method name: "${path}"` };
    return this.find(path.slice(1, slash), path.slice(slash + 1));
  }

  /** The services in order of addition. */
  get services(): readonly DescService[] {
    return this.#services;
  }

  #intercepted(handler: MethodHandler): MethodHandler {
    const around = this.#interceptors;
    if (handler.kind === "unary") {
      const from = (index: number, request: Message, context: CallContext): Promise<Message> => {
        const interceptor = around[index];
        if (interceptor === undefined) return handler.call(request, context);
        return interceptor.unary(handler.method, request, context, (r, c) => from(index + 1, r, c));
      };
      return { kind: "unary", method: handler.method, call: (request, context) => from(0, request, context) };
    }
    const from = (index: number, requests: AsyncIterable<Message>, context: CallContext): AsyncIterable<Message> => {
      const interceptor = around[index];
      if (interceptor === undefined) return handler.call(requests, context);
      return interceptor.stream(handler.method, requests, context, (r, c) => from(index + 1, r, c));
    };
    return { kind: "stream", method: handler.method, call: (requests, context) => from(0, requests, context) };
  }
}

type Bound = (request: unknown, context: CallContext) => unknown;

// The types of `Partial<ServiceImpl>` have checked the function; behind this line it is called by description only.
function bind(fn: Function, self: object): Bound {
  return (request, context) => {
    const result: unknown = Reflect.apply(fn, self, [request, context]);
    return result;
  };
}

function handlerOf(method: DescMethod, bound: Bound | undefined): MethodHandler {
  const call: Bound =
    bound ??
    (() => {
      throw classified("not-implemented", `method ${method.name} not implemented`);
    });
  switch (method.methodKind) {
    case "unary":
      return {
        kind: "unary",
        method: { ...method, methodKind: "unary" },
        call: async (request, context) => toMessage(method, await call(request, context)),
      };
    case "server_streaming":
      return {
        kind: "stream",
        method: { ...method, methodKind: "server_streaming" },
        async *call(requests, context) {
          const request = await exactlyOne(requests, method);
          yield* toMessages(method, call(request, context));
        },
      };
    case "client_streaming":
      return {
        kind: "stream",
        method: { ...method, methodKind: "client_streaming" },
        async *call(requests, context) {
          yield toMessage(method, await call(requests, context));
        },
      };
    case "bidi_streaming":
      return {
        kind: "stream",
        method: { ...method, methodKind: "bidi_streaming" },
        async *call(requests, context) {
          yield* toMessages(method, call(requests, context));
        },
      };
  }
}

async function exactlyOne(requests: AsyncIterable<Message>, method: DescMethod): Promise<Message> {
  let only: Message | undefined;
  for await (const request of requests) {
    if (only !== undefined) throw classified("internal", `method ${method.name} takes one request, found more`);
    only = request;
  }
  if (only === undefined) throw classified("internal", `method ${method.name} takes one request, found none`);
  return only;
}

function toMessage(method: DescMethod, value: unknown): Message {
  return initMessage(method.output, value, `answer of method ${method.name}`);
}

async function* toMessages(method: DescMethod, values: unknown): AsyncIterable<Message> {
  if (!isAsyncIterable(values)) {
    throw classified("internal", `answer of method ${method.name}: found ${typeof values}, want an async iterable`);
  }
  for await (const value of values) yield toMessage(method, value);
}

/** A message of `schema` from a message of it or from initial values. */
export function initMessage(schema: DescMessage, value: unknown, what: string): Message {
  if (isMessage(value)) {
    if (value.$typeName === schema.typeName) return value;
    throw classified("internal", `${what}: found a ${value.$typeName}, want a ${schema.typeName}`);
  }
  if (isRecord(value)) return makeMessage(schema, value);
  throw classified("internal", `${what}: found ${typeof value}, want a ${schema.typeName}`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}
