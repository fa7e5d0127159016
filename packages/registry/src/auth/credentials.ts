/**
 * What proves who asks, and where it was found. `from` is for people (`docker config /root/.docker/config.json`); it
 * never holds a secret.
 */
export type Credential =
  | { readonly kind: "basic"; readonly username: string; readonly password: string; readonly from: string }
  /** A long-lived token that a token server takes in exchange for short ones. */
  | { readonly kind: "identity-token"; readonly token: string; readonly from: string }
  /** A token for the registry itself, sent as it is. */
  | { readonly kind: "registry-token"; readonly token: string; readonly from: string }
  /** The whole value of Authorization, as transfer clients may give it by stream. */
  | { readonly kind: "header"; readonly value: string; readonly from: string };

/** For whom a credential is wanted. */
export interface CredentialQuery {
  /** The host that asks for it, with its port: `registry-1.docker.io`, `localhost:5000`. */
  readonly host: string;
  /** The host of the image's name: `docker.io`. Sources that know names rather than hosts look here too. */
  readonly namespace: string;
  /** Whether the host is the registry of that namespace itself, by name or by configuration, and no mirror of it. */
  readonly own: boolean;
  /** The WWW-Authenticate headers that ask; none when only an explanation is wanted. */
  readonly challenges?: readonly string[];
  readonly signal: AbortSignal;
}

/**
 * A place credentials come from. Answers undefined for hosts it knows nothing of; throws a classified error when it
 * should know and cannot tell (a helper failed, a file is malformed).
 */
export interface CredentialSource {
  find(query: CredentialQuery): Promise<Credential | undefined>;
  /** Where it would look, for `explain`. */
  readonly name: string;
}

/** The first source that knows a host wins. */
export function firstOf(...sources: readonly CredentialSource[]): CredentialSource {
  return {
    name: sources.map(({ name }) => name).join(", "),
    async find(query) {
      for (const source of sources) {
        const found = await source.find(query);
        if (found !== undefined) return found;
      }
      return undefined;
    },
  };
}

/**
 * One credential for one registry, as flags and pull requests give it: for the hosts of `namespace` that are its own,
 * never for a mirror of it.
 */
export function credentialFor(namespace: string, credential: Credential): CredentialSource {
  return {
    name: credential.from,
    find: async (query) => (query.own && query.namespace === namespace ? credential : undefined),
  };
}

/** Whether `host` serves the images named `namespace/…` itself. */
export function isOwnHost(host: string, namespace: string): boolean {
  return host === namespace || (namespace === "docker.io" && DOCKER_HOSTS.has(host));
}

/** Docker Hub's names. */
const DOCKER_HOSTS: ReadonlySet<string> = new Set(["registry-1.docker.io", "index.docker.io", "docker.io"]);

/** Splits `base64(user:password)`. undefined when it is none. */
export function decodeBasic(encoded: string): { readonly username: string; readonly password: string } | undefined {
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(encoded.trim())) return undefined;
  const text = Buffer.from(encoded.trim(), "base64").toString("utf8");
  const colon = text.indexOf(":");
  if (colon <= 0) return undefined;
  // Docker pads some of them with zero bytes.
  return { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/^\0+|\0+$/g, "") };
}

/** The secret parts of a credential, to keep them out of messages. */
export function secretsOf(credential: Credential | undefined): readonly string[] {
  if (credential === undefined) return [];
  if (credential.kind === "header") return [credential.value, ...credential.value.split(" ").slice(1)];
  if (credential.kind !== "basic") return [credential.token];
  const pair = `${credential.username}:${credential.password}`;
  return [credential.password, Buffer.from(pair).toString("base64")].filter((secret) => secret !== "");
}
