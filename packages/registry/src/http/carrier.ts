import type { RegistryLimits } from "../limits.ts";
import { redactUrl } from "../redact.ts";
import { HttpConnection, type RequestBody, type WireResponse, worthDraining } from "./connection.ts";
import { authorityOf, dial } from "./dial.ts";
import { TransportError } from "./failure.ts";
import { contentLength, type HttpHeaders, headerOf } from "./head.ts";
import { type HttpObserver, shownAnswer, shownHeaders } from "./observe.ts";
import { type Environment, proxyFor } from "./proxy.ts";
import { reasonOf } from "./reader.ts";
import { type ShownCertificate, type TlsSettings, tlsIdentity } from "./tls.ts";
import { proxyAuthorization } from "./tunnel.ts";

/** A request as the carrier takes it: one hop, nothing followed, nothing added but what HTTP itself needs. */
export interface HttpRequest {
  readonly method: string;
  readonly url: URL;
  /** Without Host, Content-Length and what else the carrier itself writes. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body?: RequestBody;
  readonly tls?: TlsSettings;
  /** The proxy to use whatever the environment says. */
  readonly proxy?: URL | undefined;
  readonly dialMs?: number | undefined;
  readonly answerMs?: number;
  readonly signal: AbortSignal;
  readonly observe?: HttpObserver | undefined;
}

/** Where a connection goes. */
export type ConnectTarget = Pick<HttpRequest, "url" | "tls" | "proxy" | "dialMs" | "signal">;

interface Way {
  readonly pool: Pool;
  readonly proxy: URL | undefined;
  readonly make: () => Promise<HttpConnection>;
}

/** An answer. Its body must be read, or discarded: until then it holds a connection. */
export interface HttpResponse {
  readonly status: number;
  /** The server's words for the status, or "". */
  readonly reason: string;
  readonly headers: HttpHeaders;
  readonly url: URL;
  /** What Content-Length said; absent without one. */
  readonly length?: number;
  /** What the server showed of itself; undefined without TLS. To be asked for while the connection lives. */
  certificate(): ShownCertificate | undefined;
  /** The body, once, with back-pressure. Chunks are the reader's. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Gives the connection back; a long rest of the body closes it instead. */
  discard(): Promise<void>;
}

const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

/** Sends HTTP/1.1 requests over connections that are kept, per host, TLS settings and proxy. */
export class HttpCarrier {
  readonly #limits: RegistryLimits;
  readonly #environment: Environment;
  readonly #pools = new Map<string, Pool>();

  constructor(limits: RegistryLimits, environment: Environment) {
    this.#limits = limits;
    this.#environment = environment;
  }

