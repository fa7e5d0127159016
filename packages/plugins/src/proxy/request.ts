import { classified, type RequestContext } from "@stevedore/base";
import type { FieldMask } from "@stevedore/core";
import type { CallOptions } from "@stevedore/wire/rpc/index";

/** How a call of the daemon's client goes on to the plugin: same namespace, same lease, same end. */
export function callOptions(context: RequestContext): CallOptions {
  const metadata: Record<string, string> = {};
  if (context.namespace !== undefined) metadata["containerd-namespace"] = context.namespace;
  if (context.lease !== undefined) metadata["containerd-lease"] = context.lease;
  return { signal: context.signal, metadata };
}

/** A field mask as a part of a request; an empty one is left out. */
export function updateMask(fields: FieldMask): { updateMask?: { paths: string[] } } {
  return fields.length === 0 ? {} : { updateMask: { paths: [...fields] } };
}

/** A part of an answer that the protocol promises. @throws internal */
export function present<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw classified("internal", `read answer of proxy plugin: ${what} is missing`);
  return value;
}
