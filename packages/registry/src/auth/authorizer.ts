import { errorClassOf, isErrorClass, messageOf } from "@stevedore/base";
import { HostError } from "../failure.ts";
import type { HttpCarrier } from "../http/carrier.ts";
import type { HttpHeaders } from "../http/head.ts";
import type { HttpObserver } from "../http/observe.ts";
import { reasonOf } from "../http/reader.ts";
import type { TlsSettings } from "../http/tls.ts";
import type { RegistryLimits } from "../limits.ts";
import { redactText, redactUrl } from "../redact.ts";
import { type Challenge, parseChallenges } from "./challenge.ts";
import { type Credential, type CredentialSource, secretsOf } from "./credentials.ts";
import { fetchToken, type Token } from "./token.ts";

/** The endpoint that wants to know who asks. */
export interface AuthTarget {
  /** Scheme, host and port: what credentials, challenges and tokens belong to. */
  readonly origin: string;
  readonly host: string;
  /** Host of the image's name. */
  readonly namespace: string;
  readonly own: boolean;
  readonly tls: TlsSettings;
  readonly proxy?: URL | undefined;
  /** What the endpoint's own configuration holds, asked after the caller's sources. */
  readonly configured?: Credential | undefined;
  /** Extra headers of its configuration, which token requests on its own host carry too. */
  readonly headers: readonly (readonly [string, string])[];
}

/** The value of Authorization for one request, and how it came about. */
export interface Authorization {
  readonly value: string;
  /** Parts that must not show up in any message. */
  readonly secrets: readonly string[];
  /** Whether it was made for this request, so that a refusal of it is final. */
  readonly fresh: boolean;
}

/** What is known of an endpoint after its first 401. */
type Known =
  | { readonly kind: "basic"; readonly value: string; readonly secrets: readonly string[] }
  | { readonly kind: "given"; readonly value: string; readonly secrets: readonly string[] }
  | {
      readonly kind: "bearer";
      readonly realm: URL;
      readonly service: string;
      readonly credential: Credential | undefined;
      /** Tokens by scopes; one request for each at a time. */
      readonly tokens: Map<string, Pending>;
      /** What a challenge wanted beyond the scopes that were asked for, by those. */
      readonly more: Map<string, readonly string[]>;
    };

/** A token that is being fetched, or is there. */
interface Pending {
  readonly promise: Promise<Token>;
  token?: Token;
}

/** What an authorizer works with. */
export interface AuthorizerOptions {
  readonly carrier: HttpCarrier;
  readonly limits: RegistryLimits;
  readonly credentials: CredentialSource | undefined;
  readonly userAgent: string;
  readonly observe: HttpObserver | undefined;
  readonly now: () => number;
}

/** Endpoints and tokens that are remembered: far more than a client meets. */
const MAX_KNOWN = 256;
/** Milliseconds a token server may take in all. */
const TOKEN_MS = 60_000;

/** Answers 401s. One credential set: clients with other credentials have authorizers of their own. */
export class Authorizer {
  readonly #options: AuthorizerOptions;
  readonly #known = new Map<string, Known>();

  constructor(options: AuthorizerOptions) {
    this.#options = options;
  }

