import { classified } from "@stevedore/base";
import { parseJson } from "@stevedore/oci";
import { conforms, isInteger, isString, optional, shape, withoutNulls } from "@stevedore/oci/json-check";
import type { HttpCarrier, HttpRequest, HttpResponse } from "../http/carrier.ts";
import { readAll } from "../http/carrier.ts";
import { explainTransport, TransportError } from "../http/failure.ts";
import { headerOf } from "../http/head.ts";
import type { HttpObserver } from "../http/observe.ts";
import type { TlsSettings } from "../http/tls.ts";
import type { RegistryLimits } from "../limits.ts";
import { redactText, redactUrl } from "../redact.ts";
import { type Credential, secretsOf } from "./credentials.ts";

/** A token for a registry, and when it ends. */
export interface Token {
  readonly token: string;
  /** Milliseconds of the clock. */
  readonly expires: number;
}

/** All that a token request needs. */
export interface TokenRequest {
  readonly carrier: HttpCarrier;
  readonly limits: RegistryLimits;
  /** The token server, as the registry named it. */
  readonly realm: URL;
  readonly service: string;
  readonly scopes: readonly string[];
  readonly credential: Credential | undefined;
  readonly tls: TlsSettings;
  readonly proxy?: URL | undefined;
  readonly userAgent: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly signal: AbortSignal;
  readonly now: () => number;
  readonly observe: HttpObserver | undefined;
}

/** What the protocol assumes when a token says nothing of its end, seconds. */
const DEFAULT_LIFE_S = 60;
/** Longest life that is believed: a day. A wrong clock or number must not keep a dead token for ever. */
const MAX_LIFE_S = 86_400;
/** A token is renewed this long before its end. */
const MARGIN_MS = 5_000;
/** Name of this client at OAuth token servers; the peer's. */
const CLIENT_ID = "containerd-client";

/** Statuses by which token servers say that they have no POST: the peer's list. */
const NO_POST: ReadonlySet<number> = new Set([400, 401, 404, 405]);

interface TokenAnswer {
  readonly token?: string;
  readonly access_token?: string;
  readonly expires_in?: number | bigint;
  readonly issued_at?: string;
}

const ANSWER = shape<TokenAnswer>({
  token: optional(isString),
  access_token: optional(isString),
  expires_in: optional(isInteger),
  issued_at: optional(isString),
});

/**
 * Gets a token: by POST with a credential, falling back to GET where the server knows no POST; by GET without one.
 *
 * @throws unauthenticated when the server refuses; unavailable when it cannot be used. Messages hold no secret.
 */
export async function fetchToken(request: TokenRequest): Promise<Token> {
  const { credential } = request;
  if (credential === undefined) return read(await get(request), request);
  const posted = await post(request, credential);
  if (posted.status < 400) return read(posted, request);
  if (!NO_POST.has(posted.status) || credential.kind !== "basic") throw await refused(posted, request);
  await posted.discard();
  return read(await get(request), request);
}

async function post(request: TokenRequest, credential: Credential): Promise<HttpResponse> {
  const form = new URLSearchParams();
  if (request.scopes.length > 0) form.set("scope", request.scopes.join(" "));
  form.set("service", request.service);
  form.set("client_id", CLIENT_ID);
  if (credential.kind === "basic") {
    form.set("grant_type", "password");
    form.set("username", credential.username);
    form.set("password", credential.password);
  } else if (credential.kind !== "header") {
    form.set("grant_type", "refresh_token");
    form.set("refresh_token", credential.token);
  }
  const bytes = Buffer.from(form.toString());
  const body = {
    length: bytes.byteLength,
    open: async function* (): AsyncGenerator<Uint8Array> {
      yield bytes;
    },
  };
  const headers: [string, string][] = [["Content-Type", "application/x-www-form-urlencoded; charset=utf-8"]];
  return follow(request, { method: "POST", url: request.realm, headers, body });
}

