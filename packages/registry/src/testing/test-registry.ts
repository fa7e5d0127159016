/**
 * A registry in the test's own process: the distribution API over memory, with accounts, a token server, and switches
 * for everything a broken or hostile registry does. For tests only.
 */
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { digestOf, MediaType } from "@stevedore/oci";

/** A manifest or blob that is served. */
export interface StoredObject {
  readonly bytes: Uint8Array;
  readonly mediaType: string;
}

/** A request as it came. */
export interface SeenRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** The bytes of a form; "" for all else. */
  readonly form: string;
}

/** Answers a request in place of the registry. @returns whether it did */
export type Fault = (request: SeenRequest, response: ServerResponse) => boolean | Promise<boolean>;

/** How a registry behaves. */
export interface TestRegistryOptions {
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca?: string };
  readonly auth?:
    | { readonly kind: "basic"; readonly users: Readonly<Record<string, string>> }
    | {
        readonly kind: "token";
        readonly users: Readonly<Record<string, string>>;
        /** Where tokens are given out; default: this registry's own `/token`. */
        readonly realm?: string;
        /** Repositories everybody may pull. */
        readonly public?: readonly string[];
        /** Seconds a token lives. */
        readonly expiresIn?: number;
        /** Whether the token server knows POST. */
        readonly post?: boolean;
        /** A long-lived token that is taken for the first user. */
        readonly identityToken?: string;
      };
  /** Whether it has the referrers API. */
  readonly referrers?: boolean;
  /** Tags and repositories of a page. */
  readonly page?: number;
  /** Whether uploads take a whole body by PUT. */
  readonly wholeUploads?: boolean;
  /** Whether it answers ranges. */
  readonly ranges?: boolean;
  /** Whether answers carry Docker-Content-Digest. */
  readonly digestHeader?: boolean;
  /** Default: any that is free. */
  readonly port?: number;
  /** Whether HEAD is known. */
  readonly head?: boolean;
}

interface Repository {
  readonly blobs: Map<string, Uint8Array>;
  readonly manifests: Map<string, StoredObject>;
  readonly tags: Map<string, string>;
}

/** A running test registry. */
export class TestRegistry {
  /** Tried in order for each request before the registry itself. */
  readonly faults: Fault[] = [];
  readonly seen: SeenRequest[] = [];
  readonly #options: TestRegistryOptions;
  readonly #server: Server;
  readonly #repositories = new Map<string, Repository>();
  readonly #uploads = new Map<string, Uint8Array>();
  readonly #tokens = new Map<string, { readonly scopes: readonly string[]; readonly expires: number }>();
  #uploadCount = 0;
  #connections = 0;

