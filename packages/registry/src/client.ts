import { createLogger, type Logger } from "@stevedore/base";
import type { Descriptor } from "@stevedore/oci";
import { Authorizer } from "./auth/authorizer.ts";
import type { CredentialSource } from "./auth/credentials.ts";
import { Breakers } from "./breaker.ts";
import { type Explanation, explain } from "./explain.ts";
import {
  type Fetched,
  type FetchedByDigest,
  type FetchOptions,
  fetchByDigest,
  fetchDescriptor,
  fetchDocument,
} from "./fetch.ts";
import { defaultHosts } from "./hosts/defaults.ts";
import type { HostsSource } from "./hosts/types.ts";
import { HttpCarrier } from "./http/carrier.ts";
import type { HttpObserver } from "./http/observe.ts";
import type { Environment } from "./http/proxy.ts";
import { imageName } from "./image-name.ts";
import { DEFAULT_LIMITS, type RegistryLimits } from "./limits.ts";
import { catalog, tags } from "./lists.ts";
import { type OpenContent, type Pushed, type PushOptions, push } from "./push.ts";
import { type FetchedRanges, fetchRanges, type RangesOptions } from "./ranges.ts";
import { type ReferrersOptions, referrers } from "./referrers.ts";
import { type RemoveTarget, remove } from "./remove.ts";
import { type Resolved, resolve } from "./resolve.ts";
import type { Session } from "./session.ts";

/** What a client is made of. */
export interface RegistryClientOptions {
  /** Where the hosts of a namespace come from. Default: the registry itself, by the peer's rules. */
  readonly hosts?: HostsSource;
  /** Who we are. Default: anonymous. */
  readonly credentials?: CredentialSource;
  /** `containerd/2.3.4+stevedore.0.1.0` or the like; registries count and debug by it. */
  readonly userAgent: string;
  /** Sent to registries with every request, never to hosts they redirect to. */
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  readonly limits?: Partial<RegistryLimits>;
  /** Where HTTP_PROXY, HTTPS_PROXY and NO_PROXY are looked for. Default: nowhere, so no proxy. */
  readonly environment?: Environment;
  readonly log?: Logger;
  /** Told what happens on the wire; see `formatHttpEvent`. */
  readonly observe?: HttpObserver;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
  /** From 0 to below 1. */
  readonly random?: () => number;
}

/** What may differ between clients that share connections and breakers. */
export type RegistryClientVariant = Pick<
  RegistryClientOptions,
  "hosts" | "credentials" | "headers" | "log" | "observe"
>;

/** One operation's bounds. */
export interface CallOptions {
  readonly signal?: AbortSignal;
}

/**
 * A client of image registries. References are containerd's (`docker.io/library/busybox:1.36`); which hosts serve them
 * is the hosts source's matter. All methods may be called at the same time.
 *
 * Errors are RegistryError (a ClassifiedError with each host's failure) when no host served, the signal's reason after
 * an abort, invalid-argument for malformed input and configuration. No message holds a secret.
 */
export interface RegistryClient {
  /** The manifest a reference names. */
  resolve(reference: string, options?: CallOptions): Promise<Resolved>;
  /** The content of a descriptor, as a stream that survives broken connections. */
  fetch(reference: string, descriptor: Descriptor, options?: FetchOptions): Promise<Fetched>;
  /** The same over several connections. */
  fetchRanges(reference: string, descriptor: Descriptor, options?: RangesOptions): Promise<FetchedRanges>;
  /** Content of which only the digest is known; `mediaType` is asked for when given. */
  fetchByDigest(
    reference: string,
    digest: string,
    options?: FetchOptions & { readonly mediaType?: string },
  ): Promise<FetchedByDigest>;
  /** A manifest, index or config, whole and checked. */
  fetchDocument(reference: string, descriptor: Descriptor, options?: FetchOptions): Promise<Uint8Array>;
  /** Stores content: blobs first, the manifests that name them after, tags last. The caller keeps that order. */
  push(reference: string, descriptor: Descriptor, open: OpenContent, options?: PushOptions): Promise<Pushed>;
  referrers(reference: string, digest: string, options?: ReferrersOptions): Promise<readonly Descriptor[]>;
  tags(reference: string, options?: CallOptions): Promise<readonly string[]>;
  /** The repositories of a registry, by its host. */
  catalog(namespace: string, options?: CallOptions): Promise<readonly string[]>;
  /** Deletes the manifest a reference names, or a blob. */
  remove(reference: string, options?: CallOptions & { readonly blob?: string }): Promise<void>;
  /** How a reference would be served; `live` asks each host. */
  explain(reference: string, options?: CallOptions & { readonly live?: boolean }): Promise<Explanation>;
  /** A client with other hosts or credentials that shares connections, limits and what is known of hosts' health. */
  variant(options: RegistryClientVariant): RegistryClient;
  /** Connections in use and kept, of all variants together. */
  readonly connections: { readonly busy: number; readonly idle: number };
  /** Closes idle connections. What is under way goes on. */
  close(): void;
}

