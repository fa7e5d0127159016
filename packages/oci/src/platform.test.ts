import { describe, expect, test } from "bun:test";
import {
  anyOf,
  armVariant,
  defaultMatcher,
  formatPlatform,
  formatPlatformAll,
  normalizePlatform,
  only,
  onlyStrict,
  ordered,
  type Platform,
  parsePlatform,
} from "./platform.ts";

const HOST = { os: "linux", architecture: "amd64" };

describe("parsePlatform()", () => {
  const read: readonly [text: string, full: string][] = [
    ["linux", "linux/amd64"],
    ["macOS", "darwin/amd64"],
    ["arm64", "linux/arm64"],
    ["aarch64", "linux/arm64"],
    ["x86_64", "linux/amd64"],
    ["i386", "linux/386"],
    ["armhf", "linux/arm"],
    ["armel", "linux/arm/v6"],
    ["arm", "linux/arm"],
    ["linux/arm64/v8", "linux/arm64/v8"],
    ["linux/arm64", "linux/arm64"],
    ["linux/arm/v7", "linux/arm/v7"],
    ["linux/arm/6", "linux/arm/v6"],
    ["linux/amd64/v1", "linux/amd64"],
    ["linux/amd64/v3", "linux/amd64/v3"],
    ["freebsd/Amd64", "freebsd/amd64"],
    ["foo/bar", "foo/bar"],
    ["windows(10.0.17763)", "windows(10.0.17763)/amd64"],
    ["windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"],
    ["linux(+b+a)/arm64", "linux(+a+b)/arm64"],
    ["linux(a%2Bb)/arm64", "linux(a%2Bb)/arm64"],
  ];
  for (const [text, full] of read) {
    test(`reads ${text}`, () => expect(formatPlatformAll(parsePlatform(text, HOST))).toBe(full));
  }

  for (const text of ["", "*", "linux/*", "nonsense", "a/b/c/d", "linux/", "linux/amd64/", "li nux", "linux(/amd64"]) {
    test(`refuses ${JSON.stringify(text)}`, () => {
      expect(() => parsePlatform(text, HOST)).toThrow(/invalid argument$/);
    });
  }
});

test("formatPlatform() leaves out what is not there", () => {
  expect(formatPlatform({ os: "", architecture: "amd64" })).toBe("unknown");
  expect(formatPlatform({ os: "linux", architecture: "arm", variant: "v7" })).toBe("linux/arm/v7");
});

test("normalizePlatform() knows the usual spellings", () => {
  const normal = (architecture: string, variant = "") =>
    formatPlatform(normalizePlatform({ os: "", architecture, variant }, HOST));
  expect(normal("x86-64")).toBe("linux/amd64");
  expect(normal("arm64", "v8")).toBe("linux/arm64");
  expect(normal("arm")).toBe("linux/arm/v7");
  expect(normal("arm", "5")).toBe("linux/arm/v5");
  expect(normal("s390x")).toBe("linux/s390x");
});

describe("matchers", () => {
  const at = (text: string): Platform => parsePlatform(text, HOST);

  const matches: readonly [wanted: string, candidate: string, matches: boolean][] = [
    ["linux/amd64", "linux/amd64", true],
    ["linux/amd64", "linux/386", true],
    ["linux/amd64", "linux/amd64/v2", false],
    ["linux/amd64/v3", "linux/amd64/v2", true],
    ["linux/amd64/v3", "linux/amd64", true],
    ["linux/386", "linux/amd64", false],
    ["linux/arm/v7", "linux/arm/v6", true],
    ["linux/arm/v7", "linux/arm/v5", true],
    ["linux/arm/v6", "linux/arm/v7", false],
    ["linux/arm64", "linux/arm/v8", true],
    ["linux/arm64", "linux/arm/v7", true],
    ["linux/arm64", "linux/arm64/v8.1", false],
    ["linux/arm64/v8.2", "linux/arm64/v8.1", true],
    ["linux/arm64/v9", "linux/arm64/v8.5", true],
    ["linux/arm64/v9", "linux/arm64/v8.6", false],
    ["linux/arm64/v9.1", "linux/arm64/v8.6", true],
    ["linux/arm64/v9.2", "linux/arm64/v9", true],
    ["linux/amd64", "windows/amd64", false],
    ["windows(10.0.17763)/amd64", "windows(10.0.17763.1)/amd64", true],
    ["windows(10.0.17763)/amd64", "windows(10.0.20348)/amd64", false],
    ["linux(+a+b)/amd64", "linux(+b)/amd64", true],
    ["linux(+a)/amd64", "linux(+b)/amd64", false],
    ["linux/amd64", "linux(+b)/amd64", false],
  ];
  for (const [wanted, candidate, expected] of matches) {
    test(`only(${wanted}) ${expected ? "takes" : "leaves"} ${candidate}`, () => {
      expect(only(at(wanted)).match(at(candidate))).toBe(expected);
    });
  }

  test("better matches sort first, and equals keep their order", () => {
    const names = ["linux/s390x", "linux/386", "linux/amd64", "linux/amd64/v2"];
    const sort = (wanted: string) =>
      names
        .map(at)
        .toSorted((a, b) => only(at(wanted)).compare(a, b))
        .map((each) => formatPlatform(each));
    expect(sort("linux/amd64/v3")).toEqual(["linux/amd64/v2", "linux/amd64", "linux/386", "linux/s390x"]);
    expect(sort("linux/riscv64")).toEqual(names);
  });

  test("onlyStrict(), ordered(), anyOf() and the default", () => {
    expect(onlyStrict(at("linux/amd64")).match(at("linux/386"))).toBe(false);
    expect(onlyStrict(at("linux/arm64")).match(at("linux/arm64/v8"))).toBe(true);
    const either = anyOf([at("linux/amd64"), at("linux/arm64")]);
    expect(either.compare(at("linux/arm64"), at("linux/amd64"))).toBe(0);
    expect(either.compare(at("linux/arm64"), at("linux/386"))).toBeLessThan(0);
    expect(ordered([at("linux/amd64"), at("linux/arm64")]).compare(at("linux/arm64"), at("linux/amd64"))).toBe(1);
    expect(defaultMatcher(HOST).match(at("linux/amd64"))).toBe(true);
  });

  test("a hostile variant makes no endless list", () => {
    expect(only({ os: "linux", architecture: "amd64", variant: "v999999999999" }).match(at("linux/amd64"))).toBe(true);
  });
});

test("armVariant() reads cpuinfo, and the machine when that says nothing", () => {
  expect(armVariant("amd64", "CPU architecture: 8", "x86_64")).toBe("");
  expect(armVariant("arm64", "processor : 0\nCPU architecture: 8\n", "aarch64")).toBe("v8");
  expect(armVariant("arm", "CPU architecture: 7\n", "armv7l")).toBe("v7");
  expect(armVariant("arm", "model name: ARMv6-compatible processor\nCPU architecture: 7\n", "armv6l")).toBe("v6");
  expect(armVariant("arm", "CPU architecture: 5TEJ\n", "")).toBe("v5");
  expect(armVariant("arm", "", "armv7l")).toBe("v7");
  expect(armVariant("arm64", "", "aarch64")).toBe("v8");
});
