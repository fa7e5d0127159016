import { type Descriptor, isIndexType, isManifestType, MediaType } from "@stevedore/oci";
import { HostError, type HostFailure } from "./failure.ts";
import { endpointOf, type RegistryHost } from "./hosts/types.ts";
import type { HttpResponse } from "./http/carrier.ts";
import { headerOf } from "./http/head.ts";
import { acceptFor, apiPath, type ImageName, namespaceQuery, scopeOf } from "./image-name.ts";
import { overHosts } from "./over-hosts.ts";
import { redactText } from "./redact.ts";
import { plainFailure, send } from "./request.ts";
import type { Session } from "./session.ts";

/** A body that begins at the offset that was asked for. */
export interface Opened {
  readonly body: AsyncIterable<Uint8Array>;
  readonly host: RegistryHost;
  /** Whether the server keeps to ranges; otherwise the bytes before the offset were sent and thrown away. */
  readonly ranged: boolean;
  /** The media type the server states. */
  readonly contentType: string;
  /** Lets go of a body that is not read, or not to its end. */
  discard(): Promise<void>;
}

/** Kinds of objects the protocol has. */
export type ObjectKind = "manifests" | "blobs";

/** The kind under which registries keep a descriptor's content. */
export function kindOf(mediaType: string): ObjectKind {
  const manifest = isManifestType(mediaType) || isIndexType(mediaType) || mediaType === MediaType.dockerSchema1Manifest;
  return manifest ? "manifests" : "blobs";
}

/** URLs of one descriptor that are tried. */
const MAX_URLS = 8;

/** What a blob source serves. */
export interface BlobSourceOptions {
  readonly session: Session;
  readonly name: ImageName;
  readonly descriptor: Descriptor;
  readonly kind: ObjectKind;
  /** Hosts that may serve it, in order. */
  readonly hosts: readonly RegistryHost[];
}

/**
 * The places one object can be read from. Remembers where bodies broke, so that the next try goes elsewhere first.
 */
export class BlobSource {
  readonly #options: BlobSourceOptions;
  readonly #broken = new Map<string, number>();
  readonly #foreign: readonly RegistryHost[];

  constructor(options: BlobSourceOptions) {
    this.#options = options;
    this.#foreign = foreignHosts(options.descriptor);
  }

  /** Bytes of the whole; Infinity when the descriptor does not know. */
  get size(): number {
    const { size } = this.#options.descriptor;
    return size < 0 ? Number.POSITIVE_INFINITY : size;
  }

  get doing(): string {
    const { descriptor, name } = this.#options;
    return `fetch ${descriptor.digest} of ${name.namespace}/${name.repository}`;
  }

  /** A body of this host ended too early, or was wrong. */
  brokeAt(host: RegistryHost): void {
    const key = placeOf(host);
    this.#broken.set(key, (this.#broken.get(key) ?? 0) + 1);
  }

  /**
   * Opens the object at `offset`, up to `end` (exclusive) where the server keeps to it.
   *
   * @throws RegistryError; the signal's reason
   */
  async open(offset: number, end: number | undefined, signal: AbortSignal): Promise<Opened> {
    const { session, hosts } = this.#options;
    const breaks = (host: RegistryHost): number => this.#broken.get(placeOf(host)) ?? 0;
    const order = [...hosts, ...this.#foreign].toSorted((a, b) => breaks(a) - breaks(b));
    return overHosts(session, {
      doing: this.doing,
      hosts: order,
      signal,
      work: async (host, attempts) => this.#openAt(host, { offset, end, signal, attempts }),
    });
  }

  async #openAt(host: RegistryHost, want: Want): Promise<Opened> {
    const { session, name, descriptor, kind } = this.#options;
    const foreign = this.#foreign.some((one) => placeOf(one) === placeOf(host));
    const { offset, end, signal, attempts } = want;
    const headers: (readonly [string, string])[] = [
      // With its type named, a manifest is given as it is; others in the list would let a registry convert it.
      ["Accept", descriptor.mediaType === "" ? acceptFor(kind, "") : `${descriptor.mediaType}, */*`],
      // The digest is of these bytes and no packed form of them, and ranges count them.
      ["Accept-Encoding", "identity"],
    ];
    const partial = offset > 0 || (end !== undefined && end < this.size);
    if (partial)
      headers.push([
        "Range",
        `bytes=${offset}-${end === undefined || end === Number.POSITIVE_INFINITY ? "" : end - 1}`,
      ]);
    const response = await send(session, {
      host,
      namespace: foreign ? "" : name.namespace,
      method: "GET",
      path: foreign ? new URL(host.path) : apiPath(name, kind, descriptor.digest),
      query: foreign ? [] : namespaceQuery(host, name.namespace),
      headers,
      scopes: foreign ? [] : [scopeOf(name.repository, "pull")],
      anonymous: foreign,
      signal,
      attempts,
      verified: true,
    });
    try {
      return await this.#accept(host, response, want);
    } catch (error) {
      await response.discard();
      throw error;
    }
  }