  private constructor(options: TestRegistryOptions) {
    this.#options = options;
    const listener: RequestListener = (request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    };
    const { tls } = options;
    this.#server =
      tls === undefined
        ? createServer(listener)
        : createTlsServer(
            { ...tls, ...(tls.ca === undefined ? {} : { requestCert: true, rejectUnauthorized: true }) },
            listener,
          );
    this.#server.on("connection", () => {
      this.#connections += 1;
    });
  }

  /** Starts one on a free port of the loopback address. End it with {@link stop}. */
  static async start(options: TestRegistryOptions = {}): Promise<TestRegistry> {
    const made = new TestRegistry(options);
    await new Promise<void>((resolve) => made.#server.listen(options.port ?? 0, "127.0.0.1", resolve));
    return made;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  /** `127.0.0.1:port`. */
  get host(): string {
    const address = this.#server.address();
    return `127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
  }

  get url(): string {
    return `${this.#options.tls === undefined ? "http" : "https"}://${this.host}`;
  }

  /** Connections that were taken so far. */
  get connections(): number {
    return this.#connections;
  }

  /** Requests by method and path, as one list of texts. */
  get log(): readonly string[] {
    return this.seen.map(({ method, path }) => `${method} ${path}`);
  }

  repository(name: string): Repository {
    const known = this.#repositories.get(name);
    if (known !== undefined) return known;
    const made: Repository = { blobs: new Map(), manifests: new Map(), tags: new Map() };
    this.#repositories.set(name, made);
    return made;
  }

  /** @returns its digest */
  putBlob(repository: string, bytes: Uint8Array): string {
    const digest = digestOf(bytes);
    this.repository(repository).blobs.set(digest, bytes);
    return digest;
  }

  /** @returns its digest */
  putManifest(
    repository: string,
    bytes: Uint8Array,
    options: { readonly tag?: string; readonly mediaType?: string } = {},
  ): string {
    const digest = digestOf(bytes);
    const { manifests, tags } = this.repository(repository);
    manifests.set(digest, { bytes, mediaType: options.mediaType ?? MediaType.ociManifest });
    if (options.tag !== undefined) tags.set(options.tag, digest);
    return digest;
  }

  /** Makes every token that was given out worthless. */
  revokeTokens(): void {
    this.#tokens.clear();
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "GET", url: path = "/", headers } = request;
    const url = new URL(path, "http://registry.invalid");
    const form = headers["content-type"]?.startsWith("application/x-www-form-urlencoded") === true;
    const seen: SeenRequest = {
      method,
      path,
      headers,
      form: form ? Buffer.from(await bodyOf(request)).toString() : "",
    };
    this.seen.push(seen);
    for (const fault of this.faults) if (await fault(seen, response)) return;
    if (url.pathname === "/token") return this.#token(seen, url, response);
    if (method === "HEAD" && this.#options.head === false) return refuse(response, 405, "UNSUPPORTED");
    if (!this.#allowed(seen, url, response)) return undefined;
    if (url.pathname === "/v2/") return answer(response, 200, "{}");
    if (url.pathname === "/v2/_catalog")
      return this.#page(url, response, { key: "repositories", all: [...this.#repositories.keys()] });
    const match = /^\/v2\/(.+)\/(manifests|blobs|tags|referrers)\/(.+)$/.exec(url.pathname);
    const [, name, kind, rest] = match ?? [];
    if (name === undefined || rest === undefined) return refuse(response, 404, "NAME_UNKNOWN");
    if (rest.startsWith("uploads/"))
      return this.#upload({ request, response, url, name, id: rest.slice("uploads/".length) });
    const repository = this.#repositories.get(name);
    if (kind === "manifests" && method === "PUT")
      return this.#storeManifest(request, response, { name, reference: rest });
    if (repository === undefined) return refuse(response, 404, "NAME_UNKNOWN");
    if (kind === "tags") return this.#page(url, response, { key: "tags", all: [...repository.tags.keys()], name });
    if (kind === "referrers") return this.#referrers(url, response, { repository, digest: rest });
    if (method === "DELETE") return remove(repository, response, { kind, reference: rest });
    const digest = kind === "manifests" ? (repository.tags.get(rest) ?? rest) : rest;
    const blob = repository.blobs.get(digest);
    const found =
      kind === "manifests"
        ? repository.manifests.get(digest)
        : blob === undefined
          ? undefined
          : { bytes: blob, mediaType: "application/octet-stream" };
    if (found === undefined) return refuse(response, 404, kind === "manifests" ? "MANIFEST_UNKNOWN" : "BLOB_UNKNOWN");
    return this.#serve(seen, response, { ...found, digest });
  }

  #serve(request: SeenRequest, response: ServerResponse, found: StoredObject & { readonly digest: string }): void {
    const { bytes, mediaType, digest } = found;
    response.setHeader("Content-Type", mediaType);
    if (this.#options.digestHeader !== false) response.setHeader("Docker-Content-Digest", digest);
    const range = /^bytes=(\d+)-(\d*)$/.exec(String(request.headers["range"] ?? ""));
    if (range !== null && this.#options.ranges !== false) {
      const first = Number(range[1]);
      const last = range[2] === "" ? bytes.byteLength - 1 : Math.min(Number(range[2]), bytes.byteLength - 1);
      if (first > last) return refuse(response, 416, "RANGE_INVALID");
      response.statusCode = 206;
      response.setHeader("Content-Range", `bytes ${first}-${last}/${bytes.byteLength}`);
      return send(request, response, bytes.subarray(first, last + 1));
    }
    return send(request, response, bytes);
  }

  async #storeManifest(
    request: IncomingMessage,
    response: ServerResponse,
    to: { readonly name: string; readonly reference: string },
  ): Promise<void> {
    const bytes = await bodyOf(request);
    const isDigest = to.reference.startsWith("sha256:");
    const mediaType = request.headers["content-type"] ?? "";
    const digest = this.putManifest(to.name, bytes, { mediaType, ...(isDigest ? {} : { tag: to.reference }) });
    response.setHeader("Docker-Content-Digest", digest);
    response.setHeader("Location", `/v2/${to.name}/manifests/${digest}`);
    return isDigest && digest !== to.reference ? refuse(response, 400, "DIGEST_INVALID") : answer(response, 201, "");
  }

  async #upload(call: {
    readonly request: IncomingMessage;
    readonly response: ServerResponse;
    readonly url: URL;
    readonly name: string;
    readonly id: string;
  }): Promise<void> {
    const { request, response, url, name, id } = call;
    const digest = url.searchParams.get("digest") ?? "";
    const whole = this.#options.wholeUploads !== false;
    if (request.method === "POST") {
      const mount = url.searchParams.get("mount") ?? "";
      const from = this.#repositories.get(url.searchParams.get("from") ?? "")?.blobs.get(mount);
      if (from !== undefined) {
        this.repository(name).blobs.set(mount, from);
        response.setHeader("Docker-Content-Digest", mount);
        return answer(response, 201, "");
      }
      const made = String((this.#uploadCount += 1));
      this.#uploads.set(made, new Uint8Array());
      // Relative, with a query that must come back.
      response.setHeader("Location", `/v2/${name}/blobs/uploads/${made}?state=a%2Bb`);
      return answer(response, 202, "");
    }
    const bytes = await bodyOf(request);
    const before = this.#uploads.get(id);
    if (before === undefined || url.searchParams.get("state") !== "a+b")
      return refuse(response, 404, "BLOB_UPLOAD_UNKNOWN");
    if (request.method === "PATCH") {
      this.#uploads.set(id, Buffer.concat([before, bytes]));
      response.setHeader("Location", `/v2/${name}/blobs/uploads/${id}?state=a%2Bb`);
      return answer(response, 202, "");
    }
    if (!whole && bytes.byteLength > 0) return refuse(response, 405, "UNSUPPORTED");
    const content = Buffer.concat([before, bytes]);
    this.#uploads.delete(id);
    if (digestOf(content) !== digest) return refuse(response, 400, "DIGEST_INVALID");
    this.putBlob(name, content);
    response.setHeader("Docker-Content-Digest", digest);
    return answer(response, 201, "");
  }

  #page(
    url: URL,
    response: ServerResponse,
    list: { readonly key: string; readonly all: readonly string[]; readonly name?: string },
  ): void {
    const size = Math.min(this.#options.page ?? 1000, Number(url.searchParams.get("n") ?? "1000"));
    const last = url.searchParams.get("last");
    const from = last === null ? 0 : list.all.indexOf(last) + 1;
    const part = list.all.slice(from, from + size);
    if (from + size < list.all.length) {
      response.setHeader("Link", `<${url.pathname}?last=${part.at(-1) ?? ""}&n=${size}>; rel="next"`);
    }
    response.setHeader("Content-Type", "application/json");
    answer(
      response,
      200,
      JSON.stringify({ ...(list.name === undefined ? {} : { name: list.name }), [list.key]: part }),
    );
  }

  #referrers(
    url: URL,
    response: ServerResponse,
    of: { readonly repository: Repository; readonly digest: string },
  ): void {
    if (this.#options.referrers === false) return refuse(response, 404, "NOT_FOUND");
    const manifests = [];
    for (const [digest, { bytes, mediaType }] of of.repository.manifests) {
      const document: unknown = JSON.parse(Buffer.from(bytes).toString());
      if (!isReferring(document) || document.subject.digest !== of.digest) continue;
      const artifactType = document.artifactType ?? "";
      const wanted = url.searchParams.getAll("artifactType");
      if (wanted.length > 0 && !wanted.includes(artifactType)) continue;
      manifests.push({ mediaType, digest, size: bytes.byteLength, artifactType });
    }
    response.setHeader("Content-Type", MediaType.ociIndex);
    answer(response, 200, JSON.stringify({ schemaVersion: 2, mediaType: MediaType.ociIndex, manifests }));
  }

  #allowed(request: SeenRequest, url: URL, response: ServerResponse): boolean {
    const { auth } = this.#options;
    if (auth === undefined) return true;
    const sent = String(request.headers["authorization"] ?? "");
    if (auth.kind === "basic") {
      const pair = Buffer.from(sent.replace(/^Basic /, ""), "base64").toString();
      const user = pair.slice(0, pair.indexOf(":"));
      if (sent.startsWith("Basic ") && auth.users[user] === pair.slice(user.length + 1)) return true;
      response.setHeader("WWW-Authenticate", 'Basic realm="test registry"');
      refuse(response, 401, "UNAUTHORIZED");
      return false;
    }
    const name = /^\/v2\/(.+?)\/(?:manifests|blobs|tags|referrers)\//.exec(url.pathname)?.[1];
    const action = request.method === "GET" || request.method === "HEAD" ? "pull" : "push";
    const scope = name === undefined ? "" : `repository:${name}:${action}`;
    const token = this.#tokens.get(sent.replace(/^Bearer /, ""));
    const live = token !== undefined && token.expires > Date.now();
    if (live && (scope === "" || token.scopes.includes(scope))) return true;
    const realm = auth.realm ?? `${this.url}/token`;
    const error = sent === "" ? "" : `,error="${live ? "insufficient_scope" : "invalid_token"}"`;
    const asked = scope === "" ? "" : `,scope="${scope}"`;
    response.setHeader("WWW-Authenticate", `Bearer realm="${realm}",service="test"${asked}${error}`);
    refuse(response, 401, "UNAUTHORIZED");
    return false;
  }

  /** Tokens for another registry's users may be given out here: what is granted is looked up by `accept`. */
  #token(request: SeenRequest, url: URL, response: ServerResponse): void {
    const { auth } = this.#options;
    if (auth?.kind !== "token") return refuse(response, 404, "NOT_FOUND");
    const form = new URLSearchParams(request.form);
    if (request.method === "POST" && auth.post === false) return refuse(response, 404, "NOT_FOUND");
    const basic = Buffer.from(
      String(request.headers["authorization"] ?? "").replace(/^Basic /, ""),
      "base64",
    ).toString();
    const user =
      request.method === "POST" ? (form.get("username") ?? "") : basic.slice(0, Math.max(0, basic.indexOf(":")));
    const password = request.method === "POST" ? (form.get("password") ?? "") : basic.slice(user.length + 1);
    const refresh = form.get("refresh_token");
    const known = refresh === null ? user !== "" && auth.users[user] === password : refresh === auth.identityToken;
    const anonymous = user === "" && refresh === null;
    if (!known && !anonymous) return refuse(response, 401, "UNAUTHORIZED");
    const asked = request.method === "POST" ? (form.get("scope") ?? "").split(" ") : url.searchParams.getAll("scope");
    const scopes = asked.flatMap((scope) => {
      const [, name = "", actions = ""] = /^repository:(.+):([a-z,*]+)$/.exec(scope) ?? [];
      return actions
        .split(",")
        .filter((action) => known || (action === "pull" && auth.public?.includes(name) === true))
        .map((action) => `repository:${name}:${action}`);
    });
    const token = crypto.randomUUID();
    const expiresIn = auth.expiresIn ?? 300;
    this.#tokens.set(token, { scopes, expires: Date.now() + expiresIn * 1000 });
    response.setHeader("Content-Type", "application/json");
    const key = request.method === "POST" ? "access_token" : "token";
    return answer(
      response,
      200,
      JSON.stringify({ [key]: token, expires_in: expiresIn, issued_at: new Date().toISOString() }),
    );
  }

  /** Takes tokens of another registry's token server as its own. */
  shareTokensOf(other: TestRegistry): void {
    const get = this.#tokens.get.bind(this.#tokens);
    this.#tokens.get = (key: string) => get(key) ?? other.#tokens.get(key);
  }
}