async function get(request: TokenRequest): Promise<HttpResponse> {
  const url = new URL(request.realm);
  if (request.service !== "") url.searchParams.append("service", request.service);
  for (const scope of request.scopes) url.searchParams.append("scope", scope);
  const { credential } = request;
  const headers: [string, string][] = [];
  if (credential?.kind === "basic") {
    const pair = Buffer.from(`${credential.username}:${credential.password}`).toString("base64");
    headers.push(["Authorization", `Basic ${pair}`]);
  }
  return follow(request, { method: "GET", url, headers });
}

/** Redirects are followed on the same host only: a token request carries the secret itself. */
async function follow(
  request: TokenRequest,
  first: Pick<HttpRequest, "method" | "url" | "headers" | "body">,
): Promise<HttpResponse> {
  let { url } = first;
  for (let hops = 0; ; hops++) {
    const response = await hop(request, { ...first, url });
    const location = headerOf(response.headers, "location");
    if (response.status < 300 || response.status > 399 || location === undefined) return response;
    await response.discard();
    const next = URL.parse(location, url.href);
    if (hops >= request.limits.redirects) throw failed(request, `more than ${request.limits.redirects} redirects`);
    if (next === null) throw failed(request, "redirected to something that is no URL");
    if (next.origin !== url.origin) {
      throw failed(request, `redirected to another host, ${redactUrl(next)}, which gets no credentials`);
    }
    url = next;
  }
}

async function hop(
  request: TokenRequest,
  one: Pick<HttpRequest, "method" | "url" | "headers" | "body">,
): Promise<HttpResponse> {
  const own = [["User-Agent", request.userAgent] as const, ["Accept", "application/json"] as const];
  try {
    const headers = [...own, ...request.headers, ...one.headers];
    return await request.carrier.send({
      ...one,
      headers,
      tls: request.tls,
      proxy: request.proxy,
      signal: request.signal,
      observe: request.observe,
    });
  } catch (error) {
    if (error instanceof TransportError) {
      const { reason, help } = explainTransport(error);
      throw failed(request, `${reason}${help === undefined ? "" : ` (${help})`}`, error);
    }
    if (request.signal.aborted) throw failed(request, "no answer in time", error);
    throw error;
  }
}

async function read(response: HttpResponse, request: TokenRequest): Promise<Token> {
  if (response.status < 200 || response.status > 299) throw await refused(response, request);
  let answer: unknown;
  try {
    answer = withoutNulls(parseJson(await readAll(response, request.limits.tokenBytes)));
  } catch (error) {
    throw failed(request, "its answer is no JSON, too long, or did not come in time", error);
  }
  if (!conforms<TokenAnswer>(answer, ANSWER)) throw failed(request, "its answer has no token");
  const token = answer.access_token === undefined || answer.access_token === "" ? answer.token : answer.access_token;
  if (token === undefined || token === "") throw failed(request, "its answer has no token");
  if (!/^[\x21-\x7e]+$/.test(token)) throw failed(request, "its token has characters that cannot be sent");
  const told = Number(answer.expires_in ?? 0);
  const life = Math.min(MAX_LIFE_S, told > 0 ? told : DEFAULT_LIFE_S);
  // `issued_at` is the server's clock, which may be wrong; life counts from now on ours, as it cannot be longer.
  return { token, expires: request.now() + Math.max(0, life * 1000 - MARGIN_MS) };
}

async function refused(response: HttpResponse, request: TokenRequest): Promise<Error> {
  const body = await readAll(response, request.limits.errorBytes).catch(() => new Uint8Array());
  const said = redactText(Buffer.from(body).toString("utf8"), secretsOf(request.credential), 256);
  const { status } = response;
  const denied = status === 400 || status === 401 || status === 403;
  const who =
    request.credential === undefined ? "without credentials" : `with credentials of ${request.credential.from}`;
  return classified(
    denied ? "unauthenticated" : "unavailable",
    `token server ${redactUrl(request.realm)} refused ${who}: ${status} ${redactText(response.reason)}${said === "" ? "" : `: ${said}`}`,
  );
}

function failed(request: TokenRequest, why: string, cause?: unknown): Error {
  return classified("unavailable", `token server ${redactUrl(request.realm)}: ${why}`, { cause });
}
