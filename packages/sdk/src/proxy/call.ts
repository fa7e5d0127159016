import type { DescService } from "@bufbuild/protobuf";
import { classified, type RequestContext } from "@stevedore/base";
import { type CallOptions, type Client, createClient, type Transport } from "@stevedore/wire/rpc/index";

/** gRPC metadata keys of containerd's API. */
const NAMESPACE_HEADER = "containerd-namespace";
const LEASE_HEADER = "containerd-lease";

/** How a call is made in a context: its namespace and lease as headers, its signal. */
export function callOptions(context: RequestContext): CallOptions {
  const metadata: Record<string, string> = {};
  if (context.namespace !== undefined) metadata[NAMESPACE_HEADER] = context.namespace;
  if (context.lease !== undefined) metadata[LEASE_HEADER] = context.lease;
  return { signal: context.signal, metadata };
}

/**
 * The client of a service, made at its first call, so that a program loads only the messages it uses. `load` imports the
 * generated module.
 */
export function lazyClient<S extends DescService>(
  transport: Transport,
  load: () => Promise<S>,
): () => Promise<Client<S>> {
  let made: Promise<Client<S>> | undefined;
  return async () => {
    made ??= load().then((service) => createClient(service, transport));
    return made;
  };
}

/** A part of an answer that the protocol says is there. @throws internal */
export function present<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw classified("internal", `read answer: ${what} is missing`);
  return value;
}