function remove(
  repository: Repository,
  response: ServerResponse,
  what: { readonly kind: string | undefined; readonly reference: string },
): void {
  const { kind, reference } = what;
  const gone =
    kind === "blobs"
      ? repository.blobs.delete(reference)
      : repository.tags.delete(reference) || repository.manifests.delete(reference);
  return gone ? answer(response, 202, "") : refuse(response, 404, "MANIFEST_UNKNOWN");
}

function isReferring(
  document: unknown,
): document is { readonly subject: { readonly digest: string }; readonly artifactType?: string } {
  if (typeof document !== "object" || document === null || !("subject" in document)) return false;
  const { subject } = document;
  return typeof subject === "object" && subject !== null && "digest" in subject && typeof subject.digest === "string";
}

function send(request: SeenRequest, response: ServerResponse, bytes: Uint8Array): void {
  response.setHeader("Content-Length", bytes.byteLength);
  response.end(request.method === "HEAD" ? undefined : bytes);
}

/** Ends an answer with a text. */
export function answer(response: ServerResponse, status: number, text: string): void {
  response.statusCode = status;
  response.setHeader("Content-Length", Buffer.byteLength(text));
  response.end(text);
}

/** Ends an answer with a registry's error list. */
export function refuse(response: ServerResponse, status: number, code: string, message = code.toLowerCase()): void {
  response.setHeader("Content-Type", "application/json");
  answer(response, status, JSON.stringify({ errors: [{ code, message, detail: {} }] }));
}

async function bodyOf(request: IncomingMessage): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of request) {
    if (part instanceof Uint8Array) parts.push(part);
  }
  return Buffer.concat(parts);
}
