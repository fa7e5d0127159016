import { type ClassifiedError, classified } from "@stevedore/base";

/**
 * A reference as containerd reads it: anything with a host in front. Docker's short names are another matter, see
 * `docker-reference.ts`.
 */
export interface Reference {
  /** Host and path: `docker.io/library/busybox`. */
  readonly locator: string;
  /** What stands behind `:` or from `@` on: `1.36`, `1.36@sha256:…`, `@sha256:…`, or "". */
  readonly object: string;
}

/** Longest reference that is looked at, in characters: far beyond any registry's limits. */
const MAX_LENGTH = 4096;

/**
 * Parses `host/path[:object][@digest]`.
 *
 * @throws invalid-argument: "invalid reference", "hostname required", or what is wrong with the host in the words of
 * Go's URL parser, since clients show them.
 */
export function parseReference(text: string): Reference {
  if (text.includes("://") || text.length > MAX_LENGTH) throw classified("invalid-argument", "invalid reference");
  const quoted = JSON.stringify(`dummy://${text}`);
  if (hasControlCharacter(text)) throw wrongUrl(quoted, "net/url: invalid control character in URL");
  const [url = ""] = (text.split("#", 1)[0] ?? "").split("?", 1);
  const slash = url.indexOf("/");
  const authority = slash < 0 ? url : url.slice(0, slash);
  const rawPath = slash < 0 ? "" : url.slice(slash);
  const host = parseHost(authority.slice(authority.lastIndexOf("@") + 1), quoted);
  const path = unescapePath(rawPath, quoted);
  if (host === "") throw classified("invalid-argument", "hostname required");
  // The peer takes these; as a folder of registry settings they would lead elsewhere.
  if (host === "." || host === "..") throw classified("invalid-argument", "invalid reference");
  const cut = path.search(/[:@]/);
  const name = cut < 0 ? path : path.slice(0, cut);
  const object = cut < 0 ? "" : path.slice(path[cut] === ":" ? cut + 1 : cut);
  const segments = name.split("/");
  if (segments.includes("..")) throw classified("invalid-argument", "invalid reference");
  const locator = [host, ...segments.filter((segment) => segment !== "" && segment !== ".")].join("/");
  return { locator, object };
}

function hasControlCharacter(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) return true;
  }
  return false;
}

function parseHost(host: string, quoted: string): string {
  const wrong = /[\s"<>\\^`{|}]/.exec(host);
  if (wrong !== null) throw wrongUrl(quoted, `invalid character ${JSON.stringify(wrong[0])} in host name`);
  const escape = /%(?!25)(?:[0-9a-fA-F]{2}|.{0,2})/.exec(host);
  if (escape !== null) throw wrongUrl(quoted, `invalid URL escape ${JSON.stringify(escape[0])}`);
  if (host.startsWith("[")) {
    const end = host.lastIndexOf("]");
    if (end < 0) throw wrongUrl(quoted, "missing ']' in host");
    checkPort(host.slice(end + 1), quoted);
    return host;
  }
  const colon = host.indexOf(":");
  if (colon >= 0) checkPort(host.slice(host.lastIndexOf(":")), quoted);
  return host;
}

function checkPort(port: string, quoted: string): void {
  if (!/^(?::\d*)?$/.test(port)) throw wrongUrl(quoted, `invalid port ${JSON.stringify(port)} after host`);
}

function unescapePath(path: string, quoted: string): string {
  const wrong = /%(?![0-9a-fA-F]{2}).{0,2}/.exec(path);
  if (wrong !== null) throw wrongUrl(quoted, `invalid URL escape ${JSON.stringify(wrong[0])}`);
  if (!path.includes("%")) return path;
  return Buffer.from(
    path.replace(/(?:%[0-9a-fA-F]{2})+/g, (run) => Buffer.from(run.replaceAll("%", ""), "hex").toString("utf8")),
  ).toString("utf8");
}

function wrongUrl(quoted: string, what: string): ClassifiedError {
  return classified("invalid-argument", `parse ${quoted}: ${what}`);
}

/** The host part of a locator. */
export function referenceHost(reference: Reference): string {
  const slash = reference.locator.indexOf("/");
  return slash < 0 ? reference.locator : reference.locator.slice(0, slash);
}

/** The path part of a locator: the repository. "" when there is none. */
export function referencePath(reference: Reference): string {
  const slash = reference.locator.indexOf("/");
  return slash < 0 ? "" : reference.locator.slice(slash + 1);
}

/** What stands behind `@`: a digest, a part of one, or "". Not checked. */
export function referenceDigest(reference: Reference): string {
  const at = reference.object.indexOf("@");
  return at < 0 ? "" : reference.object.slice(at + 1);
}

/** What stands before `@`: the tag, or "". */
export function referenceTag(reference: Reference): string {
  const at = reference.object.indexOf("@");
  return at < 0 ? reference.object : reference.object.slice(0, at);
}

/** The reference as text again. */
export function formatReference(reference: Reference): string {
  if (reference.object === "") return reference.locator;
  return reference.object.startsWith("@")
    ? `${reference.locator}${reference.object}`
    : `${reference.locator}:${reference.object}`;
}
