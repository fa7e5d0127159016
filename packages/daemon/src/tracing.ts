/** Spans of the daemon: one for each gRPC call, and below it one for each store, snapshotter or task manager it asks. */
import type { RequestContext } from "@stevedore/base";
import type { CallObserver } from "@stevedore/wire/grpc/server";
import { Code } from "@stevedore/wire/status";
import type { Tracer } from "@stevedore/wire/trace/tracer";

/** Codes that are the server's failure; the others are answers. As OpenTelemetry's gRPC instrumentation has it. */
const FAILURES: ReadonlySet<number> = new Set([
  Code.unknown,
  Code.deadlineExceeded,
  Code.unimplemented,
  Code.internal,
  Code.unavailable,
  Code.dataLoss,
]);

/** Begins a span for each call, under the names and with the attributes of OpenTelemetry's gRPC instrumentation for Go. */
export function traceCalls(tracer: Tracer): CallObserver {
  return (method, call) => {
    const service = method.parent.typeName;
    const span = tracer.start(`${service}/${method.name}`, (name) => call.metadata.get(name), {
      kind: "server",
      attributes: { "rpc.system": "grpc", "rpc.service": service, "rpc.method": method.name },
    });
    return {
      span,
      ended: ({ status }) => {
        span.set({ "rpc.grpc.status_code": status.code });
        if (FAILURES.has(status.code)) span.end(status.message);
        else span.end();
      },
    };
  };
}

function isTracedContext(value: unknown): value is RequestContext {
  return (
    typeof value === "object" && value !== null && "span" in value && value.span !== undefined && "signal" in value
  );
}

/**
 * A thing whose asynchronous methods take a context first, with a span around each call whose context has one: `name.method`.
 * Only made where tracing is on.
 */
export function spanned<T extends object>(name: string, thing: T): T {
  return new Proxy(thing, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== "function") return value;
      return (...args: unknown[]): unknown => {
        const [context, ...rest] = args;
        if (!isTracedContext(context)) return Reflect.apply(value, target, args);
        const what = { name: `${name}.${String(key)}`, attributes: attributesOf(context, rest) };
        return callSpanned(context, what, (inner) => Reflect.apply(value, target, [inner, ...rest]));
      };
    },
  });
}

function attributesOf({ namespace }: RequestContext, [first]: readonly unknown[]): Record<string, string> {
  return {
    ...(namespace === undefined ? {} : { "containerd.namespace": namespace }),
    ...(typeof first === "string" ? { "containerd.key": first } : {}),
    ...idIn(first),
  };
}

function idIn(value: unknown): Record<string, string> {
  if (typeof value !== "object" || value === null || !("containerId" in value)) return {};
  return typeof value.containerId === "string" ? { "container.id": value.containerId } : {};
}

/** A promise is waited for; what is no promise (a stream that runs later) is handed on without a span. */
function callSpanned(
  context: RequestContext,
  what: { readonly name: string; readonly attributes: Record<string, string> },
  call: (context: RequestContext) => unknown,
): unknown {
  const span = context.span?.child(what.name, { attributes: what.attributes });
  if (span === undefined) return call(context);
  let result: unknown;
  try {
    result = call({ ...context, span });
  } catch (error) {
    span.end(error);
    throw error;
  }
  if (!(result instanceof Promise)) return result;
  return result.then(
    (value: unknown) => {
      span.end();
      return value;
    },
    (error: unknown) => {
      span.end(error);
      throw error;
    },
  );
}
