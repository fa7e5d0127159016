import { backgroundContext, isErrorClass, type RequestContext } from "@stevedore/base";
import { goQuote, type LeaseManager } from "@stevedore/core";
import { leaseId } from "@stevedore/core/with-lease";
import { Label } from "@stevedore/oci/annotations";

/** On a lease: the reference whose broken pull it keeps the bytes of. */
const RESUME_LABEL = "stevedore.transfer/resume";

/** How long the bytes of a broken pull are kept: as long as a lease of a client that never came back. */
const KEEP_MS = 86_400_000;

/** Longest reference that is kept for: a label takes no more. */
const MAX_REFERENCE = 4_000;

/** What a pull has brought so far. */
export interface PulledSoFar {
  readonly reference: string;
  /** Digests that are there. */
  readonly blobs: Iterable<string>;
  /** Refs of what had begun. */
  readonly ingests: Iterable<string>;
}

/** Whether the same pull may do better later: nobody refused anything, it was given up or cut off. */
export function wasBrokenOff(error: unknown): boolean {
  return (["canceled", "unavailable", "deadline-exceeded"] as const).some((each) => isErrorClass(error, each));
}

/**
 * Keeps what a broken pull has brought, so that the next one goes on there though the lease it ran under is gone. It is let
 * go when a pull of the reference succeeds, and after a day.
 */
export async function keepForResume(leases: LeaseManager, context: RequestContext, pulled: PulledSoFar): Promise<void> {
  const { reference, blobs, ingests } = pulled;
  if (reference.length > MAX_REFERENCE) return;
  // The caller is gone; this is for the next one.
  const own = ownContext(context);
  const before = await resumeLeases(leases, own, reference);
  const expires = new Date(Date.now() + KEEP_MS).toISOString().replace(/\.\d+Z$/, "Z");
  const id = `resume-${leaseId()}`;
  await leases.create(own, { id, labels: { [RESUME_LABEL]: reference, [Label.gcExpire]: expires } });
  const resources = [
    ...[...blobs].map((digest) => ({ id: digest, type: "content" })),
    ...[...ingests].map((ref) => ({ id: ref, type: "ingests" })),
  ];
  for (const resource of resources) await leases.addResource(own, id, resource);
  await removeLeases(leases, own, before);
}

/** Lets go of what was kept for a reference. */
export async function forgetResume(leases: LeaseManager, context: RequestContext, reference: string): Promise<void> {
  const own = ownContext(context);
  await removeLeases(leases, own, await resumeLeases(leases, own, reference));
}

function ownContext({ namespace }: RequestContext): RequestContext {
  return backgroundContext(namespace === undefined ? {} : { namespace });
}

async function resumeLeases(leases: LeaseManager, context: RequestContext, reference: string): Promise<string[]> {
  const found = await leases.list(context, [`labels.${goQuote(RESUME_LABEL)}==${goQuote(reference)}`]);
  return found.map(({ id }) => id);
}

async function removeLeases(leases: LeaseManager, context: RequestContext, ids: readonly string[]): Promise<void> {
  for (const id of ids) {
    try {
      await leases.delete(context, id);
    } catch (error) {
      // Another pull of the same reference was faster, or it has expired.
      if (!isErrorClass(error, "not-found")) throw error;
    }
  }
}
