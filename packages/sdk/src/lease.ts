import { backgroundContext, isErrorClass, type RequestContext } from "@stevedore/base";
import type { LeaseManager } from "@stevedore/core";
import { Label } from "@stevedore/oci/annotations";

/** How long a lease of a client lives that never came back: containerd's day. */
const LEASE_MS = 86_400_000;

/**
 * Runs `work` in a context whose lease keeps everything new from being collected, and deletes the lease afterwards. A
 * context that has a lease already is used as it is.
 */
export async function withLease<T>(
  leases: LeaseManager,
  context: RequestContext,
  work: (leased: RequestContext) => Promise<T>,
): Promise<T> {
  if (context.lease !== undefined) return work(context);
  const expires = new Date(Date.now() + LEASE_MS).toISOString().replace(/\.\d+Z$/, "Z");
  const lease = await leases.create(context, { id: leaseId(), labels: { [Label.gcExpire]: expires } });
  // No AsyncDisposableStack here: Node has it from version 24 only, and the SDK's root export claims 22.
  let result: T;
  try {
    result = await work({ ...context, lease: lease.id });
  } catch (error) {
    // What the work says goes before what the removal says; the lease expires by itself.
    await release(leases, context, lease.id).catch(() => undefined);
    throw error;
  }
  await release(leases, context, lease.id);
  return result;
}

async function release(leases: LeaseManager, context: RequestContext, id: string): Promise<void> {
  // The caller's signal may be what ended the work; the lease goes all the same.
  const { signal: _caller, ...rest } = context;
  try {
    await leases.delete(backgroundContext(rest), id);
  } catch (error) {
    if (!isErrorClass(error, "not-found") && !isErrorClass(error, "unavailable")) throw error;
  }
}

/** Nanoseconds and random letters, as containerd's clients name leases. */
export function leaseId(): string {
  const random = crypto.getRandomValues(new Uint8Array(3));
  return `${BigInt(Date.now()) * 1_000_000n}-${Buffer.from(random).toString("base64url")}`;
}
