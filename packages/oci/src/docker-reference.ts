import { type ClassifiedError, classified } from "@stevedore/base";
import { isDigest } from "./digest.ts";

/** An image name as Docker, nerdctl and CRI users write it, made complete. */
export interface DockerReference {
  /** Host with optional port: `docker.io`. */
  readonly domain: string;
  /** Repository below it: `library/busybox`. */
  readonly path: string;
  readonly tag?: string;
  readonly digest?: string;
}

const DEFAULT_DOMAIN = "docker.io";
const LEGACY_DOMAIN = "index.docker.io";
const OFFICIAL_PREFIX = "library/";
const DEFAULT_TAG = "latest";

/** Longest repository name, domain included; the registry protocol's limit. */
const MAX_NAME_LENGTH = 255;

const HOST_PART = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const DOMAIN = `(?:${HOST_PART}(?:\\.${HOST_PART})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?`;
const PATH_PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
const PATH = `${PATH_PART}(?:/${PATH_PART})*`;
const TAG = "[\\w][\\w.-]{0,127}";
const DIGEST = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
const REFERENCE = new RegExp(`^(${DOMAIN})/(${PATH})(?::(${TAG}))?(?:@(${DIGEST}))?$`);
const IDENTIFIER = /^[a-f0-9]{64}$/;

/**
 * Reads a name with Docker's defaults: `busybox` is `docker.io/library/busybox`. No tag is added.
 *
 * @throws invalid-argument "invalid reference format" and the like.
 */
export function parseDockerReference(text: string): DockerReference {
  if (IDENTIFIER.test(text)) {
    throw invalid(`invalid repository name (${text}), cannot specify 64-byte hexadecimal strings`);
  }
  const { domain, remainder } = splitDomain(text);
  const colon = remainder.indexOf(":");
  const remote = colon < 0 ? remainder : remainder.slice(0, colon);
  if (remote.toLowerCase() !== remote) {
    throw invalid(`invalid reference format: repository name (${remote}) must be lowercase`);
  }
  const match = REFERENCE.exec(`${domain}/${remainder}`);
  const [, host, path, tag, digest] = match ?? [];
  if (host === undefined || path === undefined) throw invalid("invalid reference format");
  if (path.length + host.length + 1 > MAX_NAME_LENGTH) {
    throw invalid(`repository name must not be more than ${MAX_NAME_LENGTH} characters`);
  }
  if (digest !== undefined && !isDigest(digest)) throw invalid("invalid checksum digest format");
  return {
    domain: host,
    path,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  };
}

/** The name with tag and digest, as containerd stores images: `docker.io/library/busybox:1.36`. */
export function formatDockerReference(reference: DockerReference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  const digest = reference.digest === undefined ? "" : `@${reference.digest}`;
  return `${reference.domain}/${reference.path}${tag}${digest}`;
}

/**
 * The full name an image has in the store, as CRI and nerdctl make it: a digest wins over a tag, and neither means
 * `latest`.
 *
 * @throws invalid-argument
 */
export function normalizeImageName(text: string): string {
  const { domain, path, tag, digest } = parseDockerReference(text);
  if (digest !== undefined) return formatDockerReference({ domain, path, digest });
  return formatDockerReference({ domain, path, tag: tag ?? DEFAULT_TAG });
}

/** The short form people read: `busybox:1.36` for `docker.io/library/busybox:1.36`. */
export function familiarName(reference: DockerReference): string {
  const full = formatDockerReference(reference);
  if (reference.domain !== DEFAULT_DOMAIN) return full;
  const withoutDomain = full.slice(DEFAULT_DOMAIN.length + 1);
  const official =
    reference.path.startsWith(OFFICIAL_PREFIX) && !reference.path.slice(OFFICIAL_PREFIX.length).includes("/");
  return official ? withoutDomain.slice(OFFICIAL_PREFIX.length) : withoutDomain;
}

function splitDomain(text: string): { readonly domain: string; readonly remainder: string } {
  const slash = text.indexOf("/");
  if (slash < 0) return { domain: DEFAULT_DOMAIN, remainder: `${OFFICIAL_PREFIX}${text}` };
  const first = text.slice(0, slash);
  const isDomain = first === "localhost" || /[.:]/.test(first) || first.toLowerCase() !== first;
  if (isDomain && first !== LEGACY_DOMAIN && first !== DEFAULT_DOMAIN) {
    return { domain: first, remainder: text.slice(slash + 1) };
  }
  const rest = isDomain ? text.slice(slash + 1) : text;
  return { domain: DEFAULT_DOMAIN, remainder: rest.includes("/") ? rest : `${OFFICIAL_PREFIX}${rest}` };
}

function invalid(message: string): ClassifiedError {
  return classified("invalid-argument", message);
}
