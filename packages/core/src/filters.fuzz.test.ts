import { expect, test } from "bun:test";
import { ClassifiedError } from "@stevedore/base";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { parseFilters } from "./filters.ts";
import { compileRegExp } from "./filters-regexp.ts";

/** A pattern may be hostile: a match of these lengths must end long before this. */
const MATCH_LIMIT_MS = 2_000;

const SELECTOR = fc.oneof(
  fc.constantFrom("name==a", 'labels."a.b"~=/^x.*$/', "labels.c", 'name!="q\\"uoted"', "id~=|a+|", "a==b,c!=d"),
  fc.stringMatching(/^[a-z."'=~!,/\\|\u00e9 ]{0,20}$/),
);

test(
  "N14 a filter is parsed or refused with a class, and a parsed one answers for any object",
  () => {
    const fields = fc.dictionary(fc.string({ maxLength: 5 }), fc.string({ maxLength: 20 }));
    fc.assert(
      fc.property(fc.array(SELECTOR, { maxLength: 4 }), fields, (texts, object) => {
        const began = performance.now();
        try {
          const filter = parseFilters([texts.join(","), ...texts]);
          expect(typeof filter(object, (value, path) => value[path.join(".")])).toBe("boolean");
        } catch (error) {
          expect(error).toBeInstanceOf(ClassifiedError);
        }
        expect(performance.now() - began).toBeLessThan(MATCH_LIMIT_MS);
      }),
      fuzzing(2),
    );
  },
  fuzzLimitMs(),
);

/** Patterns whose meaning is the same in Go's syntax and in JavaScript's. */
const { pattern: PATTERN } = fc.letrec<{ pattern: string; atom: string }>((tie) => ({
  pattern: fc.array(tie("atom"), { minLength: 1, maxLength: 4 }).map((atoms) => atoms.join("")),
  atom: fc.oneof(
    { depthSize: "small" },
    fc.constantFrom("a", "b", ".", "[ab]", "[^a]", "a*", "b+", "a?", "b{1,3}", "^", "$", "\\d", "(?:ab|a)*", "a*?"),
    fc.tuple(tie("pattern"), tie("pattern")).map(([left, right]) => `(?:${left}|${right})`),
    tie("pattern").map((inner) => `(${inner})`),
  ),
}));

test(
  "N14 a pattern matches what the engine's own expressions match, in bounded time",
  () => {
    fc.assert(
      fc.property(PATTERN, fc.stringMatching(/^[ab1]{0,12}$/), (pattern, text) => {
        const ours = compileRegExp(pattern);
        expect(ours.test(text)).toBe(new RegExp(pattern).test(text));
        // Of this thread's processor time: by the clock a busy machine may take seconds for nothing.
        const began = process.threadCpuUsage();
        ours.test("a".repeat(2_000));
        const { user, system } = process.threadCpuUsage(began);
        expect((user + system) / 1_000).toBeLessThan(MATCH_LIMIT_MS);
      }),
      fuzzing(2),
    );
  },
  fuzzLimitMs(),
);