  /** What to send with the first try: nothing until the endpoint has asked once. @throws HostError */
  async authorization(
    target: AuthTarget,
    scopes: readonly string[],
    signal: AbortSignal,
  ): Promise<Authorization | undefined> {
    const known = this.#known.get(keyOf(target));
    if (known === undefined) return undefined;
    if (known.kind !== "bearer") return { value: known.value, secrets: known.secrets, fresh: false };
    try {
      return await this.#bearer(target, known, { scopes, signal });
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof HostError) || error.failure.errorClass !== "unauthenticated") throw error;
      // The credential may have been changed since: the endpoint's next 401 has it looked up again.
      this.#known.delete(keyOf(target));
      return undefined;
    }
  }

  /**
   * Learns from a 401 to a request that carried `sent`.
   *
   * @returns what to send now
   * @throws HostError of class unauthenticated when nothing more can be tried
   */
  async challenged(
    target: AuthTarget,
    answer: { readonly headers: HttpHeaders; readonly sent: Authorization | undefined },
    call: { readonly scopes: readonly string[]; readonly signal: AbortSignal },
  ): Promise<Authorization> {
    const { sent } = answer;
    const key = keyOf(target);
    const challenges = parseChallenges(answer.headers).filter(
      ({ scheme }) => scheme === "bearer" || scheme === "basic",
    );
    const before = this.#known.get(key);
    if (challenges.length === 0)
      throw refused(target, "authentication is required, and no way that is known is offered");
    if (sent?.fresh === true) throw refused(target, this.#refusal(before, challenges, call.scopes));
    const credential = await this.#credential(target, answer.headers.get("www-authenticate") ?? [], call.signal);
    let lacking: HostError | undefined;
    for (const challenge of challenges) {
      try {
        const known = this.#learn(target, challenge, credential);
        const again = before?.kind === "bearer" && known.kind === "bearer" && isSame(before, known) ? before : known;
        this.#remember(key, again);
        if (again.kind !== "bearer") {
          // The same value was refused already, unless the file it came from has changed.
          if (again.value === sent?.value) throw refused(target, this.#refusal(again, challenges, call.scopes));
          return { value: again.value, secrets: again.secrets, fresh: true };
        }
        this.#widen(again, call.scopes, challenge, sent !== undefined);
        return { ...(await this.#bearer(target, again, call)), fresh: true };
      } catch (error) {
        if (!(error instanceof HostError) || challenge.scheme !== "bearer") throw error;
        lacking ??= error;
        if (challenges.at(-1) === challenge) throw error;
      }
    }
    throw lacking ?? refused(target, "authorization failed");
  }

  /** Where the credential for an endpoint would come from. Asks sources, so helpers may run. */
  async describe(target: AuthTarget, signal: AbortSignal): Promise<Credential | undefined> {
    return this.#credential(target, [], signal);
  }

  #refusal(known: Known | undefined, challenges: readonly Challenge[], scopes: readonly string[]): string {
    const said = challenges.map(({ parameters }) => parameters.get("error") ?? "").find((text) => text !== "");
    const message = said === undefined ? "" : `: server message: ${redactText(said, [], 64)}`;
    const credential = known?.kind === "bearer" ? known.credential : undefined;
    const anonymous = known?.kind === "bearer" && credential === undefined;
    const tail = anonymous ? ", no credentials are known for this host" : "";
    const action = scopes.some((scope) => /:[^:]*push/.test(scope)) ? "push" : "pull";
    return `401 Unauthorized: ${action} access denied, repository does not exist or may require authorization${message}: authorization failed${tail}`;
  }

  #learn(target: AuthTarget, challenge: Challenge, credential: Credential | undefined): Known {
    if (credential?.kind === "registry-token") {
      return { kind: "given", value: `Bearer ${credential.token}`, secrets: secretsOf(credential) };
    }
    if (credential?.kind === "header") {
      return { kind: "given", value: credential.value, secrets: secretsOf(credential) };
    }
    if (challenge.scheme === "basic") {
      if (credential?.kind !== "basic") throw refused(target, "authorization failed: no basic auth credentials");
      const pair = Buffer.from(`${credential.username}:${credential.password}`).toString("base64");
      return { kind: "basic", value: `Basic ${pair}`, secrets: secretsOf(credential) };
    }
    const realm = realmOf(target, challenge, credential);
    const service = challenge.parameters.get("service") ?? "";
    return { kind: "bearer", realm, service, credential, tokens: new Map(), more: new Map() };
  }

  #widen(known: Known & { kind: "bearer" }, scopes: readonly string[], challenge: Challenge, hadToken: boolean): void {
    const key = scopes.join(" ");
    const wanted = (challenge.parameters.get("scope") ?? "").split(" ").filter((scope) => scope !== "");
    const more = wanted.filter((scope) => !covers(scopes, scope)).slice(0, 8);
    if (more.length > 0) known.more.set(key, more);
    // A token the endpoint does not take (any more) is of no use to others either.
    if (hadToken) known.tokens.clear();
  }

  async #bearer(
    target: AuthTarget,
    known: Known & { kind: "bearer" },
    call: { readonly scopes: readonly string[]; readonly signal: AbortSignal },
  ): Promise<Authorization> {
    const scopes = [...new Set([...call.scopes, ...(known.more.get(call.scopes.join(" ")) ?? [])])].toSorted();
    const key = scopes.join(" ");
    let pending = known.tokens.get(key);
    let fresh = false;
    if (pending?.token !== undefined && pending.token.expires <= this.#options.now()) pending = undefined;
    if (pending === undefined) {
      fresh = true;
      const made: Pending = { promise: this.#fetch(target, known, scopes) };
      pending = made;
      if (known.tokens.size >= MAX_KNOWN) known.tokens.clear();
      known.tokens.set(key, made);
      made.promise
        .then((token) => (made.token = token))
        .catch(() => {
          if (known.tokens.get(key) === made) known.tokens.delete(key);
        });
    }
    try {
      const { token } = await joined(pending.promise, call.signal);
      return { value: `Bearer ${token}`, secrets: [token, ...secretsOf(known.credential)], fresh };
    } catch (error) {
      call.signal.throwIfAborted();
      throw new HostError(
        {
          endpoint: target.origin,
          reason: redactText(messageOf(error), secretsOf(known.credential)),
          errorClass: errorClassOf(error),
          codes: [],
          transient: isErrorClass(error, "unavailable"),
        },
        error,
      );
    }
  }

  async #fetch(target: AuthTarget, known: Known & { kind: "bearer" }, scopes: readonly string[]): Promise<Token> {
    const { carrier, limits, userAgent, now, observe } = this.#options;
    const sameHost = known.realm.hostname === new URL(target.origin).hostname;
    const { ca, client, skipVerify } = target.tls;
    // Trust in a private authority goes along, as with the peer; what identifies us goes to the registry's host only.
    const travelling: TlsSettings = {
      ...(ca === undefined ? {} : { ca }),
      ...(skipVerify === undefined ? {} : { skipVerify }),
    };
    return fetchToken({
      carrier,
      limits,
      realm: known.realm,
      service: known.service,
      scopes,
      credential: known.credential,
      tls: sameHost && client !== undefined ? target.tls : travelling,
      userAgent,
      proxy: sameHost ? target.proxy : undefined,
      headers: known.realm.origin === target.origin ? target.headers : [],
      // Shared by all who wait for this token, so no caller's signal ends it.
      signal: AbortSignal.timeout(TOKEN_MS),
      now,
      observe,
    });
  }

  async #credential(
    target: AuthTarget,
    challenges: readonly string[],
    signal: AbortSignal,
  ): Promise<Credential | undefined> {
    const { host, namespace, own } = target;
    try {
      const asked = this.#options.credentials?.find({ host, namespace, own, challenges, signal });
      // Who is asked may never answer.
      const found = asked === undefined ? undefined : await joined(asked, signal);
      return found ?? target.configured;
    } catch (error) {
      signal.throwIfAborted();
      throw new HostError(
        {
          endpoint: target.origin,
          reason: messageOf(error),
          errorClass: "unauthenticated",
          codes: [],
          transient: false,
        },
        error,
      );
    }
  }

  #remember(key: string, known: Known): void {
    if (this.#known.size >= MAX_KNOWN) this.#known.clear();
    this.#known.set(key, known);
  }
}

