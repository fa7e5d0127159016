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

/** Blobs from here on come over several connections. Below, one is done before the others have begun. */
const RANGES_FROM = 32 << 20;

/** Bytes of a range without other wishes: what several of them take in memory stays below what a blob's unpacking takes. */
const RANGE = 4 << 20;

/** Connections for one blob. */
const RANGE_CONNECTIONS = 3;

export type { RegistryClient } from "@stevedore/registry";

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
  /** Bytes of a range when a large blob is fetched over several connections. */
  readonly rangeSize?: number;
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
  const { userAgent, environment, log = createLogger() } = options;
  const client = createRegistryClient({ userAgent, environment, log });
  const clientFor = (access: RegistryAccess): RegistryClient => client.variant(variantOf(options, access, log));
  return {
    open: async (_context, access) => {
      await Promise.resolve();
      return sessionOf(clientFor(access), options.rangeSize ?? RANGE);
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

function sessionOf(client: RegistryClient, rangeSize: number): RegistrySession {
  return {
    resolve: async (reference, signal) => {
      const { name, descriptor } = await client.resolve(reference, { signal });
      const { mediaType, digest, size } = descriptor;
      return { name, descriptor: { mediaType, digest, size } };
    },
    fetch: async function* (reference, descriptor, { offset, signal, urls }) {
      const wanted = { ...descriptor, ...(urls === undefined ? {} : { urls }) };
      if (descriptor.size - offset < RANGES_FROM) {
        yield* (await client.fetch(reference, wanted, { offset, signal })).body;
        return;
      }
      const call = { offset, signal, parallel: RANGE_CONNECTIONS, chunkSize: rangeSize };
      yield* (await client.fetchRanges(reference, wanted, call)).ordered;
    },
    push: async (reference, descriptor, options) => pushTo(client, reference, { descriptor, options }),
    [Symbol.asyncDispose]: async () => Promise.resolve(),
  };
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
