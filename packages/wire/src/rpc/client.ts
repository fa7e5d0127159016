import { type DescMethod, type DescService, type Message } from "@bufbuild/protobuf";
import { classified } from "@stevedore/base";
import { initMessage } from "./router.ts";
import type { CallOptions, Client, Transport } from "./types.ts";

/**
 * A typed client of `service` over `transport`. It holds nothing: closing the transport is the caller's business.
 */
export function createClient<S extends DescService>(service: S, transport: Transport): Client<S> {
  const methods: Record<string, unknown> = {};
  for (const method of service.methods) methods[method.localName] = clientMethod(method, transport);
  if (!isClient(methods, service)) throw classified("internal", `make client of ${service.typeName}: methods missing`);
  return methods;
}

function isClient<S extends DescService>(methods: Record<string, unknown>, service: S): methods is Client<S> {
  return service.methods.every((method) => typeof methods[method.localName] === "function");
}

function clientMethod(method: DescMethod, transport: Transport): unknown {
  const message = (init: unknown): Message => initMessage(method.input, init, `request of method ${method.name}`);
  switch (method.methodKind) {
    case "unary": {
      const unary = { ...method, methodKind: "unary" } as const;
      return async (init: unknown, options: CallOptions = {}) => transport.unary(unary, message(init), options);
    }
    case "server_streaming": {
      const streaming = { ...method, methodKind: "server_streaming" } as const;
      return (init: unknown, options: CallOptions = {}) => {
        const request = message(init);
        return transport.stream(streaming, one(request), options);
      };
    }
    case "client_streaming": {
      const streaming = { ...method, methodKind: "client_streaming" } as const;
      return async (inits: AsyncIterable<unknown>, options: CallOptions = {}) => {
        let only: Message | undefined;
        for await (const response of transport.stream(streaming, each(inits, message), options)) {
          if (only !== undefined) throw classified("internal", `method ${method.name} answers once, found more`);
          only = response;
        }
        if (only === undefined) throw classified("internal", `method ${method.name} answers once, found no answer`);
        return only;
      };
    }
    case "bidi_streaming": {
      const streaming = { ...method, methodKind: "bidi_streaming" } as const;
      return (inits: AsyncIterable<unknown>, options: CallOptions = {}) =>
        transport.stream(streaming, each(inits, message), options);
    }
  }
}

async function* one<T>(value: T): AsyncGenerator<T> {
  yield value;
}

async function* each<T, U>(values: AsyncIterable<T>, to: (value: T) => U): AsyncGenerator<U> {
  for await (const value of values) yield to(value);
}
