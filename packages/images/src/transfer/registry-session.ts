/** The registry client as transfers use it. */
import { createLogger, type LogFields, type Logger } from "@stevedore/base";
import type { OpenRegistry, PushOptions, RegistryAccess, RegistryCredentials, RegistrySession } from "@stevedore/core";
import { isIndexType, isManifestType } from "@stevedore/oci/media-types";
import { parseReference } from "@stevedore/oci/reference";
import {
  type Credential,
  type CredentialSource,
  createRegistryClient,
  type DefaultHostOptions,
  defaultHosts,
  firstOf,
  hostsDir,
  type RegistryClient,
} from "@stevedore/registry";
import { isOwnHost } from "@stevedore/registry/auth/credentials";

export type { RegistryClient } from "@stevedore/registry";

/** When what is left of a blob comes over several connections: {@link fetchBlob}. */
export interface RangeRule {
  /** Bytes that must be left: below, one connection is done before others have begun. */
  readonly from: number;
  /** Bytes of a range. */
  readonly size: number;
  /** Connections for one blob. */
  readonly connections: number;
  /** Milliseconds of waiting for the first connection before it is judged; 0 to begin with ranges at once. */
  readonly judgedAfterMs: number;
  /** Bytes a second of waiting below which a connection is slow. */
  readonly slow: number;
}

/**
 * A connection that brings 30 MB/s is as fast as the hosts behind most registries let one be; one that is faster would be
 * slowed down by the ranges (docs/decisions/0223-ranges-when-slow.md).
 */
const RANGES: RangeRule = { from: 32 << 20, size: 4 << 20, connections: 3, judgedAfterMs: 1_000, slow: 30_000_000 };

/** What all sessions of a process share. */
export interface RegistryOptions {
  readonly userAgent: string;
  /** Folders of registry settings for those who name none, the first that has a registry's decides. */
  readonly hostDirs: readonly string[];
  /** Where proxies are looked for. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Asked after who asks for the transfer. */
  readonly credentials?: CredentialSource;
  /** Wishes that hold for every host without settings of its own. */
  readonly defaults?: DefaultHostOptions;
  /** Large blobs always come in ranges of this many bytes. Default: in some of 4 MiB, where one connection is slow. */
  readonly rangeSize?: number;
  /** Over the rule that comes of it; for tests. */
  readonly ranges?: Partial<RangeRule>;
  readonly log?: Logger;
}

/** Sessions over one client: connections and what is known of hosts are shared, credentials are not. */
export interface Registries extends Disposable {
  readonly open: OpenRegistry;
  /** The client itself, for what is no transfer: content by its digest alone. */
  readonly client: (access: RegistryAccess) => RegistryClient;
}

/** Opens nothing yet. */
export function createRegistries(options: RegistryOptions): Registries {
  const { userAgent, environment, rangeSize, log = createLogger() } = options;
  const always = rangeSize === undefined ? {} : { size: rangeSize, judgedAfterMs: 0 };
  const rule: RangeRule = { ...RANGES, ...always, ...options.ranges };
  const client = createRegistryClient({ userAgent, environment, log });
  const clientFor = (access: RegistryAccess): RegistryClient => client.variant(variantOf(options, access, log));
  return {
    open: async (_context, access) => {
      await Promise.resolve();
      return sessionOf(clientFor(access), rule);
    },
    client: clientFor,
    [Symbol.dispose]: () => client.close(),
  };
}

function variantOf(
  options: RegistryOptions,
  access: RegistryAccess,
  log: Logger,
): Parameters<RegistryClient["variant"]>[0] {
  const { defaultScheme } = access;
  const wishes: DefaultHostOptions =
    defaultScheme === "http" || defaultScheme === "https"
      ? { ...options.defaults, scheme: defaultScheme }
      : { ...options.defaults };
  const roots = access.hostDir === "" ? options.hostDirs : [access.hostDir];
  const sources = [
    ...(access.credentials === undefined ? [] : [askedOf(access.credentials)]),
    ...(options.credentials === undefined ? [] : [options.credentials]),
  ];
  return {
    hosts: roots.length === 0 ? defaultHosts(wishes) : hostsDir({ ...wishes, roots }),
    headers: access.headers,
    log: access.debug === undefined ? log : tracing(log, access.debug.write),
    ...(sources.length === 0 ? {} : { credentials: firstOf(...sources) }),
  };
}

/**
 * Credentials of who asked for the transfer. Clients answer for the registry of a name whatever host they are asked about, so
 * that only hosts of the registry itself are asked about, and no mirror gets what is not its own.
 */
