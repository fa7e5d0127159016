import { allHostsFailed, HostError, type HostFailure, RegistryError } from "./failure.ts";
import { type Capability, endpointOf, type RegistryHost } from "./hosts/types.ts";
import { TransportError } from "./http/failure.ts";
import { collectFailure } from "./request.ts";
import { known, settled } from "./schemes.ts";
import type { Session } from "./session.ts";

/** Hosts that have all of `capabilities`, in their order. */
export function withCapabilities(
  hosts: readonly RegistryHost[],
  capabilities: readonly Capability[],
): readonly RegistryHost[] {
  return hosts.filter((host) => capabilities.every((capability) => host.capabilities.has(capability)));
}

/** One operation that any of several hosts may serve. */
export interface OverHosts<T> {
  /** What is being done, to what: the beginning of the error's message. */
  readonly doing: string;
  readonly hosts: readonly RegistryHost[];
  readonly signal: AbortSignal;
  /** `attempts`: how often a request may be sent; more than once only where no other host is left. */
  readonly work: (host: RegistryHost, attempts: number) => Promise<T>;
}

/**
 * Tries hosts in order until one serves. A host whose breaker is open comes after all others.
 *
 * @throws RegistryError with the failure of each host; the signal's reason; what is wrong with the caller's own input
 */
export async function overHosts<T>(session: Session, operation: OverHosts<T>): Promise<T> {
  const { hosts, signal } = operation;
  const places = hosts.map((host, place) => ({ host, place }));
  const isOpen = ({ host }: { readonly host: RegistryHost }): boolean =>
    session.breakers.state(endpointOf(known(session, host))).open;
  const ready = places.filter((one) => !isOpen(one));
  const later = places.filter(isOpen);
  const order = [...ready, ...later];
  const failures: { readonly place: number; readonly failure: HostFailure }[] = [];
  for (const [i, { host: configured, place }] of order.entries()) {
    signal.throwIfAborted();
    const host = await settled(session, configured, signal);
    try {
      // Those behind their breaker get one try: their time-out was waited for already.
      const last = i === order.length - 1 && (later.length === 0 || ready.length === 0);
      return await operation.work(host, last ? session.limits.attempts : 1);
    } catch (error) {
      if (!isHostsFault(error)) throw error;
      const told = error instanceof RegistryError ? error.failures.at(-1) : undefined;
      const failure = told ?? collectFailure(error, host, signal);
      failures.push({ place, failure });
      if (i < order.length - 1) session.log.info("registry host failed, trying the next", { ...failure });
    }
  }
  // Told in the order of the configuration, so that the last is the registry itself.
  const inOrder = failures.toSorted((a, b) => a.place - b.place).map(({ failure }) => failure);
  throw allHostsFailed(operation.doing, inOrder);
}

/** Whether another host may do better. Errors of the caller's input are not told of any host. */
export function isHostsFault(error: unknown): boolean {
  if (error instanceof RegistryError) return error.failures.length > 0;
  return error instanceof HostError || error instanceof TransportError;
}
