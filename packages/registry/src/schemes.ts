import { portOfHost } from "./hosts/defaults.ts";
import { endpointOf, type RegistryHost } from "./hosts/types.ts";
import { speaksPlainHttp, TransportError } from "./http/failure.ts";
import type { Session } from "./session.ts";

/** How long an answer counts: asking costs one connection. */
const KEPT_MS = 30_000;

/**
 * The host with the scheme it turned out to speak, where both are allowed. Asks by opening a connection, which is kept
 * for the request that follows; what goes wrong with it is left for that request to tell.
 *
 * @throws the signal's reason
 */
export async function settled(session: Session, host: RegistryHost, signal: AbortSignal): Promise<RegistryHost> {
  if (!host.plainFallback || host.scheme === "http") return host;
  if ((session.schemes.get(host.host)?.until ?? 0) > session.now()) return known(session, host);
  session.schemes.delete(host.host);
  try {
    const url = new URL(endpointOf(host));
    await session.carrier.connect({ url, tls: host.tls, proxy: host.proxy, dialMs: host.dialMs, signal });
    session.schemes.set(host.host, { scheme: "https", until: session.now() + KEPT_MS });
  } catch (error) {
    signal.throwIfAborted();
    if (isPlain(error, host)) session.schemes.set(host.host, { scheme: "http", until: session.now() + KEPT_MS });
  }
  return known(session, host);
}

/** The same by what is known already. */
export function known(session: Session, host: RegistryHost): RegistryHost {
  const isPlainHost = host.plainFallback && session.schemes.get(host.host)?.scheme === "http";
  return isPlainHost ? { ...host, scheme: "http", plainFallback: false } : host;
}

/**
 * Servers of plain HTTP answer a TLS hello with an error of theirs, or close, or wait for more; without a port in the
 * configuration, HTTPS is another port where nobody may listen. So far as the peer's rule.
 */
function isPlain(error: unknown, host: RegistryHost): boolean {
  if (!(error instanceof TransportError)) return false;
  if (error.step === "dial") return portOfHost(host.host) === "" && error.code !== "ENOTFOUND";
  return error.step === "tls" && (speaksPlainHttp(error) || error.timedOut || error.code === "ECONNRESET");
}
