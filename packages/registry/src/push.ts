import { classified } from "@stevedore/base";
import { type Descriptor, parseDigest } from "@stevedore/oci";
import { kindOf } from "./blob-source.ts";
import { HostError } from "./failure.ts";
import { endpointOf, type RegistryHost } from "./hosts/types.ts";
import type { HttpResponse } from "./http/carrier.ts";
import type { RequestBody } from "./http/connection.ts";
import { headerOf } from "./http/head.ts";
import { apiPath, type ImageName, namespaceQuery, scopeOf } from "./image-name.ts";
import { isHostsFault, overHosts, withCapabilities } from "./over-hosts.ts";
import { redactText } from "./redact.ts";
import { collectFailure, plainFailure, send } from "./request.ts";
import { pause, pauseMs } from "./retry.ts";
import type { Session } from "./session.ts";

/** Gives the content from an offset on. Called again when an upload is tried again. */
export type OpenContent = (offset: number) => AsyncIterable<Uint8Array>;

/** How something is pushed. */
export interface PushOptions {
  readonly signal?: AbortSignal;
  /**
   * Repositories of the same registry that may hold the blob, best first: it is mounted from there instead of being
   * sent.
   */
  readonly mountFrom?: readonly string[];
  /** Told the bytes that were sent so far; goes back to 0 when an upload starts anew. */
  readonly onProgress?: (sent: number) => void;
}

/** How the content came to be in the registry. */
export type Pushed =
  | { readonly state: "exists"; readonly endpoint: string }
  | { readonly state: "mounted"; readonly from: string; readonly endpoint: string }
  | { readonly state: "uploaded"; readonly endpoint: string };

const NEVER = new AbortController().signal;
/** Repositories that a mount is tried from. */
const MAX_MOUNTS = 3;
/** Statuses of a whole upload after which one in chunks may work: registries that know only PATCH. */
const WORTH_CHUNKS: ReadonlySet<number> = new Set([404, 405, 411, 415, 501]);
/** What a PUT that ends an upload, or stores a manifest, may answer; the peer's list. */
const STORED: ReadonlySet<number> = new Set([200, 201, 202, 204]);

interface Pushing {
  readonly session: Session;
  readonly host: RegistryHost;
  readonly name: ImageName;
  readonly descriptor: Descriptor;
  readonly open: OpenContent;
  readonly options: PushOptions;
  readonly signal: AbortSignal;
}

/**
 * Puts content into the registry: a manifest under the reference's tag (or its digest when the reference has none, or
 * names another digest), anything else as a blob. Only to the first host with the capability `push`: a push that lands
 * somewhere else than asked would be worse than an error.
 *
 * @throws RegistryError; what `open` throws; the signal's reason
 */
export async function push(
  session: Session,
  name: ImageName,
  request: { readonly descriptor: Descriptor; readonly open: OpenContent; readonly options: PushOptions },
): Promise<Pushed> {
  const { descriptor, open, options } = request;
  const { signal = NEVER } = options;
  parseDigest(descriptor.digest);
  const hosts = withCapabilities(await session.hosts.hosts(name.namespace), ["push"]);
  return overHosts(session, {
    doing: `push ${descriptor.digest} to ${name.namespace}/${name.repository}`,
    hosts: hosts.slice(0, 1),
    signal,
    work: async (host) => {
      const pushing: Pushing = { session, host, name, descriptor, open, options, signal };
      return kindOf(descriptor.mediaType) === "manifests" ? pushManifest(pushing) : pushBlob(pushing);
    },
  });
}

/** Requests of a push that carry no content. */
async function ask(
  pushing: Pushing,
  request: {
    readonly method: string;
    readonly path: string | URL;
    readonly query?: readonly (readonly [string, string])[];
    readonly headers?: readonly (readonly [string, string])[];
    readonly scopes?: readonly string[];
    readonly accept?: readonly number[];
    readonly body?: RequestBody;
    readonly attempts?: number;
    readonly answerMs?: number;
  },
): Promise<HttpResponse> {
  const { session, host, name, signal } = pushing;
  return send(session, {
    host,
    namespace: name.namespace,
    attempts: session.limits.attempts,
    scopes: [pushScope(name)],
    ...request,
    signal,
  });
}

function pushScope(name: ImageName): string {
  return scopeOf(name.repository, "pull", "push");
}

