import { expect, test } from "bun:test";
import { ClassifiedError } from "@stevedore/base";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { stringify } from "smol-toml";
import { pluginDefaults, topLevelDefaults } from "./defaults.ts";
import { parseToml } from "./load.ts";

const CONFIG = stringify({ ...topLevelDefaults(), plugins: pluginDefaults() });

test(
  "A12 a damaged configuration is read or refused with file, line and column",
  () => {
    const change = fc.record({
      at: fc.nat(CONFIG.length - 1),
      cut: fc.nat(5),
      put: fc.string({ unit: fc.constantFrom(...Array.from("[]{}\"'=.,#\\abtfnu019_- \n\0\u201c")), maxLength: 5 }),
    });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(CONFIG.length), (changes, length) => {
        let text = CONFIG.slice(0, length);
        for (const { at, cut, put } of changes) text = text.slice(0, at) + put + text.slice(at + cut);
        try {
          expect(typeof parseToml(text, "c.toml")).toBe("object");
        } catch (error) {
          expect(error).toBeInstanceOf(ClassifiedError);
          expect(String(error)).toMatch(/load config c\.toml: line \d+, column \d+: /);
        }
      }),
      fuzzing(),
    );
  },
  fuzzLimitMs(),
);