  /** @throws TransportError; the signal's reason; what the request's body threw */
  async send(request: HttpRequest): Promise<HttpResponse> {
    for (const [name, value] of request.headers) {
      if (!VALUE.test(value)) throw new TransportError("send", `header ${name} has characters that cannot be sent`);
    }
    const { url } = request;
    const { pool, proxy, make } = this.#wayTo(request);
    // Before a connection is taken: whatever fails between the two would keep its place for ever.
    const wire = wireRequest(request, proxy, this.#limits);
    for (;;) {
      const connection = await pool.take(request.signal, make);
      const fresh = !connection.used;
      try {
        request.observe?.({ kind: "connection", to: url.origin, reused: !fresh, remote: connection.remote });
        request.observe?.({
          kind: "request",
          method: request.method,
          target: redactUrl(url).slice(url.origin.length),
          headers: shownHeaders(wire.headers),
        });
        const response = await connection.exchange(wire);
        const { status, reason, headers } = response;
        request.observe?.({ kind: "response", status, reason, headers: shownAnswer(headers) });
        return asResponse(url, response, connection);
      } catch (error) {
        // A kept connection may have been closed by the server just now; then the request was not looked at.
        if (fresh || !wasClosed(error) || request.signal.aborted) throw error;
        pool.dropIdle();
      }
    }
  }

  /** Opens a connection, if none is kept, and keeps it. @throws TransportError; the signal's reason */
  async connect(target: ConnectTarget): Promise<void> {
    const { pool, make } = this.#wayTo(target);
    (await pool.take(target.signal, make)).park();
  }

  #wayTo({ url, tls = {}, dialMs, signal, proxy: given }: ConnectTarget): Way {
    const proxy = given ?? environmentProxy(url, this.#environment);
    const key = [url.protocol, authorityOf(url), tlsIdentity(tls), proxy?.href ?? "", dialMs ?? ""].join(" ");
    const make = async (): Promise<HttpConnection> =>
      new HttpConnection(await dial({ url, tls, proxy, dialMs }, this.#limits, signal), this.#limits);
    return { pool: this.#poolOf(key), proxy, make };
  }

  /** Connections in use and kept, by host, for those who watch. */
  get connections(): { readonly busy: number; readonly idle: number } {
    const all = [...this.#pools.values()];
    return { busy: all.reduce((n, { busy }) => n + busy, 0), idle: all.reduce((n, { idle }) => n + idle, 0) };
  }

  /** Closes what is idle. Exchanges under way go on. */
  close(): void {
    for (const pool of this.#pools.values()) pool.dropIdle();
    this.#pools.clear();
  }

  #poolOf(key: string): Pool {
    const known = this.#pools.get(key);
    if (known !== undefined) return known;
    const made = new Pool(this.#limits, () => this.#pools.delete(key));
    this.#pools.set(key, made);
    return made;
  }
}

function environmentProxy(url: URL, environment: Environment): URL | undefined {
  try {
    return proxyFor(url, environment);
  } catch (error) {
    throw new TransportError("proxy", "the environment names one that is no URL", { cause: error });
  }
}

function wasClosed(error: unknown): boolean {
  if (!(error instanceof TransportError) || error.timedOut) return false;
  return error.code === "ECONNRESET" || error.code === "EPIPE";
}

function wireRequest(
  request: HttpRequest,
  proxy: URL | undefined,
  limits: RegistryLimits,
): Parameters<HttpConnection["exchange"]>[0] {
  const { url } = request;
  const path = `${url.pathname}${url.search}`;
  const absolute = proxy?.protocol.startsWith("http") === true && url.protocol === "http:";
  const headers: (readonly [string, string])[] = [["Host", url.host], ...request.headers];
  const authorization = absolute ? proxyAuthorization(proxy) : undefined;
  if (authorization !== undefined) headers.push(["Proxy-Authorization", authorization]);
  return {
    method: request.method,
    target: absolute ? `${url.origin}${path}` : path,
    headers,
    ...(request.body === undefined ? {} : { body: request.body }),
    signal: request.signal,
    answerMs: request.answerMs ?? limits.answerMs,
  };
}

function asResponse(url: URL, wire: WireResponse, connection: HttpConnection): HttpResponse {
  const length = contentLength(wire.headers);
  return {
    status: wire.status,
    reason: wire.reason,
    headers: wire.headers,
    url,
    ...(length === undefined ? {} : { length }),
    certificate: () => connection.certificate,
    body: wire.body,
    discard: async () => {
      try {
        // Starting the generator is what lets its end run; a break closes the connection.
        for await (const _ of wire.body) if (!worthDraining(wire)) break;
      } catch {
        // The connection is closed then, which is all that was wanted.
      }
    },
  };
}

/** Reads a whole body. @throws TransportError when it is longer than `max`, which is not read to its end */
export async function readAll(response: HttpResponse, max: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body) {
    size += chunk.byteLength;
    if (size > max) throw new TransportError("body", `the answer's body exceeds the limit of ${max} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

/** Reads at most `max` bytes of a body and lets go of the rest. Never throws. */
export async function readSome(response: HttpResponse, max: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of response.body) {
      parts.push(chunk.subarray(0, max - size));
      size += chunk.byteLength;
      if (size >= max) break;
    }
  } catch {
    // What came is what is told.
  }
  return Buffer.concat(parts);
}

/** A Retry-After header, in milliseconds from now; undefined without a usable one. */
export function retryAfterMs(headers: HttpHeaders, now: number): number | undefined {
  const value = headerOf(headers, "retry-after")?.trim() ?? "";
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const at = value === "" ? Number.NaN : Date.parse(value);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

interface Kept {
  readonly connection: HttpConnection;
  readonly timer: ReturnType<typeof setTimeout>;
}

/** Connections to one place. */
class Pool {
  readonly #limits: RegistryLimits;
  readonly #onEmpty: () => void;
  readonly #kept: Kept[] = [];
  readonly #waiting: (() => void)[] = [];
  #busy = 0;

  constructor(limits: RegistryLimits, onEmpty: () => void) {
    this.#limits = limits;
    this.#onEmpty = onEmpty;
  }

  get busy(): number {
    return this.#busy;
  }

  get idle(): number {
    return this.#kept.length;
  }

  async take(signal: AbortSignal, make: () => Promise<HttpConnection>): Promise<HttpConnection> {
    while (this.#busy >= this.#limits.connections) await this.#turn(signal);
    this.#busy += 1;
    try {
      const connection = this.#takeKept() ?? (await make());
      connection.hold(true);
      connection.onIdle = (reusable) => this.#give(connection, reusable);
      return connection;
    } catch (error) {
      this.#left();
      throw error;
    }
  }

  dropIdle(): void {
    for (const { connection, timer } of this.#kept.splice(0)) {
      clearTimeout(timer);
      connection.close();
    }
  }

  #takeKept(): HttpConnection | undefined {
    for (let kept = this.#kept.pop(); kept !== undefined; kept = this.#kept.pop()) {
      clearTimeout(kept.timer);
      if (kept.connection.usable) return kept.connection;
      kept.connection.close();
    }
    return undefined;
  }

  #give(connection: HttpConnection, reusable: boolean): void {
    connection.onIdle = () => undefined;
    if (reusable) {
      connection.hold(false);
      const timer = setTimeout(() => this.#expire(connection), this.#limits.idleMs);
      timer.unref();
      this.#kept.push({ connection, timer });
    }
    this.#left();
  }

  #expire(connection: HttpConnection): void {
    const at = this.#kept.findIndex((kept) => kept.connection === connection);
    if (at >= 0) this.#kept.splice(at, 1);
    connection.close();
    this.#forgetWhenEmpty();
  }

  #left(): void {
    this.#busy -= 1;
    this.#waiting.shift()?.();
    this.#forgetWhenEmpty();
  }

  #forgetWhenEmpty(): void {
    if (this.#busy === 0 && this.#kept.length === 0 && this.#waiting.length === 0) this.#onEmpty();
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(resolve);
      if (at >= 0) this.#waiting.splice(at, 1);
      reject(reasonOf(signal));
    };
    this.#waiting.push(resolve);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      signal.throwIfAborted();
      await promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
