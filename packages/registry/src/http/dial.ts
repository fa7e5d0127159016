import { connect, isIP, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { RegistryLimits } from "../limits.ts";
import { codeOf, TransportError } from "./failure.ts";
import { unbracket } from "./proxy.ts";
import { reasonOf } from "./reader.ts";
import { rememberCertificate, secureContextOf, type TlsSettings } from "./tls.ts";
import { connectTunnel, socksTunnel } from "./tunnel.ts";

/** Where a connection goes, and how. */
export interface DialTarget {
  /** Only its protocol, host and port matter. */
  readonly url: URL;
  readonly tls: TlsSettings;
  readonly proxy?: URL | undefined;
  /** Milliseconds for name look-up and TCP, when it is not the limits' one. */
  readonly dialMs?: number | undefined;
}

/**
 * Opens a connection that is ready for requests.
 *
 * @throws TransportError of step `dial`, `proxy` or `tls`; the signal's reason.
 */
export async function dial(target: DialTarget, limits: RegistryLimits, signal: AbortSignal): Promise<Socket> {
  const { url, proxy } = target;
  const dialMs = target.dialMs ?? limits.dialMs;
  const secure = url.protocol === "https:";
  if (proxy === undefined) {
    // TLS that opens its own connection costs a fifth less processor time than TLS over one that is open.
    return secure ? startTls(dialMs, url, target.tls, { limits, signal }) : dialTcp(url, dialMs, signal);
  }
  const socks = proxy.protocol === "socks5:" || proxy.protocol === "socks5h:";
  if (!socks && proxy.protocol !== "http:" && proxy.protocol !== "https:") {
    throw new TransportError("proxy", `proxies of scheme ${proxy.protocol} are not known, only http, https and socks5`);
  }
  let socket = await viaProxy(async () => dialTcp(proxy, dialMs, signal));
  if (proxy.protocol === "https:") {
    const plain = socket;
    socket = await viaProxy(async () => startTls(plain, proxy, {}, { limits, signal }));
  }
  const tunnel = { hostname: url.hostname, port: portOf(url), proxy, limits, signal };
  if (socks) await socksTunnel(socket, tunnel);
  else if (secure) await connectTunnel(socket, tunnel);
  return secure ? startTls(socket, url, target.tls, { limits, signal }) : socket;
}

/** `host:port` of a URL, the port always there. */
export function authorityOf(url: URL): string {
  return `${url.hostname}:${portOf(url)}`;
}

function portOf(url: URL): number {
  if (url.port !== "") return Number(url.port);
  return url.protocol === "https:" ? 443 : url.protocol.startsWith("socks") ? 1080 : 80;
}

async function viaProxy(work: () => Promise<Socket>): Promise<Socket> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof TransportError)) throw error;
    throw new TransportError("proxy", error.message, { code: error.code, timedOut: error.timedOut, cause: error });
  }
}

/** Go's dialer. */
const KEEP_ALIVE_MS = 30_000;

interface Bounds {
  readonly limits: RegistryLimits;
  readonly signal: AbortSignal;
}

async function dialTcp(url: URL, ms: number, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted();
  const socket = connect({ host: unbracket(url.hostname), port: portOf(url), noDelay: true });
  await settled(socket, "connect", { step: "dial", ms, signal, what: "connection timed out" });
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  return socket;
}

/** Speaks TLS over a socket, or over a connection that it opens within so many milliseconds. */
async function startTls(via: Socket | number, url: URL, settings: TlsSettings, bounds: Bounds): Promise<Socket> {
  const { limits, signal } = bounds;
  // What the socket below TLS meets is told by TLS; here it only must not end the process.
  if (typeof via !== "number") via.on("error", () => undefined);
  const hostname = unbracket(url.hostname);
  let secured: TLSSocket;
  try {
    signal.throwIfAborted();
    const tls = await import("node:tls");
    secured = tls.connect({
      ...(typeof via === "number" ? { port: portOf(url), noDelay: true } : { socket: via }),
      host: hostname,
      ...(isIP(hostname) === 0 ? { servername: hostname } : {}),
      secureContext: await secureContextOf(settings),
      rejectUnauthorized: settings.skipVerify !== true,
      ALPNProtocols: ["http/1.1"],
    });
  } catch (error) {
    if (typeof via !== "number") via.destroy();
    throw error;
  }
  if (typeof via === "number") {
    await settled(secured, "connect", { step: "dial", ms: via, signal, what: "connection timed out" });
    secured.setKeepAlive(true, KEEP_ALIVE_MS);
  }
  await settled(secured, "secureConnect", { step: "tls", ms: limits.handshakeMs, signal, what: "no TLS handshake" });
  rememberCertificate(secured);
  return secured;
}

interface Wait {
  readonly step: "dial" | "tls";
  readonly ms: number;
  readonly signal: AbortSignal;
  readonly what: string;
}

/** Waits for `event`; the socket is destroyed when it does not come. */
async function settled(socket: Socket, event: string, wait: Wait): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const { step, ms, signal, what } = wait;
  const onError = (error: Error): void => {
    reject(new TransportError(step, error.message, { code: codeOf(error), cause: error }));
  };
  const onClose = (): void => {
    reject(new TransportError(step, "the connection was closed by the server", { code: "ECONNRESET" }));
  };
  const onAbort = (): void => reject(reasonOf(signal));
  const timer = setTimeout(() => {
    reject(new TransportError(step, `${what} within ${ms / 1000} s`, { timedOut: true, code: "TIMED_OUT" }));
  }, ms);
  socket.once(event, resolve);
  socket.once("error", onError);
  socket.once("close", onClose);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } catch (error) {
    // A late error of a socket nobody waits for must not end the process.
    socket.on("error", () => undefined);
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    socket.off(event, resolve);
    socket.off("error", onError);
    socket.off("close", onClose);
    signal.removeEventListener("abort", onAbort);
  }
}
