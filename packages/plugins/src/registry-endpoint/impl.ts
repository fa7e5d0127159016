/**
 * The registry endpoint: the distribution API over the daemon's own images and content, so that another machine pulls from this
 * one, and tools that copy images reach them. Reads unless it was made writable.
 */
import { isErrorClass, type Logger, messageOf } from "@stevedore/base";
import { isDigest } from "@stevedore/oci/digest";
import { MAX_DOCUMENT_SIZE } from "@stevedore/oci/manifest";
import { MediaType } from "@stevedore/oci/media-types";
import { answerOf, empty, HEADERS, RegistryError } from "./answers.ts";
import { type Asked, type FoundBlob, Lookup } from "./lookup.ts";
import { pageOf } from "./page.ts";
import { rangeOf } from "./range.ts";
import { type Route, routeOf } from "./route.ts";
import { rangeText, type UploadRange, Uploads } from "./uploads.ts";
import { removeManifest, storeManifest, type WriteStores } from "./writes.ts";

export interface RegistryEndpointOptions {
  readonly stores: WriteStores;
  /** containerd's namespaces that are served, searched in this order; pushes go into the first. */
  readonly namespaces: readonly [string, ...string[]];
  /** Take pushes and deletions. */
  readonly writable: boolean;
  /** Whether a request may be answered. Absent: all may. */
  readonly admit?: (authorization: string | null) => Promise<boolean>;
  readonly log: Logger;
}

const NEVER = new AbortController().signal;
const READS: ReadonlySet<string> = new Set(["GET", "HEAD"]);

export class RegistryEndpoint {
  readonly #options: RegistryEndpointOptions;
  readonly #lookup: Lookup;
  readonly #uploads: Uploads;

  constructor(options: RegistryEndpointOptions) {
    this.#options = options;
    this.#lookup = new Lookup(options.stores, options.namespaces);
    this.#uploads = new Uploads(options.stores);
  }

