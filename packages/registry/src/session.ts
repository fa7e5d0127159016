import type { Logger } from "@stevedore/base";
import type { Authorizer } from "./auth/authorizer.ts";
import type { Breakers } from "./breaker.ts";
import type { HostsSource } from "./hosts/types.ts";
import type { HttpCarrier } from "./http/carrier.ts";
import type { HttpObserver } from "./http/observe.ts";
import type { Environment } from "./http/proxy.ts";
import type { RegistryLimits } from "./limits.ts";

/** What all operations of a client share. */
export interface Session {
  readonly carrier: HttpCarrier;
  readonly breakers: Breakers;
  readonly authorizer: Authorizer;
  readonly hosts: HostsSource;
  readonly limits: RegistryLimits;
  readonly userAgent: string;
  /** Sent to registries with each request; not to other hosts. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly environment: Environment;
  readonly log: Logger;
  /** Told what happens on the wire. */
  readonly observe: HttpObserver | undefined;
  /** What hosts turned out to speak where both HTTPS and HTTP were allowed. */
  readonly schemes: Map<string, SpokenScheme>;
  /** Milliseconds of the clock. */
  readonly now: () => number;
  /** From 0 to below 1, for jitter. */
  readonly random: () => number;
}

/** What a host spoke when it was asked. */
export interface SpokenScheme {
  readonly scheme: "http" | "https";
  /** Milliseconds of the clock until it is asked again: a registry may come back with TLS. */
  readonly until: number;
}
