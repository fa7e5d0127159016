import { classified, messageOf } from "@stevedore/base/errors";
import type { Method } from "@stevedore/ttrpc/server";
import { type DescService, decodeMessage, encodeMessage, isMessage, makeMessage } from "@stevedore/wire/codec";
import type { ServiceImpl } from "@stevedore/wire/rpc/types";
import { traceCall } from "./trace.ts";

/** A service whose descriptors are loaded at its first call: a shim speaks one version of the API and offers two. */
export interface LazyService<S extends DescService> {
  /** Names of its methods, all unary. */
  readonly methods: readonly string[];
  readonly load: () => Promise<S>;
  readonly implementation: Partial<ServiceImpl<S>>;
}

/** The methods of a lazy service, as a ttrpc server takes them. */
export function lazyMethods<S extends DescService>(service: LazyService<S>): Record<string, Method> {
  let loaded: Promise<S> | undefined;
  const methods: Record<string, Method> = {};
  for (const name of service.methods) {
    methods[name] = {
      kind: "unary",
      async call(payload, call) {
        loaded ??= service.load();
        const method = (await loaded).methods.find((one) => one.name === name);
        const implementation: unknown = method && Reflect.get(service.implementation, method.localName);
        if (method === undefined || typeof implementation !== "function") {
          throw classified("not-implemented", `method ${name} not implemented`);
        }
        const request = decode(() => decodeMessage(method.input, payload));
        const work = async (): Promise<unknown> =>
          Reflect.apply(implementation, service.implementation, [request, call]);
        const answer = await traceCall(call, work);
        if (isMessage(answer)) return encodeMessage(method.output, answer);
        return encodeMessage(method.output, makeMessage(method.output, isFields(answer) ? answer : {}));
      },
    };
  }
  return methods;
}

function decode<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw classified("internal", `ttrpc: error unmarshalling payload: ${messageOf(cause)}`, { cause });
  }
}

function isFields(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