  async #accept(host: RegistryHost, response: HttpResponse, want: Want): Promise<Opened> {
    const { offset, end } = want;
    const encoding = headerOf(response.headers, "content-encoding")?.toLowerCase() ?? "identity";
    if (encoding !== "identity" && encoding !== "") {
      throw this.#fault(host, `answers in content-encoding ${redactText(encoding, [], 40)}, which was not asked for`);
    }
    const contentType = headerOf(response.headers, "content-type")?.split(";", 1)[0]?.trim() ?? "";
    const discard = async (): Promise<void> => response.discard();
    if (response.status === 206) {
      const wrong = wrongRange(headerOf(response.headers, "content-range"), { offset, end, size: this.size });
      if (wrong !== undefined) throw this.#fault(host, wrong);
      return { body: response.body, host, ranged: true, contentType, discard };
    }
    if (response.status !== 200) throw this.#fault(host, `answers with status ${response.status} to a GET`);
    if (response.length !== undefined && this.size !== Number.POSITIVE_INFINITY && response.length !== this.size) {
      throw this.#fault(host, `its content has ${response.length} bytes, the descriptor says ${this.size}`);
    }
    const body = offset === 0 ? response.body : skip(response.body, offset);
    return { body, host, ranged: false, contentType, discard };
  }

  #fault(host: RegistryHost, reason: string): HostError {
    const failure: HostFailure = plainFailure(host, reason, "data-loss");
    this.#options.session.breakers.remember(endpointOf(host), failure);
    return new HostError(failure);
  }
}

/** A host by what stays the same whichever scheme it turns out to speak. */
function placeOf(host: RegistryHost): string {
  return `${host.host}${host.path}`;
}

interface Want {
  readonly offset: number;
  readonly end: number | undefined;
  readonly signal: AbortSignal;
  readonly attempts: number;
}

/** What is wrong with a Content-Range, or undefined. */
export function wrongRange(
  header: string | undefined,
  want: { readonly offset: number; readonly end: number | undefined; readonly size: number },
): string | undefined {
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/.exec(header?.trim() ?? "");
  const [, first, last, total] = match ?? [];
  if (first === undefined || last === undefined) {
    return `answers with content range ${JSON.stringify(redactText(header ?? "", [], 80))}, wanted from byte ${want.offset} on`;
  }
  const known = want.size !== Number.POSITIVE_INFINITY;
  const end = Math.min(want.end ?? want.size, want.size);
  const isWrong =
    Number(first) !== want.offset ||
    Number(last) < Number(first) ||
    (known && Number(last) >= end) ||
    (known && total !== "*" && Number(total) !== want.size);
  return isWrong
    ? `answers with content range ${JSON.stringify(header)}, wanted bytes ${want.offset} to ${known ? end - 1 : "the end"} of ${known ? want.size : "all"}`
    : undefined;
}

async function* skip(body: AsyncIterable<Uint8Array>, count: number): AsyncGenerator<Uint8Array, void, undefined> {
  let left = count;
  for await (const chunk of body) {
    if (left >= chunk.byteLength) {
      left -= chunk.byteLength;
      continue;
    }
    yield left === 0 ? chunk : chunk.subarray(left);
    left = 0;
  }
}

/**
 * A descriptor's own URLs, as hosts without credentials, headers and private authorities. They come after the registry:
 * a manifest's author must not be able to send every pull to a place of his choice first.
 */
function foreignHosts(descriptor: Descriptor): readonly RegistryHost[] {
  const found: RegistryHost[] = [];
  for (const text of (descriptor.urls ?? []).slice(0, MAX_URLS)) {
    const url = URL.parse(text);
    if (url === null || (url.protocol !== "https:" && url.protocol !== "http:")) continue;
    url.username = "";
    url.password = "";
    url.hash = "";
    found.push({
      scheme: url.protocol === "http:" ? "http" : "https",
      host: url.host,
      path: url.href,
      capabilities: new Set(["pull"]),
      plainFallback: false,
      own: false,
      tls: {},
      headers: [],
      origins: { server: "the descriptor's urls" },
    });
  }
  return found;
}
