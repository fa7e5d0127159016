import { messageOf } from "@stevedore/base";
import { parseChallenges } from "./auth/challenge.ts";
import type { Credential } from "./auth/credentials.ts";
import { failureOf, type HostFailure } from "./failure.ts";
import { type Capability, endpointOf, type RegistryHost } from "./hosts/types.ts";
import { proxyFor } from "./http/proxy.ts";
import type { ShownCertificate } from "./http/tls.ts";
import type { ImageName } from "./image-name.ts";
import { redactUrl } from "./redact.ts";
import { send, urlOf } from "./request.ts";
import { known, settled } from "./schemes.ts";
import type { Session } from "./session.ts";

/** One setting of a host, with the place it was read from. */
export interface ExplainedSetting {
  /** As hosts.toml names it. */
  readonly name: string;
  /** For people; never a secret: headers show their names only. */
  readonly value: string;
  /** `file:line`, a configuration key, a flag, or "default". */
  readonly from: string;
}

/** Who a host is told we are. */
export type ExplainedAuth =
  | { readonly kind: "anonymous" }
  | { readonly kind: Credential["kind"]; readonly from: string; readonly username?: string }
  /** A source that should know could not tell. */
  | { readonly kind: "failed"; readonly reason: string };

/** What a live check found: `GET /v2/` without credentials, then with them if they are wanted. */
export interface LiveCheck {
  readonly ok: boolean;
  /** Milliseconds of the whole check. */
  readonly ms: number;
  readonly status?: number;
  /** Ways to authenticate the host offers: `bearer https://auth.example/token`, `basic`. */
  readonly challenges: readonly string[];
  /** What the host showed of itself, over TLS. */
  readonly certificate?: ShownCertificate;
  /** Why it is not ok, and what helps. */
  readonly failure?: HostFailure;
}

/** One host of a reference, in the order they are tried. */
export interface ExplainedHost {
  readonly endpoint: string;
  /** Where its API is: `https://registry-1.docker.io/v2`. */
  readonly api: string;
  readonly own: boolean;
  readonly capabilities: readonly Capability[];
  /** Whether HTTP is taken when the host speaks no TLS. */
  readonly plainFallback: boolean;
  readonly tls: "off" | "verified" | "not verified";
  /** The proxy requests go through, without its credentials. */
  readonly proxy?: string;
  readonly settings: readonly ExplainedSetting[];
  readonly auth: ExplainedAuth;
  /** Failures since its last answer, and until when (milliseconds of the clock) it comes after all others; 0 if not. */
  readonly failures: number;
  readonly passedOverUntil: number;
  readonly lastError?: { readonly at: number; readonly failure: HostFailure };
  readonly live?: LiveCheck;
}

/** Everything that decides how a reference is pulled. */
export interface Explanation {
  readonly reference: string;
  readonly namespace: string;
  readonly repository: string;
  readonly tag: string;
  readonly digest: string;
  readonly hosts: readonly ExplainedHost[];
}

/**
 * Tells how a reference would be pulled and pushed. Asks credential sources, so helpers run; talks to hosts only for a
 * live check.
 *
 * @throws invalid-argument for a malformed reference or configuration
 */
export async function explain(
  session: Session,
  name: ImageName,
  request: { readonly live: boolean; readonly signal: AbortSignal },
): Promise<Explanation> {
  const hosts = await session.hosts.hosts(name.namespace);
  const { text, namespace, repository, tag, digest } = name;
  return {
    reference: text,
    namespace,
    repository,
    tag,
    digest,
    hosts: await Promise.all(hosts.map(async (host) => explainHost(session, host, { ...request, namespace }))),
  };
}