/** Credentials depend on the image's namespace too (a flag's are for its registry), so knowledge does. */
function keyOf(target: AuthTarget): string {
  return `${target.origin} ${target.namespace} ${target.own}`;
}

function isSame(a: Known & { kind: "bearer" }, b: Known & { kind: "bearer" }): boolean {
  return (
    a.realm.href === b.realm.href &&
    a.service === b.service &&
    secretsOf(a.credential).join() === secretsOf(b.credential).join()
  );
}

/** Whether what was asked for holds a scope of a challenge, actions in any order. */
function covers(scopes: readonly string[], wanted: string): boolean {
  const [resource, actions] = splitScope(wanted);
  return scopes.some((scope) => {
    const [ownResource, ownActions] = splitScope(scope);
    return ownResource === resource && actions.every((action) => ownActions.includes(action));
  });
}

function splitScope(scope: string): readonly [resource: string, actions: readonly string[]] {
  const colon = scope.lastIndexOf(":");
  return [scope.slice(0, Math.max(0, colon)), scope.slice(colon + 1).split(",")];
}

function realmOf(target: AuthTarget, challenge: Challenge, credential: Credential | undefined): URL {
  const text = challenge.parameters.get("realm");
  if (text === undefined) throw refused(target, "no realm specified for token auth challenge");
  const realm = URL.parse(text, target.origin);
  if (realm === null || (realm.protocol !== "https:" && realm.protocol !== "http:")) {
    throw refused(target, "invalid token auth challenge realm");
  }
  realm.username = "";
  realm.password = "";
  realm.hash = "";
  if (credential !== undefined && realm.protocol === "http:" && target.origin.startsWith("https:")) {
    throw refused(
      target,
      `its token server ${redactUrl(realm)} has no TLS, credentials are not sent there`,
      "the registry must name an https realm",
    );
  }
  return realm;
}

function refused(target: AuthTarget, reason: string, help?: string): HostError {
  return new HostError({
    endpoint: target.origin,
    reason,
    ...(help === undefined ? {} : { help }),
    errorClass: "unauthenticated",
    status: 401,
    codes: [],
    transient: false,
  });
}

/** The shared promise's outcome, or the signal's reason, whichever is first. */
async function joined<T>(pending: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(reasonOf(signal));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([pending, promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
