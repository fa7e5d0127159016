import { isLoopback } from "../http/proxy.ts";
import type { TlsSettings } from "../http/tls.ts";
import { CAPABILITIES, type HostsSource, type RegistryHost } from "./types.ts";

/** Wishes that hold for every host, as flags give them. */
export interface DefaultHostOptions {
  /** `--plain-http`: the scheme of hosts that no configuration names. */
  readonly scheme?: "http" | "https";
  /** `--tlscacert`, `--tlscert`, `--tlskey`, `--skip-verify`: for hosts whose configuration says nothing of TLS. */
  readonly tls?: TlsSettings;
}

/** The port of a host, "" without one. */
export function portOfHost(host: string): string {
  return /:(\d+)$/.exec(host.replace(/^\[[^\]]*\]/, ""))?.[1] ?? "";
}

/** The host without its port. */
export function nameOfHost(host: string): string {
  const port = portOfHost(host);
  return port === "" ? host : host.slice(0, -port.length - 1);
}

/**
 * The endpoint of a namespace that no configuration names, by the peer's rules: Docker Hub's registry has another name;
 * a local host with a port other than 443 is tried by HTTPS without verification, then by HTTP; all else is HTTPS.
 */
export function defaultHost(namespace: string, options: DefaultHostOptions = {}): RegistryHost {
  const common = {
    path: "/v2",
    capabilities: new Set(CAPABILITIES),
    own: true,
    headers: [],
  } as const;
  const tls = options.tls ?? {};
  if (namespace === "docker.io") {
    return {
      ...common,
      scheme: "https",
      host: "registry-1.docker.io",
      plainFallback: false,
      tls,
      origins: { server: "default of docker.io", ...tlsOrigin(options) },
    };
  }
  const local = isLoopback(nameOfHost(namespace));
  if (options.scheme !== undefined || !local) {
    // HTTP with TLS settings means that HTTPS is tried first, unless the port says HTTP: the peer's rule.
    const mixed = options.scheme === "http" && options.tls !== undefined && portOfHost(namespace) !== "80";
    return {
      ...common,
      scheme: mixed ? "https" : (options.scheme ?? "https"),
      host: namespace,
      plainFallback: mixed,
      tls,
      origins: { server: options.scheme === undefined ? "default" : "flag --plain-http", ...tlsOrigin(options) },
    };
  }
  const port = portOfHost(namespace);
  const ambiguous = port !== "" && port !== "443" && port !== "80";
  return {
    ...common,
    scheme: port === "80" ? "http" : "https",
    host: namespace,
    plainFallback: ambiguous,
    tls: port === "80" ? tls : { ...tls, skipVerify: true },
    origins: { server: "default of local hosts", skip_verify: "default of local hosts", ...tlsOrigin(options) },
  };
}

function tlsOrigin(options: DefaultHostOptions): Record<string, string> {
  if (options.tls === undefined) return {};
  const { ca, client, skipVerify } = options.tls;
  return {
    ...(ca === undefined ? {} : { ca: "flag --tlscacert" }),
    ...(client === undefined ? {} : { client: "flags --tlscert, --tlskey" }),
    ...(skipVerify === undefined ? {} : { skip_verify: "flag --skip-verify" }),
  };
}

/** Hosts without any configuration. */
export function defaultHosts(options: DefaultHostOptions = {}): HostsSource {
  return { hosts: async (namespace) => [defaultHost(namespace, options)] };
}
