import type { Credential } from "../auth/credentials.ts";
import type { TlsSettings } from "../http/tls.ts";

/** What a host may be used for. */
export type Capability = "pull" | "resolve" | "push" | "referrers";

/** Every capability, in the order the peer documents them. */
export const CAPABILITIES: readonly Capability[] = ["pull", "resolve", "push", "referrers"];

/** One endpoint that serves the images of a namespace. */
export interface RegistryHost {
  readonly scheme: "http" | "https";
  /** With its port, when it is not the scheme's own. */
  readonly host: string;
  /** Path of the API without a slash at its end: `/v2`, or what `override_path` left; may be "". */
  readonly path: string;
  readonly capabilities: ReadonlySet<Capability>;
  /** Whether HTTPS is tried first and HTTP taken when the server speaks no TLS: the peer's rule for local hosts. */
  readonly plainFallback: boolean;
  /** Whether it is the registry itself, by name or as a file's `server`, and no mirror. */
  readonly own: boolean;
  readonly tls: TlsSettings;
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Milliseconds for name look-up and TCP; absent for the client's limit. */
  readonly dialMs?: number;
  /** The proxy to use whatever the environment says; may hold credentials. */
  readonly proxy?: URL;
  readonly credential?: Credential;
  /**
   * Where each setting comes from, by its name in hosts.toml: `/etc/containerd/certs.d/docker.io/hosts.toml:3`,
   * `default`, a flag's or a configuration key's name.
   */
  readonly origins: Readonly<Record<string, string>>;
}

/** The hosts of a namespace (the host part of an image's name), in the order they are tried. */
export interface HostsSource {
  /** @throws invalid-argument naming file, line and key; other classes for files that cannot be read */
  hosts(namespace: string): Promise<readonly RegistryHost[]>;
}

/** Scheme, host and port. */
export function endpointOf(host: Pick<RegistryHost, "scheme" | "host">): string {
  return `${host.scheme}://${host.host}`;
}