  /** Answers a request. Never rejects. */
  async answer(request: Request): Promise<Response> {
    try {
      return await this.#answer(request, new URL(request.url));
    } catch (error) {
      if (!(error instanceof RegistryError) && !request.signal.aborted) {
        this.#options.log.warn("failed to answer a registry client", {
          method: request.method,
          path: new URL(request.url).pathname,
          error: messageOf(error),
        });
      }
      return answerOf(error);
    }
  }

  async #answer(request: Request, url: URL): Promise<Response> {
    const { admit, writable } = this.#options;
    if (admit !== undefined && !(await admit(request.headers.get("authorization")))) {
      throw new RegistryError("UNAUTHORIZED", undefined, {
        headers: { "www-authenticate": 'Basic realm="stevedore registry"' },
      });
    }
    const route = routeOf(url.pathname);
    if (route.kind === "misrouted") {
      if (route.code === "unknown") return empty(404);
      throw new RegistryError(route.code);
    }
    const ns = url.searchParams.get("ns");
    const asked: Asked = {
      host: request.headers.get("host") ?? url.host,
      ...(ns === null || ns === "" ? {} : { ns }),
      signal: request.signal,
    };
    // Only the state of an upload is read by whoever may write.
    if (READS.has(request.method) && route.kind !== "upload") return this.#read(request, url, route, asked);
    if (!writable) {
      throw new RegistryError(
        "UNSUPPORTED",
        "this registry endpoint is read-only; set writable = true in its section of the daemon's configuration to push to it",
        { headers: { allow: "GET, HEAD" } },
      );
    }
    return this.#write(request, url, route, asked);
  }

  async #read(request: Request, url: URL, route: Route, asked: Asked): Promise<Response> {
    switch (route.kind) {
      case "base":
        return Response.json({}, { headers: HEADERS });
      case "catalog": {
        const { items, headers } = pageOf(await this.#lookup.repositories(asked), url);
        return Response.json({ repositories: items }, { headers: { ...HEADERS, ...headers } });
      }
      case "tags": {
        const { items, headers } = pageOf(await this.#lookup.tags(asked, route.name), url);
        return Response.json({ name: route.name, tags: items }, { headers: { ...HEADERS, ...headers } });
      }
      case "manifest": {
        const { bytes, mediaType, info } = await this.#lookup.manifest(asked, route.name, route.reference);
        const headers = {
          ...HEADERS,
          "content-type": mediaType,
          "content-length": String(bytes.length),
          "docker-content-digest": info.digest,
          etag: `"${info.digest}"`,
        };
        if (request.headers.get("if-none-match") === headers.etag) return new Response(null, { status: 304, headers });
        return new Response(request.method === "HEAD" ? null : Buffer.from(bytes), { headers });
      }
      case "blob":
        return this.#blob(request, await this.#lookup.blob(asked, route.digest));
      case "referrers":
        return this.#referrers(url, route.digest, asked);
      case "upload":
      case "uploads":
        throw notSupported(request, route);
    }
  }

  #blob(request: Request, found: FoundBlob): Response {
    const { size, digest } = found.info;
    const headers = {
      ...HEADERS,
      "content-type": "application/octet-stream",
      "docker-content-digest": digest,
      etag: `"${digest}"`,
      "accept-ranges": "bytes",
      // Content of a digest never changes.
      "cache-control": "max-age=31536000",
    };
    if (request.headers.get("if-none-match") === headers.etag) return new Response(null, { status: 304, headers });
    const range = rangeOf(request.headers.get("range"), size);
    if (range === "unsatisfiable") {
      throw new RegistryError("RANGE_INVALID", `${digest} has ${size} bytes`, {
        headers: { "content-range": `bytes */${size}` },
      });
    }
    const { start, length } = range ?? { start: 0, length: size };
    const answered = {
      status: range === undefined ? 200 : 206,
      headers: {
        ...headers,
        "content-length": String(length),
        ...(range === undefined ? {} : { "content-range": `bytes ${start}-${start + length - 1}/${size}` }),
      },
    };
    if (request.method === "HEAD" || length === 0) return new Response(null, answered);
    return new Response(streamOf(this.#lookup.bytes(found, start, length)), answered);
  }

  async #referrers(url: URL, digest: string, asked: Asked): Promise<Response> {
    const type = url.searchParams.get("artifactType");
    const all = await this.#lookup.referrers(asked, digest);
    const manifests = type === null ? all : all.filter(({ artifactType }) => artifactType === type);
    const index = { schemaVersion: 2, mediaType: MediaType.ociIndex, manifests };
    return new Response(JSON.stringify(index), {
      headers: {
        ...HEADERS,
        "content-type": MediaType.ociIndex,
        ...(type === null ? {} : { "oci-filters-applied": "artifactType" }),
      },
    });
  }

  async #write(request: Request, url: URL, route: Route, asked: Asked): Promise<Response> {
    const context = { signal: request.signal, namespace: this.#options.namespaces[0] };
    switch (route.kind) {
      case "uploads":
        if (request.method === "POST") return this.#begin(context, request, url, route.name);
        break;
      case "upload":
        return this.#upload(context, request, url, route);
      case "manifest":
        if (request.method === "PUT") return this.#storeManifest(context, request, route, asked);
        if (request.method !== "DELETE") break;
        await removeManifest(this.#options.stores.images, context, this.#writtenAs(route.name, asked), route.reference);
        return empty(202);
      case "base":
      case "blob":
      case "catalog":
      case "referrers":
      case "tags":
    }
    throw notSupported(request, route);
  }

  async #begin(context: WriteContext, request: Request, url: URL, name: string): Promise<Response> {
    const mount = url.searchParams.get("mount");
    if (mount !== null && isDigest(mount) && (await this.#present(context, mount))) return stored(name, mount);
    const digest = url.searchParams.has("digest") ? digestAsked(url) : undefined;
    const id = await this.#uploads.begin(context);
    if (digest === undefined) return uploadState(202, name, id, 0);
    try {
      await this.#uploads.finish(context, id, digest, request.body ?? undefined);
    } catch (error) {
      // The client was never told the upload's name, so that nobody else could end it. The request may have ended already.
      await this.#uploads.cancel({ ...context, signal: NEVER }, id).catch(() => undefined);
      throw error;
    }
    return stored(name, digest);
  }

  async #upload(
    context: WriteContext,
    request: Request,
    url: URL,
    route: Extract<Route, { readonly kind: "upload" }>,
  ): Promise<Response> {
    const { name, id } = route;
    const body = request.body ?? undefined;
    switch (request.method) {
      case "GET":
      case "HEAD":
        return uploadState(204, name, id, await this.#uploads.offset(context, id));
      case "PATCH": {
        const range = uploadRange(request.headers.get("content-range"));
        return uploadState(202, name, id, await this.#uploads.append(context, id, body, range));
      }
      case "PUT": {
        const digest = digestAsked(url);
        await this.#uploads.finish(context, id, digest, body);
        return stored(name, digest);
      }
      case "DELETE":
        await this.#uploads.cancel(context, id);
        return empty(204);
      default:
        throw notSupported(request, route);
    }
  }

  async #storeManifest(
    context: WriteContext,
    request: Request,
    { name, reference }: Extract<Route, { readonly kind: "manifest" }>,
    asked: Asked,
  ): Promise<Response> {
    const [repository = name] = this.#writtenAs(name, asked);
    const [mediaType = ""] = (request.headers.get("content-type") ?? "").split(";", 1);
    const bytes = await limited(request);
    const pushed = { repository, reference, mediaType: mediaType.trim(), bytes };
    const served = async (_of: unknown, blob: string): Promise<boolean> =>
      (await this.#lookup.blobOrNone(asked, blob)) !== undefined;
    const { digest, subject } = await storeManifest({ ...this.#options.stores, served }, context, pushed);
    return empty(201, {
      location: `/v2/${name}/manifests/${digest}`,
      "docker-content-digest": digest,
      ...(subject === undefined ? {} : { "oci-subject": subject }),
    });
  }

  async #present(context: WriteContext, digest: string): Promise<boolean> {
    try {
      await this.#options.stores.content.info(context, digest);
      return true;
    } catch (error) {
      if (isErrorClass(error, "not-found")) return false;
      throw error;
    }
  }

  /** What a pushed repository is called here: as the client's own reference would name it. */
  #writtenAs(name: string, asked: Asked): readonly string[] {
    return this.#lookup.repositoriesFor(name, asked).slice(0, 1);
  }
}

/** The namespace that takes pushes, until the client goes. */
interface WriteContext {
  readonly signal: AbortSignal;
  readonly namespace: string;
}

function notSupported(request: Request, route: Route): RegistryError {
  return new RegistryError("UNSUPPORTED", `${request.method} is not supported for ${route.kind}`);
}

function uploadState(status: number, name: string, id: string, offset: number): Response {
  return empty(status, {
    location: `/v2/${name}/blobs/uploads/${id}`,
    range: rangeText(offset),
    "docker-upload-uuid": id,
  });
}

function stored(name: string, digest: string): Response {
  return empty(201, { location: `/v2/${name}/blobs/${digest}`, "docker-content-digest": digest });
}

function digestAsked(url: URL): string {
  const digest = url.searchParams.get("digest") ?? "";
  if (!isDigest(digest)) throw new RegistryError("DIGEST_INVALID", `found digest "${digest}", want <algorithm>:<hex>`);
  return digest;
}

function uploadRange(header: string | null): UploadRange | undefined {
  if (header === null) return undefined;
  const [, start] = /^(?:bytes[ =])?(\d{1,16})-\d{1,16}(?:\/.*)?$/.exec(header) ?? [];
  if (start === undefined)
    throw new RegistryError("RANGE_INVALID", `found content-range "${header}", want <start>-<end>`);
  return { start: Number(start) };
}

/** A manifest's bytes, read no further than a manifest may have. */
async function limited(request: Request): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  const body: AsyncIterable<Uint8Array> | undefined = request.body ?? undefined;
  if (body === undefined) return new Uint8Array();
  for await (const piece of body) {
    size += piece.length;
    if (size > MAX_DOCUMENT_SIZE) {
      throw new RegistryError("SIZE_INVALID", `manifest has more than ${MAX_DOCUMENT_SIZE} bytes`);
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

/** Pieces as a body that reads on when the client has room. */
function streamOf(pieces: AsyncGenerator<Uint8Array>): ReadableStream<Uint8Array> {
  return new ReadableStream(
    {
      pull: async (controller) => {
        const next = await pieces.next();
        if (next.done === true) controller.close();
        else controller.enqueue(next.value);
      },
      cancel: async () => {
        await pieces.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}
