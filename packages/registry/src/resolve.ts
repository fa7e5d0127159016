import { classified } from "@stevedore/base";
import { type Descriptor, digestOf, isDigest, MediaType, parseDigest } from "@stevedore/oci";
import { HostError } from "./failure.ts";
import { endpointOf, type RegistryHost } from "./hosts/types.ts";
import { type HttpResponse, readAll } from "./http/carrier.ts";
import { headerOf } from "./http/head.ts";
import { apiPath, type ImageName, MANIFEST_ACCEPT, namespaceQuery, scopeOf } from "./image-name.ts";
import { overHosts, withCapabilities } from "./over-hosts.ts";
import { redactText } from "./redact.ts";
import { plainFailure, send } from "./request.ts";
import type { Session } from "./session.ts";

/** What a name stands for, by the word of a host that may tell. */
export interface Resolved {
  /** The reference as given. */
  readonly name: string;
  readonly descriptor: Descriptor;
  /** The host that told. */
  readonly endpoint: string;
}

/** Statuses to a HEAD after which a GET may do better, or at least tells why. */
const WORTH_A_GET: readonly number[] = [400, 403, 404, 405, 501];

/**
 * Finds the manifest a reference names.
 *
 * A name with a tag is resolved by hosts with the capability `resolve` only: whoever answers decides what is run. With
 * a digest, any host may tell; manifests are asked for first, then blobs.
 *
 * @throws invalid-argument for a reference without tag and digest; RegistryError
 */
export async function resolve(session: Session, name: ImageName, signal: AbortSignal): Promise<Resolved> {
  if (name.tag === "" && name.digest === "") throw classified("invalid-argument", "object required");
  const all = await session.hosts.hosts(name.namespace);
  const hosts = withCapabilities(all, name.digest === "" ? ["pull", "resolve"] : ["pull"]);
  return overHosts(session, {
    doing: name.text,
    hosts,
    signal,
    work: async (host, attempts) => {
      if (name.digest === "") return ask({ session, name, host, attempts, signal }, "manifests", name.tag);
      try {
        return await ask({ session, name, host, attempts, signal }, "manifests", name.digest);
      } catch (error) {
        if (!(error instanceof HostError) || error.failure.status !== 404) throw error;
        return ask({ session, name, host, attempts, signal }, "blobs", name.digest).catch((again: unknown) => {
          // That there is no such blob either says less than what was said of the manifest.
          throw again instanceof HostError && again.failure.status === 404 ? error : again;
        });
      }
    },
  });
}

interface Asking {
  readonly session: Session;
  readonly name: ImageName;
  readonly host: RegistryHost;
  readonly attempts: number;
  readonly signal: AbortSignal;
}

async function ask(asking: Asking, kind: "manifests" | "blobs", object: string): Promise<Resolved> {
  const { session, name, host, attempts, signal } = asking;
  const request = (method: string): Promise<HttpResponse> =>
    send(session, {
      host,
      namespace: name.namespace,
      method,
      path: apiPath(name, kind, object),
      query: namespaceQuery(host, name.namespace),
      headers: [["Accept", MANIFEST_ACCEPT]],
      scopes: [scopeOf(name.repository, "pull")],
      signal,
      attempts,
      ...(method === "HEAD" ? { accept: WORTH_A_GET } : {}),
      // A blob is fetched and hashed later; the manifest of a tag is what this answer says it is.
      verified: name.digest !== "",
    });
  const head = await request("HEAD");
  if (head.status < 300) {
    const found = fromHead(asking, head);
    if (found !== undefined) return found;
  }
  await head.discard();
  return fromBody(asking, await request("GET"));
}

function fromHead(asking: Asking, head: HttpResponse): Resolved | undefined {
  const { name, host } = asking;
  const told = headerOf(head.headers, "docker-content-digest")?.trim() ?? "";
  const size = head.length;
  if (size === undefined || (told === "" && name.digest === "")) return undefined;
  if (told !== "" && !isDigest(told)) {
    throw fault(host, `the header Docker-Content-Digest holds no digest: ${redactText(told, [], 80)}`);
  }
  // Another algorithm's digest cannot be compared; the content will be.
  const comparable = told !== "" && name.digest !== "" && algorithm(told) === algorithm(name.digest);
  if (comparable && told !== name.digest) throw fault(host, `answers with ${told} to ${name.digest}`);
  return finish(asking, { digest: name.digest === "" ? told : name.digest, size, response: head });
}

async function fromBody(asking: Asking, response: HttpResponse): Promise<Resolved> {
  const { session, name, host } = asking;
  const { manifestBytes } = session.limits;
  if (response.length !== undefined && response.length > manifestBytes) {
    await response.discard();
    throw tooLarge(host, response.length, manifestBytes);
  }
  const bytes = await readAll(response, manifestBytes);
  const wanted = name.digest === "" ? (headerOf(response.headers, "docker-content-digest")?.trim() ?? "") : name.digest;
  const found = digestOf(bytes, isDigest(wanted) ? parseDigest(wanted).algorithm : undefined);
  if (isDigest(wanted) && found !== wanted) {
    throw fault(host, `its content has digest ${found}, expected ${wanted}`, "data-loss");
  }
  return finish(asking, { digest: found, size: bytes.byteLength, response });
}

function finish(
  asking: Asking,
  found: { readonly digest: string; readonly size: number; readonly response: HttpResponse },
): Resolved {
  const { session, name, host } = asking;
  const { digest, size, response } = found;
  const mediaType = mediaTypeOf(response);
  if (size > session.limits.manifestBytes) throw tooLarge(host, size, session.limits.manifestBytes);
  if (mediaType === MediaType.dockerSchema1Manifest && name.digest === "") {
    throw fault(
      host,
      `media type ${JSON.stringify(mediaType)} is no longer supported since containerd v2.0, please rebuild the image as ${JSON.stringify(MediaType.dockerManifest)} or ${JSON.stringify(MediaType.ociManifest)}: not implemented`,
      "not-implemented",
    );
  }
  for (const warning of response.headers.get("warning") ?? []) {
    const text = /^299 - "(.*)"$/.exec(warning.trim())?.[1];
    if (text !== undefined)
      session.log.warn("registry warning", { ref: name.text, host: host.host, warning: redactText(text) });
  }
  return { name: name.text, descriptor: { mediaType, digest, size }, endpoint: endpointOf(host) };
}

/** The media type an answer states, without parameters. Red Hat's registry calls schema 1 plain text. */
export function mediaTypeOf(response: HttpResponse): string {
  const type = (headerOf(response.headers, "content-type") ?? "").split(";", 1)[0]?.trim() ?? "";
  if (type === "text/plain") return MediaType.dockerSchema1Manifest;
  return /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+$/.test(type) && type.length < 256 ? type : "application/octet-stream";
}

function algorithm(digest: string): string {
  return digest.slice(0, digest.indexOf(":"));
}

function tooLarge(host: RegistryHost, size: number, limit: number): HostError {
  return fault(host, `rejecting a manifest of ${size} bytes, at most ${limit} are taken`, "not-found");
}

function fault(
  host: RegistryHost,
  reason: string,
  errorClass?: "data-loss" | "not-found" | "not-implemented",
): HostError {
  return new HostError(plainFailure(host, reason, errorClass));
}
