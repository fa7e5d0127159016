import { describe, expect, test } from "bun:test";
import { RegistryError } from "./answers.ts";
import { mediaTypeOf, splitName } from "./lookup.ts";
import { pageOf } from "./page.ts";
import { type ByteRange, rangeOf } from "./range.ts";
import { type Misrouted, type Route, routeOf } from "./route.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;

describe("routeOf()", () => {
  const routes: [string, Route][] = [
    ["/v2", { kind: "base" }],
    ["/v2/", { kind: "base" }],
    ["/v2/_catalog", { kind: "catalog" }],
    ["/v2/a/tags/list", { kind: "tags", name: "a" }],
    ["/v2/tags/list/tags/list", { kind: "tags", name: "tags/list" }],
    ["/v2/a/b/c/manifests/v1", { kind: "manifest", name: "a/b/c", reference: { tag: "v1" } }],
    [`/v2/a/manifests/${DIGEST}`, { kind: "manifest", name: "a", reference: { digest: DIGEST } }],
    [`/v2/a/manifests/${DIGEST.replace(":", "%3A")}`, { kind: "manifest", name: "a", reference: { digest: DIGEST } }],
    [`/v2/docker.io/library/a/blobs/${DIGEST}`, { kind: "blob", name: "docker.io/library/a", digest: DIGEST }],
    [`/v2/host:5000/a/blobs/${DIGEST}`, { kind: "blob", name: "host:5000/a", digest: DIGEST }],
    [`/v2/manifests/manifests/blobs/${DIGEST}`, { kind: "blob", name: "manifests/manifests", digest: DIGEST }],
    [`/v2/a/referrers/${DIGEST}`, { kind: "referrers", name: "a", digest: DIGEST }],
    ["/v2/a/blobs/uploads/", { kind: "uploads", name: "a" }],
    ["/v2/a/blobs/uploads", { kind: "uploads", name: "a" }],
    ["/v2/a/blobs/uploads/11-22", { kind: "upload", name: "a", id: "11-22" }],
  ];
  test.each(routes)("%s", (path, route) => {
    expect(routeOf(path)).toEqual(route);
  });

  const misrouted: [string, Misrouted["code"]][] = [
    ["/", "unknown"],
    ["/v1/search", "unknown"],
    ["/v2/a", "unknown"],
    ["/v2/a/manifests/", "unknown"],
    [`/v2/a/manifests/${"t".repeat(129)}`, "unknown"],
    ["/v2/a/manifests/sha256:abc", "DIGEST_INVALID"],
    ["/v2/a/blobs/latest", "DIGEST_INVALID"],
    ["/v2/a/blobs/uploads/..%2f..%2fx", "unknown"],
    ["/v2/A/manifests/v1", "NAME_INVALID"],
    ["/v2/a/../b/manifests/v1", "NAME_INVALID"],
    ["/v2//a/manifests/v1", "NAME_INVALID"],
    ["/v2/manifests/v1", "NAME_INVALID"],
    [`/v2/${"a/".repeat(128)}a/manifests/v1`, "NAME_INVALID"],
    ["/v2/%ff/manifests/v1", "NAME_INVALID"],
  ];
  test.each(misrouted)("%s is refused", (path, code) => {
    expect(routeOf(path)).toEqual({ kind: "misrouted", code });
  });
});

describe("rangeOf()", () => {
  const ranges: [string | null, ByteRange | "unsatisfiable" | undefined][] = [
    [null, undefined],
    ["bytes=0-9", { start: 0, length: 10 }],
    ["bytes=5-", { start: 5, length: 95 }],
    ["bytes=90-1000", { start: 90, length: 10 }],
    ["bytes=-10", { start: 90, length: 10 }],
    ["bytes=-1000", { start: 0, length: 100 }],
    ["bytes=100-", "unsatisfiable"],
    ["bytes=-0", "unsatisfiable"],
    ["bytes=9-5", undefined],
    ["bytes=0-1,5-6", undefined],
    ["items=0-1", undefined],
    ["bytes=-", undefined],
  ];
  test.each(ranges)("%p of 100 bytes", (header, range) => {
    expect(rangeOf(header, 100)).toEqual(range);
  });

  test("nothing of an empty blob can be asked for", () => {
    expect(rangeOf("bytes=0-", 0)).toBe("unsatisfiable");
  });
});

describe("pageOf()", () => {
  const at = (query: string): ReturnType<typeof pageOf> =>
    pageOf(["a", "b", "c"], new URL(`http://x/v2/_catalog${query}`));

  test("pages follow one another", () => {
    expect(at("")).toEqual({ items: ["a", "b", "c"], headers: {} });
    expect(at("?n=2")).toEqual({ items: ["a", "b"], headers: { link: '</v2/_catalog?last=b&n=2>; rel="next"' } });
    expect(at("?n=2&last=b")).toEqual({ items: ["c"], headers: {} });
    expect(at("?n=0")).toEqual({ items: [], headers: {} });
    expect(at("?last=zz")).toEqual({ items: [], headers: {} });
  });

  test("another number is refused", () => {
    expect(() => at("?n=-1")).toThrow(RegistryError);
    expect(() => at("?n=x")).toThrow("found n=x, want a number");
  });
});

describe("splitName()", () => {
  test.each([
    ["docker.io/library/a:1", { repository: "docker.io/library/a", tag: "1" }],
    ["h:5000/a:1", { repository: "h:5000/a", tag: "1" }],
    ["h:5000/a", { repository: "h:5000/a", tag: "" }],
    [`h:5000/a:1@${DIGEST}`, { repository: "h:5000/a", tag: "" }],
    [`h/a@${DIGEST}`, { repository: "h/a", tag: "" }],
    [DIGEST, undefined],
  ])("%s", (name, split) => {
    expect(splitName(name)).toEqual(split);
  });
});

describe("mediaTypeOf()", () => {
  const of = (value: unknown): string | undefined => mediaTypeOf(Buffer.from(JSON.stringify(value)));

  test("a document is what it says, or what it has", () => {
    const manifest = "application/vnd.docker.distribution.manifest.v2+json";
    expect(of({ mediaType: manifest })).toBe(manifest);
    expect(of({ manifests: [] })).toBe("application/vnd.oci.image.index.v1+json");
    expect(of({ config: {}, layers: [] })).toBe("application/vnd.oci.image.manifest.v1+json");
  });

  test("other blobs are no documents", () => {
    expect(of({ architecture: "amd64", rootfs: {} })).toBeUndefined();
    expect(of({ mediaType: "text/html", manifests: [] })).toBeUndefined();
    expect(of([])).toBeUndefined();
    expect(mediaTypeOf(Buffer.from("\u001f\u008b"))).toBeUndefined();
  });
});
