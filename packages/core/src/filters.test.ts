import { describe, expect, test } from "bun:test";
import { ClassifiedError } from "@stevedore/base";
import * as fc from "fast-check";
import { labelAt, matcher, parseFilters } from "./filters.ts";
import { compileRegExp } from "./filters-regexp.ts";
import { goQuote } from "./go-quote.ts";
import type { Labels } from "./labels.ts";

interface Thing {
  readonly name: string;
  readonly labels: Labels;
}

const fieldOf = (thing: Thing, path: readonly string[]): string | undefined => {
  if (path[0] === "name") return thing.name === "" ? undefined : thing.name;
  return path[0] === "labels" ? labelAt(thing.labels, path) : undefined;
};

const CORPUS: readonly Thing[] = [
  { name: "foo", labels: { foo: "true" } },
  { name: "bar", labels: {} },
  { name: "foo", labels: { foo: "present", "more complex label with \\ and \0": "present" } },
  { name: "bar", labels: { bar: "true" } },
  { name: "fooer", labels: { "more complex label with \\ and .": "present", foo: "quux" } },
  { name: "baz", labels: { foo: "omg_asdf.asdf-qwer" } },
  { name: "baz", labels: { "a.b": "x,y" } },
];

function matches(...filters: string[]): number[] {
  const match = matcher(filters, fieldOf);
  return CORPUS.flatMap((thing, index) => (match(thing) ? [index] : []));
}

function failure(filter: string): string {
  try {
    parseFilters([filter]);
  } catch (error) {
    if (error instanceof ClassifiedError && error.errorClass === "invalid-argument") return error.message;
    throw error;
  }
  throw new Error(`no error for ${filter}`);
}

describe("parseFilters()", () => {
  test.each([
    ["", [0, 1, 2, 3, 4, 5, 6]],
    ["name", [0, 1, 2, 3, 4, 5, 6]],
    ["name==foo", [0, 2]],
    ["name!=foo", [1, 3, 4, 5, 6]],
    ["name==foo,labels.foo", [0, 2]],
    ["labels.foo==true", [0]],
    ['labels."foo"==true', [0]],
    ['labels."more complex label with \\\\ and ."', [4]],
    ['labels."more complex label with \\\\ and ."==present', [4]],
    ["labels.foo==omg_asdf.asdf-qwer", [5]],
    ["name~=bar", [1, 3]],
    ["name~=/^ba/", [1, 3, 5, 6]],
    ["name~=|^foo$|,labels.foo~=pres", [2]],
    ["name~=\\(", []],
    ["labels.a.b", [6]],
    ['labels."a.b"=="x,y"', [6]],
    ["nofield==x", []],
    ["nofield!=x", [0, 1, 2, 3, 4, 5, 6]],
    ["labels.constructor", []],
    ["labels.__proto__", []],
    ['name=="\\u0066oo"', [0, 2]],
    ['name=="\\146\\157\\x6f"', [0, 2]],
  ])("matches what containerd matches: %s", (filter, expected) => {
    expect(matches(filter)).toEqual(expected);
  });

  test("is a union of its filters", () => {
    expect(matches("name==baz", "labels.bar")).toEqual([3, 5, 6]);
  });

  test.each([
    ["name==", "filters: parse error: [name==]: expected value or quoted: invalid argument"],
    ["name=foo", 'filters: parse error: [name >|=|< foo]: unsupported operator "=": invalid argument'],
    ["name=:foo", 'filters: parse error: [name >|=|< :foo]: unsupported operator "=": invalid argument'],
    ["name == foo", undefined],
    ["name==foo bar", "filters: parse error: [name==foo >| |< bar]: unexpected input:  : invalid argument"],
    ["name==/foo/", "filters: parse error: [name== >|/|< foo/]: invalid quote encountered: invalid argument"],
    ['name=="foo', 'filters: parse error: [name== >|"|< foo]: quoted literal not terminated: invalid argument'],
    ['name=="\\q"', 'filters: parse error: [name== >|"|< \\q"]: illegal escape sequence: invalid argument'],
    ["labels.==x", "filters: parse error: [labels. >|=|< =x]: expected field or quoted: invalid argument"],
    ["%", "filters: parse error: [ >|%|< ]: expected field or quoted: invalid argument"],
    ["name,", "filters: parse error: [name,]: expected field or quoted: invalid argument"],
    ["name,,labels", "filters: parse error: [name, >|,|< labels]: expected field or quoted: invalid argument"],
    ["name:foo", 'filters: parse error: [name >|:|< foo]: expected an operator ("=="|"!="|"~="): invalid argument'],
  ])("answers a bad filter in containerd's words: %s", (filter, expected) => {
    if (expected === undefined) expect(matches(filter)).toEqual([0, 2]);
    else expect(failure(filter)).toBe(expected);
  });

  test("quoted values come back as they were, and parsing any text ends with a filter or invalid-argument", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (value) => {
        fc.pre(!value.includes("\ufffd"));
        const match = matcher([`name==${goQuote(value)}`], fieldOf);
        expect(match({ name: value, labels: {} })).toBe(value !== "");
        expect(match({ name: `${value}x`, labels: {} })).toBe(false);
      }),
    );
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(...Array.from('ab.,=!~"/|\\ x7{}()[]*+é\0\n')), maxLength: 40 }),
        (text) => {
          try {
            matcher([text], fieldOf)({ name: "ab", labels: { a: "b" } });
          } catch (error) {
            expect(error).toBeInstanceOf(ClassifiedError);
          }
        },
      ),
    );
  });
});