async function explainHost(
  session: Session,
  configured: RegistryHost,
  request: { readonly live: boolean; readonly signal: AbortSignal; readonly namespace: string },
): Promise<ExplainedHost> {
  const host = request.live ? await settled(session, configured, request.signal) : known(session, configured);
  const endpoint = endpointOf(host);
  const state = session.breakers.state(endpoint);
  const proxy = host.proxy ?? proxyFor(urlOf({ host, path: "/" }), session.environment);
  const live = request.live ? await check(session, host, request) : undefined;
  return {
    endpoint,
    api: `${endpoint}${host.path}`,
    own: host.own,
    capabilities: [...host.capabilities],
    plainFallback: host.plainFallback,
    tls: host.scheme === "http" ? "off" : host.tls.skipVerify === true ? "not verified" : "verified",
    ...(proxy === undefined ? {} : { proxy: redactUrl(proxy) }),
    settings: settingsOf(host),
    auth: await explainAuth(session, host, request),
    failures: state.failures,
    passedOverUntil: state.until,
    ...(state.last === undefined ? {} : { lastError: state.last }),
    ...(live === undefined ? {} : { live }),
  };
}

function settingsOf(host: RegistryHost): readonly ExplainedSetting[] {
  const { tls, headers, dialMs } = host;
  const values: Readonly<Record<string, string | undefined>> = {
    server: `${endpointOf(host)}${host.path}`,
    capabilities: [...host.capabilities].join(", "),
    ca: tls.ca === undefined ? undefined : `${tls.ca.length} file(s)`,
    client: tls.client === undefined ? undefined : `${tls.client.length} certificate(s)`,
    skip_verify: tls.skipVerify === undefined ? undefined : String(tls.skipVerify),
    header: headers.length === 0 ? undefined : headers.map(([name]) => name).join(", "),
    dial_timeout: dialMs === undefined ? undefined : `${dialMs} ms`,
    proxy: host.proxy === undefined ? undefined : redactUrl(host.proxy),
    override_path: host.origins["override_path"] === undefined ? undefined : `path ${JSON.stringify(host.path)}`,
  };
  return Object.entries(values).flatMap(([name, value]) => {
    const from = host.origins[name];
    return value === undefined || from === undefined ? [] : [{ name, value, from }];
  });
}

async function explainAuth(
  session: Session,
  host: RegistryHost,
  request: { readonly namespace: string; readonly signal: AbortSignal },
): Promise<ExplainedAuth> {
  const target = {
    origin: endpointOf(host),
    host: host.host,
    namespace: request.namespace,
    own: host.own,
    tls: host.tls,
    configured: host.credential,
    headers: host.headers,
  };
  try {
    const found = await session.authorizer.describe(target, request.signal);
    if (found === undefined) return { kind: "anonymous" };
    const { kind, from } = found;
    return found.kind === "basic" ? { kind, from, username: found.username } : { kind, from };
  } catch (error) {
    request.signal.throwIfAborted();
    return { kind: "failed", reason: messageOf(error) };
  }
}

async function check(
  session: Session,
  host: RegistryHost,
  request: { readonly namespace: string; readonly signal: AbortSignal },
): Promise<LiveCheck> {
  const began = session.now();
  const common = {
    host,
    namespace: request.namespace,
    method: "GET",
    path: "/",
    scopes: [],
    signal: request.signal,
    attempts: 1,
  };
  const challenges: string[] = [];
  let certificate: ShownCertificate | undefined;
  const told = (): { readonly certificate?: ShownCertificate } => (certificate === undefined ? {} : { certificate });
  try {
    const first = await send(session, { ...common, anonymous: true, accept: [401] });
    certificate = first.certificate();
    await first.discard();
    let { status } = first;
    for (const { scheme, parameters } of parseChallenges(first.headers)) {
      const realm = parameters.get("realm");
      challenges.push(scheme === "bearer" && realm !== undefined ? `${scheme} ${redactUrl(realm)}` : scheme);
    }
    if (status === 401) {
      const second = await send(session, common);
      await second.discard();
      status = second.status;
    }
    return { ok: true, ms: session.now() - began, status, challenges, ...told() };
  } catch (error) {
    request.signal.throwIfAborted();
    const failure = failureOf(error, endpointOf(host));
    const { status } = failure;
    return {
      ok: false,
      ms: session.now() - began,
      ...(status === undefined ? {} : { status }),
      challenges,
      ...told(),
      failure,
    };
  }
}