async function exists(pushing: Pushing, path: string, byTag: boolean): Promise<boolean> {
  const { descriptor } = pushing;
  try {
    const head = await ask(pushing, {
      method: "HEAD",
      path,
      query: namespaceQuery(pushing.host, pushing.name.namespace),
      headers: [["Accept", `${descriptor.mediaType}, */*`]],
      accept: [404],
    });
    await head.discard();
    if (head.status !== 200) return false;
    return !byTag || headerOf(head.headers, "docker-content-digest") === descriptor.digest;
  } catch (error) {
    // Some registries let push what may not be read; the upload itself will tell.
    const status = error instanceof HostError ? error.failure.status : undefined;
    if (status === 401 || status === 403) return false;
    throw error;
  }
}

async function pushManifest(pushing: Pushing): Promise<Pushed> {
  const { session, host, name, descriptor, options } = pushing;
  const { manifestBytes } = session.limits;
  if (descriptor.size > manifestBytes) {
    throw classified(
      "resource-exhausted",
      `push ${descriptor.digest}: a manifest of ${descriptor.size} bytes, at most ${manifestBytes}`,
    );
  }
  const byTag = name.tag !== "" && (name.digest === "" || name.digest === descriptor.digest);
  const path = apiPath(name, "manifests", byTag ? name.tag : descriptor.digest);
  const endpoint = endpointOf(host);
  if (await exists(pushing, path, byTag)) return { state: "exists", endpoint };
  options.onProgress?.(0);
  const stored = await ask(pushing, {
    method: "PUT",
    path,
    headers: [["Content-Type", descriptor.mediaType]],
    body: contentBody(pushing),
    answerMs: session.limits.commitMs,
  });
  await stored.discard();
  checkStored(pushing, stored);
  return { state: "uploaded", endpoint };
}

async function pushBlob(pushing: Pushing): Promise<Pushed> {
  const { session, host, name, descriptor, options, signal } = pushing;
  const endpoint = endpointOf(host);
  if (await exists(pushing, apiPath(name, "blobs", descriptor.digest), false)) return { state: "exists", endpoint };
  const candidates = (options.mountFrom ?? []).filter((from) => from !== name.repository && from !== "");
  for (const from of candidates.slice(0, MAX_MOUNTS)) {
    if (await mounted(pushing, from)) return { state: "mounted", from: `${name.namespace}/${from}`, endpoint };
  }
  // A broken upload starts anew: what the registry kept of it cannot be relied upon.
  let chunked = false;
  for (let failures = 0; ; ) {
    try {
      const location = await begin(pushing);
      await (chunked ? uploadChunked(pushing, location) : uploadWhole(pushing, location));
      return { state: "uploaded", endpoint };
    } catch (error) {
      signal.throwIfAborted();
      if (!isHostsFault(error)) throw error;
      const failure = collectFailure(error, host, signal);
      if (!chunked && failure.status !== undefined && WORTH_CHUNKS.has(failure.status)) {
        session.log.debug("registry takes no whole upload, sending it in one chunk", { ...failure });
        chunked = true;
        continue;
      }
      failures += 1;
      if (!failure.transient || failures >= session.limits.attempts) throw error;
      session.log.info("registry upload is tried again", { ...failure });
      const { retryAfterMs } = failure;
      if ((retryAfterMs ?? 0) > session.limits.retryAfterMaxMs) throw error;
      await pause(pauseMs(failures, session.limits, { retryAfterMs, random: session.random }), signal);
    }
  }
}

/** Tries to take the blob over from another repository of the registry. */
async function mounted(pushing: Pushing, from: string): Promise<boolean> {
  const { session, name, descriptor } = pushing;
  try {
    const response = await ask(pushing, {
      method: "POST",
      path: `${apiPath(name, "blobs", "uploads")}/`,
      query: [
        ["mount", descriptor.digest],
        ["from", from],
      ],
      scopes: [pushScope(name), scopeOf(from, "pull")],
      attempts: 1,
    });
    await response.discard();
    // 202 means that it was not there and an upload began, which is left to the registry to forget.
    return response.status === 201;
  } catch (error) {
    pushing.signal.throwIfAborted();
    if (!isHostsFault(error)) throw error;
    session.log.debug("registry mount failed", {
      from,
      reason: collectFailure(error, pushing.host, pushing.signal).reason,
    });
    return false;
  }
}

async function begin(pushing: Pushing): Promise<URL> {
  const response = await ask(pushing, { method: "POST", path: `${apiPath(pushing.name, "blobs", "uploads")}/` });
  await response.discard();
  return locationOf(pushing, response);
}