describe("compileRegExp()", () => {
  test.each([
    ["^a+$", "aaa", true],
    ["^a{2,3}$", "aaaa", false],
    ["^a{2,}$", "aaaa", true],
    ["a{,2}", "a{,2}", true],
    ["^(?:ab|cd)*$", "abcdab", true],
    ["(?i)HeLLo", "hEllO", true],
    ["(?i:h)ello", "Hello", true],
    ["(?i:h)ello", "HELLO", false],
    ["^[^a-c]$", "d", true],
    ["^[[:alpha:]_]+$", "ab_c", true],
    ["^[\\d-]+$", "1-2", true],
    ["\\bfoo\\b", "a foo b", true],
    ["\\bfoo\\b", "afoo", false],
    ["^\\pL+$", "äöü", true],
    ["^\\p{Greek}+$", "αβγ", true],
    ["\\Qa.b\\E+", "a.bbb", true],
    ["\\Qa.b\\E", "axb", false],
    [".", "\n", false],
    ["(?s).", "\n", true],
    ["(?m)^b$", "a\nb\nc", true],
    ["(?P<name>x)y", "xy", true],
    ["^\\x{1F600}$", "😀", true],
    ["", "anything", true],
    ["(a*)*$", "b", true],
  ])("%s on %j is %p", (pattern, text, expected) => {
    expect(compileRegExp(pattern).test(text)).toBe(expected);
  });

  test.each([
    "(",
    ")",
    "[a",
    "a**",
    "*a",
    "(?=a)",
    "\\1",
    "\\8",
    "a{1001}",
    "[z-a]",
    "(?P<n",
    "\\p{Nope}",
    "((a{1000}){1000})",
  ])("refuses %s", (pattern) => {
    expect(() => compileRegExp(pattern)).toThrow();
  });

  test("takes linear time where a backtracking engine does not", () => {
    const start = performance.now();
    expect(compileRegExp("^(a+)+$").test(`${"a".repeat(4000)}b`)).toBe(false);
    expect(performance.now() - start).toBeLessThan(500);
  });

  test("agrees with the platform's engine on the syntax both have", () => {
    const atom = fc.constantFrom("a", "b", ".", "[ab]", "[^a]", "(a|b)", "(?:ab)", "^", "$", "\\w", "\\b");
    const repeat = fc.constantFrom("", "", "*", "+", "?", "{1,2}", "*?");
    const pattern = fc
      .array(fc.tuple(atom, repeat), { maxLength: 6 })
      .map((parts) => parts.map(([a, r]) => (a === "^" || a === "$" || a === "\\b" ? a : a + r)).join(""));
    fc.assert(
      fc.property(pattern, fc.string({ unit: fc.constantFrom("a", "b", " "), maxLength: 8 }), (source, text) => {
        expect(compileRegExp(source).test(text)).toBe(new RegExp(source).test(text));
      }),
      { numRuns: 2000 },
    );
  });
});
