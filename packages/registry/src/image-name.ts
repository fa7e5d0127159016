import { classified } from "@stevedore/base";
import {
  MediaType,
  parseDigest,
  parseReference,
  type Reference,
  referenceDigest,
  referenceHost,
  referencePath,
  referenceTag,
} from "@stevedore/oci";
import { type RegistryHost } from "./hosts/types.ts";

/** A reference taken apart for the protocol. */
export interface ImageName {
  /** As given. */
  readonly text: string;
  /** Host part of the name: `docker.io`. Which hosts serve it is configuration's matter. */
  readonly namespace: string;
  /** `library/busybox`. */
  readonly repository: string;
  /** Tag, or "". */
  readonly tag: string;
  /** Digest, or "". */
  readonly digest: string;
}

/** Longest repository path, the protocol's limit. */
const MAX_REPOSITORY = 255;

/** @throws invalid-argument in the words of the peer's parser */
export function imageName(reference: string | Reference): ImageName {
  const parsed = typeof reference === "string" ? parseReference(reference) : reference;
  const text = typeof reference === "string" ? reference : `${parsed.locator}${parsed.object}`;
  const repository = referencePath(parsed);
  if (repository === "" || repository.length > MAX_REPOSITORY) {
    throw classified("invalid-argument", `reference ${JSON.stringify(text)}: no repository in it: invalid reference`);
  }
  const digest = referenceDigest(parsed);
  // The peer also refuses an invalid one: nothing can be resolved by it.
  if (digest !== "") parseDigest(digest);
  return { text, namespace: referenceHost(parsed), repository, tag: referenceTag(parsed), digest };
}

/** A path below the API's root: `/library/busybox/manifests/latest`. */
export function apiPath(name: Pick<ImageName, "repository">, ...rest: readonly string[]): string {
  const parts = [...name.repository.split("/"), ...rest];
  return `/${parts.map((part) => encodeURIComponent(part).replaceAll("%3A", ":")).join("/")}`;
}

/** The namespace a proxy is told of, since its own name does not say whose image is asked for: the peer's `ns`. */
export function namespaceQuery(host: RegistryHost, namespace: string): readonly (readonly [string, string])[] {
  const same = host.host === namespace || (namespace === "docker.io" && host.host === "registry-1.docker.io");
  return same ? [] : [["ns", namespace]];
}

/** What a token must allow. */
export function scopeOf(repository: string, ...actions: readonly string[]): string {
  return `repository:${repository}:${actions.join(",")}`;
}

/** What manifests may be: the peer's list. Some registries hide those whose type is not named. */
export const MANIFEST_ACCEPT = [
  MediaType.dockerManifest,
  MediaType.dockerManifestList,
  MediaType.ociManifest,
  MediaType.ociIndex,
  "*/*",
].join(", ");

/** The Accept header for an object: its own type first, when that is known. */
export function acceptFor(kind: "manifests" | "blobs", mediaType: string): string {
  const any = kind === "manifests" ? MANIFEST_ACCEPT : "*/*";
  return mediaType === "" ? any : `${mediaType}, ${any}`;
}