/** Where an upload goes on: `Location`, absolute or relative, with its query. */
function locationOf(pushing: Pushing, response: HttpResponse): URL {
  const { host } = pushing;
  const text = headerOf(response.headers, "location")?.trim() ?? "";
  // Without a scheme and a slash it is host and path, as the peer reads it.
  const bare = text !== "" && !text.startsWith("/") && !text.includes("://");
  const url = text === "" ? null : URL.parse(bare ? `${host.scheme}://${text}` : text, response.url.href);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new HostError(plainFailure(host, "began an upload without saying where it goes on (header Location)"));
  }
  url.username = "";
  url.password = "";
  url.hash = "";
  if (response.url.protocol === "https:" && url.protocol === "http:" && url.hostname === response.url.hostname) {
    // Behind a proxy that ends TLS, registries often name themselves by http.
    if (url.port === "" || url.port === response.url.port || url.port === "80") {
      url.protocol = "https:";
      url.port = response.url.port;
    }
  }
  return url;
}

async function uploadWhole(pushing: Pushing, location: URL): Promise<void> {
  const url = withDigest(location, pushing.descriptor.digest);
  const stored = await ask(pushing, {
    method: "PUT",
    path: url,
    headers: [["Content-Type", "application/octet-stream"]],
    body: contentBody(pushing),
    // Again from the beginning, with a new place to send it to.
    attempts: 1,
    answerMs: pushing.session.limits.commitMs,
  });
  await stored.discard();
  checkStored(pushing, stored);
}

async function uploadChunked(pushing: Pushing, location: URL): Promise<void> {
  const { descriptor, session } = pushing;
  const headers: [string, string][] = [["Content-Type", "application/octet-stream"]];
  let at = location;
  if (descriptor.size > 0) {
    const patched = await ask(pushing, {
      method: "PATCH",
      path: location,
      headers: [...headers, ["Content-Range", `0-${descriptor.size - 1}`]],
      body: contentBody(pushing),
      attempts: 1,
      answerMs: session.limits.commitMs,
    });
    await patched.discard();
    at = locationOf(pushing, patched);
  }
  const url = withDigest(at, descriptor.digest);
  const stored = await ask(pushing, {
    method: "PUT",
    path: url,
    headers,
    attempts: 1,
    answerMs: session.limits.commitMs,
  });
  await stored.discard();
  checkStored(pushing, stored);
}

/** An upload's URL with the digest that ends it. The query that is there stays as it is spelled: it may be signed. */
function withDigest(location: URL, digest: string): URL {
  const url = new URL(location);
  url.search = `${url.search === "" ? "?" : `${url.search}&`}digest=${encodeURIComponent(digest)}`;
  return url;
}

function contentBody(pushing: Pushing): RequestBody {
  const { descriptor, open, options } = pushing;
  return {
    length: descriptor.size,
    open: async function* (): AsyncGenerator<Uint8Array, void, undefined> {
      let sent = 0;
      options.onProgress?.(0);
      for await (const chunk of open(0)) {
        yield chunk;
        sent += chunk.byteLength;
        options.onProgress?.(sent);
      }
    },
  };
}

function checkStored(pushing: Pushing, response: HttpResponse): void {
  const { host, descriptor } = pushing;
  if (!STORED.has(response.status)) {
    throw new HostError(plainFailure(host, `answers ${response.status} to what should have stored the content`));
  }
  // The peer insists on the header; registries that leave it out have stored the content all the same.
  const told = headerOf(response.headers, "docker-content-digest")?.trim() ?? "";
  if (told !== "" && told !== descriptor.digest) {
    const shown = redactText(told, [], 80);
    throw new HostError(plainFailure(host, `stored digest ${shown}, expected ${descriptor.digest}`, "data-loss"));
  }
}

/**
 * The repositories a blob may be mounted from, best first, by containerd's label `containerd.io/distribution.source.<host>`
 * (repositories with commas between): those that share most of the target's path.
 */
export function mountCandidates(name: ImageName, label: string): readonly string[] {
  const target = name.repository.split("/");
  const common = (repository: string): number => {
    const parts = repository.split("/");
    const differs = target.findIndex((part, i) => parts[i] !== part);
    return differs < 0 ? target.length : differs;
  };
  return label
    .split(",")
    .filter((repository) => repository !== "" && repository !== name.repository)
    .toSorted((a, b) => common(b) - common(a));
}
