import { classified, type ErrorClass, messageOf } from "@stevedore/base";
import { parseJson } from "@stevedore/oci";
import { conforms, isAnything, listOf, shape, withoutNulls } from "@stevedore/oci/json-check";
import type { Authorization, AuthTarget } from "./auth/authorizer.ts";
import { failureOf, HostError, type HostFailure, type RegistryErrorCode } from "./failure.ts";
import { endpointOf, type RegistryHost } from "./hosts/types.ts";
import { type HttpResponse, readSome, retryAfterMs } from "./http/carrier.ts";
import type { RequestBody } from "./http/connection.ts";
import { explainTransport, TransportError } from "./http/failure.ts";
import { headerOf } from "./http/head.ts";
import type { TlsSettings } from "./http/tls.ts";
import { redactText, redactUrl } from "./redact.ts";
import { pause, pauseMs } from "./retry.ts";
import type { Session } from "./session.ts";

/** One request to one host of a namespace. */
export interface HostRequest {
  readonly host: RegistryHost;
  /** Host of the image's name. */
  readonly namespace: string;
  readonly method: string;
  /** Below the API's root, with a slash in front; or a whole URL that the host itself named. */
  readonly path: string | URL;
  readonly query?: readonly (readonly [name: string, value: string])[];
  readonly headers?: readonly (readonly [name: string, value: string])[];
  readonly body?: RequestBody;
  readonly scopes: readonly string[];
  readonly signal: AbortSignal;
  /** Times it may be sent, the first included. */
  readonly attempts: number;
  readonly answerMs?: number;
  /** Statuses beside 2xx that the caller judges itself. */
  readonly accept?: readonly number[];
  /** Neither credentials nor configured headers are sent, whatever the host asks: it is not the registry's. */
  readonly anonymous?: boolean;
  /** Whether what comes is checked by a digest, so that a redirect may leave TLS. */
  readonly verified?: boolean;
}

/**
 * Sends a request with authorization, redirects and retries.
 *
 * @returns an answer of a status that is a success or accepted. Its body is the caller's to read or discard.
 * @throws HostError; the signal's reason; what the body threw
 */
export async function send(session: Session, request: HostRequest): Promise<HttpResponse> {
  for (let failures = 0; ; ) {
    try {
      return await once(session, request);
    } catch (error) {
      request.signal.throwIfAborted();
      if (!(error instanceof HostError)) throw error;
      failures += 1;
      const { transient, retryAfterMs: asked } = error.failure;
      const { limits, random } = session;
      if (!transient || failures >= request.attempts || (asked ?? 0) > limits.retryAfterMaxMs) throw error;
      const ms = pauseMs(failures, limits, { retryAfterMs: asked, random });
      session.log.debug("registry request is sent again", {
        reason: error.message,
        attempt: failures + 1,
        pauseMs: ms,
      });
      await pause(ms, request.signal);
    }
  }
}

async function once(session: Session, request: HostRequest): Promise<HttpResponse> {
  const target = authTarget(request);
  const call = { scopes: request.scopes, signal: request.signal };
  const anonymous = request.anonymous === true;
  let authorization = anonymous
    ? undefined
    : await session.authorizer.authorization(target, request.scopes, request.signal);
  // A first 401 asks; a second one may be about a token that ended; a third is final.
  for (let asked = 0; ; asked++) {
    const { response, atHome } = await followed(session, request, authorization);
    if (response.status === 401 && atHome && !anonymous && asked < 2) {
      await response.discard();
      try {
        authorization = await session.authorizer.challenged(
          target,
          { headers: response.headers, sent: authorization },
          call,
        );
      } catch (error) {
        if (error instanceof HostError) session.breakers.remember(endpointOf(request.host), error.failure);
        throw error;
      }
      continue;
    }
    if (response.status < 300 || request.accept?.includes(response.status) === true) return response;
    throw await refusal(session, request, { response, authorization });
  }
}

function authTarget({ host, namespace }: HostRequest): AuthTarget {
  return {
    origin: endpointOf(host),
    host: host.host,
    namespace,
    own: host.own,
    tls: host.tls,
    proxy: host.proxy,
    configured: host.credential,
    headers: host.headers,
  };
}

/** Where a request goes first. */
export function urlOf(request: Pick<HostRequest, "host" | "path" | "query">): URL {
  const { host, path, query = [] } = request;
  const url = typeof path === "string" ? new URL(`${endpointOf(host)}${host.path}${path}`) : new URL(path);
  for (const [name, value] of query) url.searchParams.append(name, value);
  return url;
}

interface Followed {
  readonly response: HttpResponse;
  /** Whether the answer is the host's own, and not of one it led to. */
  readonly atHome: boolean;
}

/**
 * One request with its redirects. Authorization and configured headers go to the host's own origin only; trust in its
 * private authorities goes along, its client certificate does not.
 */