const NEVER = new AbortController().signal;

/** Makes a client. Opens nothing yet. */
export function createRegistryClient(options: RegistryClientOptions): RegistryClient {
  const limits: RegistryLimits = { ...DEFAULT_LIMITS, ...options.limits };
  const now = options.now ?? Date.now;
  const environment = options.environment ?? {};
  return clientOf(options, {
    limits,
    now,
    environment,
    carrier: new HttpCarrier(limits, environment),
    breakers: new Breakers(limits, now),
    userAgent: options.userAgent,
    schemes: new Map(),
    random: options.random ?? Math.random,
  });
}

type Shared = Omit<Session, "authorizer" | "hosts" | "headers" | "log" | "observe">;

function clientOf(options: RegistryClientVariant, shared: Shared): RegistryClient {
  const log = options.log ?? createLogger();
  const { carrier, limits, userAgent, now } = shared;
  const session: Session = {
    ...shared,
    log,
    observe: options.observe,
    hosts: options.hosts ?? defaultHosts(),
    headers: Object.entries(options.headers ?? {}).flatMap(([name, values]) =>
      (typeof values === "string" ? [values] : values).map((value): [string, string] => [name, value]),
    ),
    authorizer: new Authorizer({
      carrier,
      limits,
      userAgent,
      now,
      credentials: options.credentials,
      observe: options.observe,
    }),
  };
  const at = imageName;
  return {
    resolve: async (reference, { signal = NEVER } = {}) => resolve(session, at(reference), signal),
    fetch: async (reference, descriptor, call = {}) =>
      fetchDescriptor(session, at(reference), { descriptor, options: call }),
    fetchRanges: async (reference, descriptor, call = {}) =>
      fetchRanges(session, at(reference), { descriptor, options: call }),
    fetchByDigest: async (reference, digest, call = {}) => {
      const { mediaType } = call;
      const wanted = mediaType === undefined ? {} : { mediaType };
      return fetchByDigest(session, at(reference), { digest, options: call, ...wanted });
    },
    fetchDocument: async (reference, descriptor, call = {}) =>
      fetchDocument(session, at(reference), { descriptor, options: call }),
    push: async (reference, descriptor, open, call = {}) =>
      push(session, at(reference), { descriptor, open, options: call }),
    referrers: async (reference, digest, call = {}) => referrers(session, at(reference), { digest, options: call }),
    tags: async (reference, { signal = NEVER } = {}) => tags(session, at(reference), signal),
    catalog: async (namespace, { signal = NEVER } = {}) => catalog(session, namespace, signal),
    remove: async (reference, { signal = NEVER, blob } = {}) => {
      const target: RemoveTarget = blob === undefined ? { kind: "manifest" } : { kind: "blob", digest: blob };
      return remove(session, at(reference), { target, signal });
    },
    explain: async (reference, { signal = NEVER, live = false } = {}) =>
      explain(session, at(reference), { signal, live }),
    variant: (other) => clientOf({ ...options, ...other }, shared),
    get connections() {
      return carrier.connections;
    },
    close: () => carrier.close(),
  };
}
