/** Spans of a shim, sent over OTLP. Loaded only where tracing is on. */
import { AsyncLocalStorage } from "node:async_hooks";
import type { Span } from "@stevedore/base";
import { errorClassOf, messageOf } from "@stevedore/base/errors";
import type { Logger } from "@stevedore/base/log";
import { Code, codeOf } from "@stevedore/ttrpc/status";
import { SpanExporter } from "@stevedore/wire/trace/exporter";
import { samplerOf } from "@stevedore/wire/trace/sampler";
import { exportSettings, resourceOf, type TracingConfig, type Variables, whyOff } from "@stevedore/wire/trace/settings";
import { Tracer } from "@stevedore/wire/trace/tracer";
import type { ShimTrace } from "./trace.ts";

/** A shim has variables and no file. */
const NO_CONFIG: TracingConfig = { endpoint: "", protocol: "", insecure: false, serviceName: "", samplingRatio: 0 };

/** Name of the service unless the variables have one. */
const SERVICE = "containerd-shim-runc-v2";

/** Codes that are the server's failure; the others are answers. */
const FAILURES: ReadonlySet<number> = new Set([
  Code.unknown,
  Code.deadlineExceeded,
  Code.unimplemented,
  Code.internal,
  Code.unavailable,
  Code.dataLoss,
]);

/** @returns undefined when the variables leave tracing off. @throws what is wrong with them, by class */
export function openTrace(env: Variables, log: Logger): (AsyncDisposable & { readonly trace: ShimTrace }) | undefined {
  if (whyOff(env, "") !== undefined) return undefined;
  const exporter = new SpanExporter({
    settings: exportSettings(env, NO_CONFIG),
    resource: resourceOf(env, { serviceName: SERVICE, version: "" }),
    log,
  });
  const tracer = new Tracer({ sampler: samplerOf(env, 0, log), sink: exporter.take });
  // The one place with ambient state: steps are deep below their call, and a parameter for this alone would go through
  // every function of a shim that mostly runs without it.
  const current = new AsyncLocalStorage<Span>();
  const trace: ShimTrace = {
    call: async ({ service, method, metadata }, work) => {
      const headers = new Map(metadata);
      const span = tracer.start(`${service}/${method}`, (name) => headers.get(name), {
        kind: "server",
        attributes: { "rpc.system": "ttrpc", "rpc.service": service, "rpc.method": method },
      });
      try {
        const answer = await current.run(span, work);
        span.set({ "rpc.ttrpc.status_code": Code.ok });
        span.end();
        return answer;
      } catch (error) {
        const code = codeOf(errorClassOf(error));
        span.set({ "rpc.ttrpc.status_code": code });
        if (FAILURES.has(code)) span.end(messageOf(error));
        else span.end();
        throw error;
      }
    },
    step: async (name, attributes, work) => {
      const span = current.getStore()?.child(name, { attributes });
      if (span === undefined) return work();
      try {
        const result = await current.run(span, work);
        span.end();
        return result;
      } catch (error) {
        span.end(error);
        throw error;
      }
    },
  };
  return { trace, [Symbol.asyncDispose]: async () => exporter[Symbol.asyncDispose]() };
}