async function followed(
  session: Session,
  request: HostRequest,
  authorization: Authorization | undefined,
): Promise<Followed> {
  const { host, method } = request;
  let url = urlOf(request);
  const home = new URL(endpointOf(host)).origin;
  for (let hops = 0; ; hops++) {
    const atHome = url.origin === home;
    const began = session.now();
    const response = await hop(session, request, { url, atHome, authorization });
    session.log.debug("registry request", {
      method,
      url: redactUrl(response.url),
      status: response.status,
      ms: session.now() - began,
    });
    const location = headerOf(response.headers, "location");
    if (![301, 302, 303, 307, 308].includes(response.status) || location === undefined) return { response, atHome };
    await response.discard();
    const next = URL.parse(location, response.url.href);
    const wrong = refuseRedirect(request, { from: response.url, next, hops, most: session.limits.redirects });
    if (wrong !== undefined || next === null) {
      throw new HostError({
        ...plainFailure(host, `${method} ${shownPath(response.url)}: ${wrong ?? "redirected to no URL"}`),
      });
    }
    next.username = "";
    next.password = "";
    next.hash = "";
    url = next;
  }
}

function refuseRedirect(
  request: HostRequest,
  step: { readonly from: URL; readonly next: URL | null; readonly hops: number; readonly most: number },
): string | undefined {
  const { next, hops, most, from } = step;
  if (next === null || (next.protocol !== "https:" && next.protocol !== "http:")) return "redirected to no URL of http";
  if (hops >= most) return `more than ${most} redirects`;
  if (request.method !== "GET" && request.method !== "HEAD")
    return `redirected to ${redactUrl(next)}, which is not followed`;
  if (request.verified !== true && from.protocol === "https:" && next.protocol === "http:") {
    return `redirected to ${redactUrl(next)}, out of TLS`;
  }
  return undefined;
}

interface Hop {
  readonly url: URL;
  readonly atHome: boolean;
  readonly authorization: Authorization | undefined;
}

async function hop(session: Session, request: HostRequest, step: Hop): Promise<HttpResponse> {
  const { host, method, body, signal } = request;
  const { atHome } = step;
  const endpoint = endpointOf(host);
  const headers = headersOf(session, request, step);
  const sameName = step.url.hostname === new URL(endpoint).hostname;
  const carried = {
    method,
    headers,
    ...(body === undefined ? {} : { body }),
    tls: sameName ? host.tls : withoutIdentity(host.tls),
    ...(host.dialMs === undefined ? {} : { dialMs: host.dialMs }),
    ...(atHome ? { proxy: host.proxy } : {}),
    ...(request.answerMs === undefined ? {} : { answerMs: request.answerMs }),
    signal,
    observe: session.observe,
  };
  try {
    const response = await session.carrier.send({ ...carried, url: step.url });
    if (atHome && response.status < 500) session.breakers.answered(endpoint);
    return response;
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof TransportError)) throw error;
    if (error.step === "send" && error.code === "") {
      // What was to be sent is not as promised: the caller's matter, not the host's.
      throw classified("invalid-argument", `${method} ${redactUrl(step.url)}: ${error.message}`, { cause: error });
    }
    const made = transportFailure(host, { error, method, url: step.url, atHome });
    if (atHome) session.breakers.failed(endpoint, made, error.timedOut);
    else session.breakers.remember(endpoint, made);
    throw new HostError(made, error);
  }
}

/** What is given by the caller wins over what this client would say itself. */
function headersOf(session: Session, request: HostRequest, step: Hop): readonly (readonly [string, string])[] {
  const { host, headers = [], anonymous } = request;
  if (!step.atHome || anonymous === true) return [["User-Agent", session.userAgent], ...headers];
  // An Authorization among the caller's headers is a credential like any other: not for mirrors.
  const given = session.headers.filter(([name]) => host.own || name.toLowerCase() !== "authorization");
  const all = [...headers, ...given, ...host.headers];
  const has = (wanted: string): boolean => all.some(([name]) => name.toLowerCase() === wanted);
  if (!has("user-agent")) all.unshift(["User-Agent", session.userAgent]);
  // Digests and lengths are of bytes that are not packed for the way.
  if (!has("accept-encoding")) all.push(["Accept-Encoding", "identity"]);
  if (step.authorization !== undefined && !has("authorization")) all.push(["Authorization", step.authorization.value]);
  return all;
}

function withoutIdentity(tls: TlsSettings): TlsSettings {
  if (tls.client === undefined) return tls;
  const { ca, skipVerify } = tls;
  return { ...(ca === undefined ? {} : { ca }), ...(skipVerify === undefined ? {} : { skipVerify }) };
}

