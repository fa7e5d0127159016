import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { familiarName, normalizeImageName, parseDockerReference } from "./docker-reference.ts";
import {
  formatReference,
  parseReference,
  referenceDigest,
  referenceHost,
  referencePath,
  referenceTag,
} from "./reference.ts";

const DIGEST = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

describe("parseReference()", () => {
  const read: readonly [text: string, locator: string, object: string, normal?: string][] = [
    ["docker.io/library/busybox:1.36", "docker.io/library/busybox", "1.36"],
    [`docker.io/library/busybox@${DIGEST}`, "docker.io/library/busybox", `@${DIGEST}`],
    [`gcr.io/a:v1@${DIGEST}`, "gcr.io/a", `v1@${DIGEST}`],
    ["localhost:5000/a/b:c", "localhost:5000/a/b", "c"],
    ["[::1]:5000/a:b", "[::1]:5000/a", "b"],
    ["docker.io", "docker.io", ""],
    ["busybox", "busybox", ""],
    ["docker.io/library/redis:foo?fooo=asdf", "docker.io/library/redis", "foo", "docker.io/library/redis:foo"],
    ["docker.io/library/redis:foo#frag", "docker.io/library/redis", "foo", "docker.io/library/redis:foo"],
    ["docker.io//a/./b/:t", "docker.io/a/b", "t", "docker.io/a/b:t"],
    ["docker.io/a%20b:t", "docker.io/a b", "t", "docker.io/a b:t"],
    ["sub.host/x:@short", "sub.host/x", "@short", "sub.host/x@short"],
  ];
  for (const [text, locator, object, normal] of read) {
    test(`reads ${text}`, () => {
      const reference = parseReference(text);
      expect(reference).toEqual({ locator, object });
      expect(formatReference(reference)).toBe(normal ?? text);
    });
  }

  const refused: readonly [text: string, message: string][] = [
    ["Not A Ref", 'parse "dummy://Not A Ref": invalid character " " in host name'],
    ["http://docker.io/a", "invalid reference"],
    ["", "hostname required"],
    ["/a:b", "hostname required"],
    ["docker.io/../evil.io/a:b", "invalid reference"],
    ["docker.io/%2e%2e/evil.io/a", "invalid reference"],
    ["busybox:latest", 'parse "dummy://busybox:latest": invalid port ":latest" after host'],
    ["a\nb/c", 'parse "dummy://a\\nb/c": net/url: invalid control character in URL'],
    ["docker.io/a%zz", 'parse "dummy://docker.io/a%zz": invalid URL escape "%zz"'],
    ["[::1/a", "missing ']' in host"],
  ];
  for (const [text, message] of refused) {
    test(`refuses ${JSON.stringify(text)}`, () => expect(() => parseReference(text)).toThrow(message));
  }

  test("takes a reference apart", () => {
    const reference = parseReference(`gcr.io/a/b:v1@${DIGEST}`);
    expect([referenceHost(reference), referencePath(reference)]).toEqual(["gcr.io", "a/b"]);
    expect([referenceTag(reference), referenceDigest(reference)]).toEqual(["v1", DIGEST]);
    expect(referenceDigest(parseReference("gcr.io/a:v1"))).toBe("");
  });

  test("whatever is read never climbs out of its host, and reads the same again", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.webUrl(), fc.string({ unit: fc.constantFrom("a", "b", ".", "/", ":", "@", "%2e") })),
        (text) => {
          let reference: ReturnType<typeof parseReference>;
          try {
            reference = parseReference(text);
          } catch (error) {
            expect(error).toMatchObject({ errorClass: "invalid-argument" });
            return;
          }
          expect(reference.locator.split("/")).not.toContain("..");
          expect(referenceHost(reference)).not.toBe("");
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe("Docker names", () => {
  const read: readonly [text: string, full: string, familiar: string][] = [
    ["busybox", "docker.io/library/busybox:latest", "busybox"],
    ["busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"],
    ["docker.io/busybox", "docker.io/library/busybox:latest", "busybox"],
    ["index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox"],
    ["me/app", "docker.io/me/app:latest", "me/app"],
    ["localhost/app", "localhost/app:latest", "localhost/app"],
    ["LOCAL/app:v1", "LOCAL/app:v1", "LOCAL/app:v1"],
    ["host:5000/app", "host:5000/app:latest", "host:5000/app"],
    ["[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app:latest", "[2001:db8::1]:5000/app"],
    [`busybox:1.36@${DIGEST}`, `docker.io/library/busybox@${DIGEST}`, `busybox:1.36@${DIGEST}`],
    ["docker.io/library/a/b:c", "docker.io/library/a/b:c", "library/a/b:c"],
    ["gcr.io/a/b_c/d--e.f:V.1-x", "gcr.io/a/b_c/d--e.f:V.1-x", "gcr.io/a/b_c/d--e.f:V.1-x"],
  ];
  for (const [text, full, familiar] of read) {
    test(`reads ${text}`, () => {
      expect(normalizeImageName(text)).toBe(full);
      expect(familiarName(parseDockerReference(text))).toBe(familiar);
    });
  }

  const refused: readonly [text: string, message: string][] = [
    ["", "invalid reference format"],
    ["Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"],
    [
      "a".repeat(64).replaceAll("a", "f"),
      `invalid repository name (${"f".repeat(64)}), cannot specify 64-byte hexadecimal strings`,
    ],
    ["a:", "invalid reference format"],
    ["a b", "invalid reference format"],
    ["a//b", "invalid reference format"],
    ["a/b/", "invalid reference format"],
    ["-a/b", "invalid reference format"],
    [`a:${"t".repeat(129)}`, "invalid reference format"],
    ["a@sha256:abc", "invalid reference format"],
    [`a/${"b".repeat(260)}`, "repository name must not be more than 255 characters"],
  ];
  for (const [text, message] of refused) {
    test(`refuses ${JSON.stringify(text)}`, () => expect(() => normalizeImageName(text)).toThrow(message));
  }

  test("a hostile name takes no exponential time", () => {
    const started = performance.now();
    expect(() => normalizeImageName(`${"a-".repeat(5000)}!`)).toThrow();
    expect(() => normalizeImageName(`${"a.".repeat(5000)}/${"a_".repeat(5000)}!`)).toThrow();
    expect(performance.now() - started).toBeLessThan(500);
  });
});
