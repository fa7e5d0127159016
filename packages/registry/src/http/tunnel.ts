import type { Socket } from "node:net";
import type { RegistryLimits } from "../limits.ts";
import { codeOf, TransportError } from "./failure.ts";
import { unbracket } from "./proxy.ts";
import { reasonOf } from "./reader.ts";

/** What a proxy is asked for, and how long that may take. */
export interface TunnelOptions {
  /** Where the tunnel is to lead. */
  readonly hostname: string;
  readonly port: number;
  readonly proxy: URL;
  readonly limits: RegistryLimits;
  readonly signal: AbortSignal;
}

/** The value of Proxy-Authorization for a proxy whose URL has user info. */
export function proxyAuthorization(proxy: URL): string | undefined {
  const { user, password } = accountOf(proxy);
  return user === "" && password === "" ? undefined : `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;
}

function accountOf(proxy: URL): { readonly user: string; readonly password: string } {
  return { user: decodeURIComponent(proxy.username), password: decodeURIComponent(proxy.password) };
}

/** Opens a tunnel by HTTP's CONNECT. @throws TransportError of step `proxy`; the signal's reason. The socket is closed then */
export async function connectTunnel(socket: Socket, options: TunnelOptions): Promise<void> {
  const authority = `${options.hostname}:${options.port}`;
  const authorization = proxyAuthorization(options.proxy);
  const lines = [`CONNECT ${authority} HTTP/1.1`, `Host: ${authority}`];
  if (authorization !== undefined) lines.push(`Proxy-Authorization: ${authorization}`);
  const answer = await ask(socket, options, {
    bytes: Buffer.from(`${lines.join("\r\n")}\r\n\r\n`),
    isWhole: (bytes) => bytes.includes("\r\n\r\n") || bytes.byteLength > options.limits.headBytes,
  });
  const [, status, words] = /^HTTP\/1\.[01] (\d{3})([^\r\n]*)/.exec(answer.toString("latin1")) ?? [];
  if (status?.startsWith("2") === true) return;
  socket.destroy();
  throw new TransportError("proxy", `refused CONNECT to ${authority}: ${status ?? "no HTTP answer"}${words ?? ""}`);
}

const SOCKS = { version: 5, noAuth: 0, password: 2, connect: 1, ipv4: 1, name: 3, ipv6: 4 } as const;

/** Reasons of RFC 1928, by code. */
const SOCKS_REASONS: readonly string[] = [
  "",
  "general failure",
  "not allowed by its rules",
  "network unreachable",
  "host unreachable",
  "connection refused",
  "time to live expired",
  "command not supported",
  "address type not supported",
];

/**
 * Opens a tunnel by SOCKS 5 (RFC 1928, 1929). The proxy looks the name up, as with Go's `socks5` and `socks5h`.
 *
 * @throws as {@link connectTunnel}
 */
export async function socksTunnel(socket: Socket, options: TunnelOptions): Promise<void> {
  const { user, password } = accountOf(options.proxy);
  const wanted = user === "" ? SOCKS.noAuth : SOCKS.password;
  const hello = await ask(socket, options, {
    bytes: Buffer.from([SOCKS.version, 1, wanted]),
    isWhole: (bytes) => bytes.byteLength >= 2,
  });
  if (hello[0] !== SOCKS.version || hello[1] !== wanted) throw failed(socket, "does not take this way to authenticate");
  if (wanted === SOCKS.password) {
    const account = Buffer.concat([Buffer.from([1]), lengthPrefixed(user), lengthPrefixed(password)]);
    const verdict = await ask(socket, options, { bytes: account, isWhole: (bytes) => bytes.byteLength >= 2 });
    if (verdict[1] !== 0) throw failed(socket, "refused its credentials");
  }
  const port = Buffer.from([options.port >> 8, options.port & 0xff]);
  const head = Buffer.from([SOCKS.version, SOCKS.connect, 0, SOCKS.name]);
  const answer = await ask(socket, options, {
    bytes: Buffer.concat([head, lengthPrefixed(unbracket(options.hostname)), port]),
    isWhole: (bytes) => bytes.byteLength >= socksReplyLength(bytes),
  });
  const code = answer[1] ?? 1;
  if (code !== 0)
    throw failed(socket, `no way to ${options.hostname}:${options.port}: ${SOCKS_REASONS[code] ?? `code ${code}`}`);
}

function lengthPrefixed(text: string): Buffer {
  const bytes = Buffer.from(text).subarray(0, 255);
  return Buffer.concat([Buffer.from([bytes.byteLength]), bytes]);
}

function socksReplyLength(bytes: Buffer): number {
  if (bytes.byteLength < 5) return 5;
  const type = bytes[3];
  return 6 + (type === SOCKS.ipv6 ? 16 : type === SOCKS.name ? 1 + (bytes[4] ?? 0) : 4);
}

function failed(socket: Socket, why: string): TransportError {
  socket.destroy();
  return new TransportError("proxy", why);
}

/** Writes a question and reads its answer. Nothing but the answer may come, since the other side waits for us then. */
async function ask(
  socket: Socket,
  options: TunnelOptions,
  question: { readonly bytes: Uint8Array; readonly isWhole: (bytes: Buffer) => boolean },
): Promise<Buffer> {
  const { signal, limits } = options;
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  let got = Buffer.alloc(0);
  const onData = (bytes: Buffer): void => {
    got = Buffer.concat([got, bytes]);
    if (question.isWhole(got)) resolve(got);
  };
  const onError = (error: Error): void =>
    reject(new TransportError("proxy", error.message, { code: codeOf(error), cause: error }));
  const onClose = (): void => reject(new TransportError("proxy", "closed the connection", { code: "ECONNRESET" }));
  const onAbort = (): void => reject(reasonOf(signal));
  const timer = setTimeout(
    () => reject(new TransportError("proxy", "no answer in time", { timedOut: true, code: "TIMED_OUT" })),
    limits.handshakeMs,
  );
  socket.on("data", onData).on("error", onError).on("close", onClose);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    signal.throwIfAborted();
    socket.write(question.bytes);
    return await promise;
  } catch (error) {
    socket.on("error", () => undefined);
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
    socket.off("data", onData).off("error", onError).off("close", onClose);
  }
}