/** A transport failure at a host, in the host's name. */
export function transportFailure(
  host: RegistryHost,
  step: { readonly error: TransportError; readonly method: string; readonly url: URL; readonly atHome: boolean },
): HostFailure {
  const { reason, help, errorClass, transient } = explainTransport(step.error);
  const where = step.atHome ? "" : `${step.method} ${redactUrl(step.url)}: `;
  return {
    endpoint: endpointOf(host),
    reason: `${where}${reason}`,
    ...(help === undefined ? {} : { help }),
    errorClass,
    codes: [],
    transient,
  };
}

/** A failure that is the host's fault and will not go away. */
export function plainFailure(host: RegistryHost, reason: string, errorClass: ErrorClass = "unavailable"): HostFailure {
  return { endpoint: endpointOf(host), reason, errorClass, codes: [], transient: false };
}

/** The path of a URL and the harmless part of its query. */
export function shownPath(url: URL): string {
  return redactUrl(url).slice(url.origin.length);
}

const TRANSIENT: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

const CLASS_OF: Readonly<Record<number, ErrorClass>> = {
  401: "unauthenticated",
  403: "permission-denied",
  404: "not-found",
  410: "not-found",
  413: "resource-exhausted",
  416: "out-of-range",
  429: "resource-exhausted",
};

const HELP: Readonly<Record<number, string>> = {
  401: "give credentials for this host: a docker config, a helper, --user",
  403: "the account may not do this, or the repository does not exist",
  429: "the registry limits requests: wait, or authenticate for a higher limit",
};

async function refusal(
  session: Session,
  request: HostRequest,
  found: { readonly response: HttpResponse; readonly authorization: Authorization | undefined },
): Promise<HostError> {
  const { response, authorization } = found;
  const { host, method } = request;
  const { status } = response;
  const secrets = authorization?.secrets ?? [];
  const body = await readSome(response, session.limits.errorBytes);
  const { codes, text } = readErrorBody(body, secrets);
  const said = codes.map(({ code, message }) => [code, message].filter((part) => part !== "").join(": ")).join(", ");
  const words = redactText(response.reason, secrets, 64);
  const shown = [`${method} ${shownPath(response.url)}`, `${status}${words === "" ? "" : ` ${words}`}`];
  if (said !== "" || text !== "") shown.push(said === "" ? text : said);
  const asked = retryAfterMs(response.headers, session.now());
  const help = HELP[status];
  const tooLong = asked !== undefined && asked > session.limits.retryAfterMaxMs;
  const failure: HostFailure = {
    endpoint: endpointOf(host),
    reason: `${shown.join(": ")}${tooLong ? `, asks to wait ${Math.ceil(asked / 1000)} s` : ""}`,
    ...(help === undefined ? {} : { help }),
    errorClass: CLASS_OF[status] ?? (status >= 500 || status === 408 ? "unavailable" : "unknown"),
    status,
    codes,
    transient: TRANSIENT.has(status),
    ...(asked === undefined ? {} : { retryAfterMs: asked }),
  };
  if (status >= 500) session.breakers.failed(endpointOf(host), failure, false);
  else session.breakers.remember(endpointOf(host), failure);
  return new HostError(failure);
}

interface ErrorEntry {
  readonly code?: unknown;
  readonly message?: unknown;
}

const ERRORS = shape<{ readonly errors: readonly ErrorEntry[] }>({
  errors: listOf(shape<ErrorEntry>({ code: isAnything, message: isAnything })),
});

/** Entries of an error list that are shown. */
const MAX_CODES = 5;

/** What a registry says of a failure: its list, or else the beginning of its text. Never throws. */
export function readErrorBody(
  body: Uint8Array,
  secrets: readonly string[] = [],
): { readonly codes: readonly RegistryErrorCode[]; readonly text: string } {
  const text = Buffer.from(body).toString("utf8");
  try {
    const document = withoutNulls(parseJson(text));
    if (conforms<{ readonly errors: readonly ErrorEntry[] }>(document, ERRORS)) {
      const codes = document.errors.slice(0, MAX_CODES).map(({ code, message }) => ({
        code: typeof code === "string" ? redactText(code, secrets, 64) : "",
        message: typeof message === "string" ? redactText(message, secrets, 256) : "",
      }));
      return { codes, text: "" };
    }
  } catch {
    // No JSON: the text itself is told.
  }
  const plain = /<(?:!doctype|html|head|body)\b/i.test(text) ? "an HTML page" : redactText(text, secrets, 256);
  return { codes: [], text: plain };
}

/** The failure of anything thrown while a host was tried; aborts are thrown on. */
export function collectFailure(error: unknown, host: RegistryHost, signal: AbortSignal): HostFailure {
  signal.throwIfAborted();
  if (error instanceof HostError) return error.failure;
  if (error instanceof TransportError) {
    return transportFailure(host, { error, method: "", url: new URL(endpointOf(host)), atHome: true });
  }
  return { ...failureOf(error, endpointOf(host)), reason: redactText(messageOf(error)) };
}