function askedOf(ask: NonNullable<RegistryAccess["credentials"]>): CredentialSource {
  return {
    name: "the client",
    find: async ({ host, namespace, own, signal }) =>
      // A file may name the registry itself among its hosts, to say how it is to be spoken to.
      own || isOwnHost(host, namespace) ? credentialOf(await ask(host, signal)) : undefined,
  };
}

function credentialOf(given: RegistryCredentials): Credential | undefined {
  const from = "the client";
  switch (given.kind) {
    case "none":
      return undefined;
    case "password":
      return { kind: "basic", username: given.username, password: given.secret, from };
    case "refresh-token":
      return { kind: "identity-token", token: given.secret, from };
    case "header": {
      const [scheme = "", value = ""] = given.value.split(" ", 2);
      if (scheme.toLowerCase() === "bearer") return { kind: "registry-token", token: value, from };
      if (scheme.toLowerCase() !== "basic") return undefined;
      const decoded = Buffer.from(value, "base64").toString("utf8");
      const colon = decoded.indexOf(":");
      if (colon < 0) return undefined;
      return { kind: "basic", username: decoded.slice(0, colon), password: decoded.slice(colon + 1), from };
    }
  }
}

/** A log whose lines about requests go to a client as well. */
function tracing(log: Logger, write: (line: string) => void): Logger {
  const tell = (message: string, fields: LogFields = {}): void => {
    const values = Object.entries(fields).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
    write([message, ...values].join(" "));
  };
  return {
    ...log,
    debug: (message, fields) => {
      tell(message, fields);
      log.debug(message, fields);
    },
    with: (fields) => tracing(log.with(fields), write),
  };
}

function sessionOf(client: RegistryClient, rule: RangeRule): RegistrySession {
  return {
    resolve: async (reference, signal) => {
      const { name, descriptor } = await client.resolve(reference, { signal });
      const { mediaType, digest, size } = descriptor;
      return { name, descriptor: { mediaType, digest, size } };
    },
    fetch: (reference, descriptor, { offset, signal, urls }) =>
      fetchBlob(client, reference, {
        descriptor: { ...descriptor, ...(urls === undefined ? {} : { urls }) },
        offset,
        signal,
        rule,
      }),
    push: async (reference, descriptor, options) => pushTo(client, reference, { descriptor, options }),
    [Symbol.asyncDispose]: async () => Promise.resolve(),
  };
}

/** A blob over one connection; what is left of a large one over several, when the one turns out to be slow. */
async function* fetchBlob(
  client: RegistryClient,
  reference: string,
  of: {
    readonly descriptor: Parameters<RegistryClient["fetch"]>[1];
    readonly offset: number;
    readonly signal: AbortSignal;
    readonly rule: RangeRule;
  },
): AsyncGenerator<Uint8Array> {
  const { descriptor, signal, rule } = of;
  let at = of.offset;
  const isWorthRanges = (): boolean => descriptor.size - at >= rule.from;
  let isSlow = rule.judgedAfterMs === 0;
  if (!isSlow || !isWorthRanges()) {
    const { body } = await client.fetch(reference, descriptor, { offset: at, signal });
    // Only what is spent on waiting counts: the reader may be what is slow.
    let waited = 0;
    let since = performance.now();
    for await (const chunk of body) {
      waited += performance.now() - since;
      at += chunk.byteLength;
      yield chunk;
      isSlow = waited >= rule.judgedAfterMs && ((at - of.offset) / waited) * 1000 < rule.slow;
      if (isSlow && isWorthRanges()) break;
      since = performance.now();
    }
  }
  if (!isSlow || !isWorthRanges()) return;
  const call = { offset: at, signal, parallel: rule.connections, chunkSize: rule.size };
  yield* (await client.fetchRanges(reference, descriptor, call)).ordered;
}

async function pushTo(
  client: RegistryClient,
  reference: string,
  of: { readonly descriptor: Parameters<RegistryClient["push"]>[1]; readonly options: PushOptions },
): Promise<"pushed" | "exists"> {
  const { descriptor, options } = of;
  const { signal, mountFrom, onProgress, open } = options;
  const { mediaType, digest } = descriptor;
  const isDocument = isManifestType(mediaType) || isIndexType(mediaType);
  // Without the tag a document is stored by its digest alone.
  const name = isDocument && !options.tag ? `${parseReference(reference).locator}@${digest}` : reference;
  const { state } = await client.push(name, descriptor, open, {
    signal,
    mountFrom,
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  return state === "uploaded" ? "pushed" : "exists";
}
