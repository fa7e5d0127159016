/** Requests of the distribution API, told apart by their path. */
import { isDigest } from "@stevedore/oci/digest";

/** What a path names. `name` is the repository as the client wrote it. */
export type Route =
  | { readonly kind: "base" }
  | { readonly kind: "catalog" }
  | { readonly kind: "tags"; readonly name: string }
  | { readonly kind: "manifest"; readonly name: string; readonly reference: ManifestReference }
  | { readonly kind: "blob"; readonly name: string; readonly digest: string }
  | { readonly kind: "referrers"; readonly name: string; readonly digest: string }
  | { readonly kind: "uploads"; readonly name: string }
  | { readonly kind: "upload"; readonly name: string; readonly id: string };

export type ManifestReference = { readonly tag: string } | { readonly digest: string };

/** A path that names nothing, by the code the protocol has for it; `unknown` is no path of the API at all. */
export type Misrouted = { readonly kind: "misrouted"; readonly code: "NAME_INVALID" | "DIGEST_INVALID" | "unknown" };

const PREFIX = "/v2/";
/** The protocol's own grammar, with a registry's host (and port) allowed as the first part: images here are named with theirs. */
const NAME =
  /^(?:[a-zA-Z0-9.-]+(?::\d+)?\/)?[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const MAX_NAME_LENGTH = 255;
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;
const UPLOAD_ID = /^[a-z0-9-]{1,64}$/;

/** @param pathname a URL's path, still percent-encoded */
export function routeOf(pathname: string): Route | Misrouted {
  if (pathname === "/v2" || pathname === PREFIX) return { kind: "base" };
  if (!pathname.startsWith(PREFIX)) return { kind: "misrouted", code: "unknown" };
  const path = decoded(pathname.slice(PREFIX.length));
  if (path === "_catalog") return { kind: "catalog" };
  const parts = path.split("/");
  const last = parts.at(-1) ?? "";
  const named = (count: number, make: (name: string) => Route | Misrouted): Route | Misrouted => {
    const name = parts.slice(0, -count).join("/");
    if (name.length > MAX_NAME_LENGTH || !NAME.test(name)) return { kind: "misrouted", code: "NAME_INVALID" };
    return make(name);
  };
  const digested = (kind: "blob" | "referrers"): Route | Misrouted =>
    named(2, (name) => (isDigest(last) ? { kind, name, digest: last } : { kind: "misrouted", code: "DIGEST_INVALID" }));
  if (parts.at(-2) === "tags" && last === "list") return named(2, (name) => ({ kind: "tags", name }));
  if (parts.at(-2) === "manifests") {
    return named(2, (name) => {
      if (isDigest(last)) return { kind: "manifest", name, reference: { digest: last } };
      if (TAG.test(last)) return { kind: "manifest", name, reference: { tag: last } };
      return { kind: "misrouted", code: last.includes(":") ? "DIGEST_INVALID" : "unknown" };
    });
  }
  if (parts.at(-2) === "uploads" && parts.at(-3) === "blobs") {
    if (last === "") return named(3, (name) => ({ kind: "uploads", name }));
    if (UPLOAD_ID.test(last)) return named(3, (name) => ({ kind: "upload", name, id: last }));
  }
  if (parts.at(-1) === "uploads" && parts.at(-2) === "blobs") return named(2, (name) => ({ kind: "uploads", name }));
  if (parts.at(-2) === "blobs") return digested("blob");
  if (parts.at(-2) === "referrers") return digested("referrers");
  return { kind: "misrouted", code: "unknown" };
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}
