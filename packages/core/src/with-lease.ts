import { backgroundContext, isErrorClass, type RequestContext } from "@stevedore/base";
import { Label } from "@stevedore/oci/annotations";
import type { LeaseManager } from "./leases.ts";

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
  const lease = openLease(leases, context);
  // No AsyncDisposableStack here: Node has it from version 24 only, and the SDK's root export claims 22.
  let result: T;
  try {
    result = await work(await lease.leased);
  } catch (error) {
    // What the work says goes before what the removal says; the lease expires by itself.
    await lease.release().catch(() => undefined);
    throw error;
  }
  await lease.release();
  return result;
}

/** A lease that is being made, for work that has something to do meanwhile. */
export interface OpenLease {
  /** The context with it. */
  readonly leased: Promise<RequestContext>;
  /** Deletes it, once it is there. Call it once, also when `leased` has failed. */
  readonly release: () => Promise<void>;
}

/** Begins to make a lease as {@link withLease} does; a context that has one already is used as it is. */
export function openLease(leases: LeaseManager, context: RequestContext): OpenLease {
  if (context.lease !== undefined) return { leased: Promise.resolve(context), release: () => Promise.resolve() };
  const expires = new Date(Date.now() + LEASE_MS).toISOString().replace(/\.\d+Z$/, "Z");
  const made = leases.create(context, { id: leaseId(), labels: { [Label.gcExpire]: expires } });
  const leased = made.then((lease) => ({ ...context, lease: lease.id }));
  // Whoever releases it may not have come to wait for it.
  leased.catch(() => undefined);
  return {
    leased,
    release: async () => {
      const { lease } = await leased.catch(() => context);
      if (lease !== undefined) await release(leases, context, lease);
    },
  };
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
