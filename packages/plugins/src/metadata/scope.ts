import type { RequestContext } from "@stevedore/base";
import { type AnyValue, validNamespace } from "@stevedore/core";
import type { Scope } from "./procedures/shared.ts";

/** Namespace and lease of a call. @throws failed-precondition without a namespace; invalid-argument for a bad one */
export function scopeOf(context: RequestContext): Scope {
  context.signal.throwIfAborted();
  const lease = context.lease === "" ? undefined : context.lease;
  return { namespace: validNamespace(context), lease };
}

/**
 * A value whose bytes stand alone: what is sent to the writer thread is copied with all of the buffer below it, which
 * may be a whole network buffer.
 */
export function ownBytes(any: AnyValue): AnyValue {
  return any.value.byteLength === any.value.buffer.byteLength ? any : { ...any, value: any.value.slice() };
}

export function ownExtensions(extensions: Readonly<Record<string, AnyValue>>): Readonly<Record<string, AnyValue>> {
  return Object.fromEntries(Object.entries(extensions).map(([name, any]) => [name, ownBytes(any)]));
}
