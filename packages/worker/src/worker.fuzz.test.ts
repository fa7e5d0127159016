import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import { copyTree } from "@stevedore/os/copy-tree";
import { mountRaw, unmount, withTempMount } from "@stevedore/os/mount";
import { removeTree } from "@stevedore/os/path";
import { carryOut } from "@stevedore/os/test-steps";
import { describeTree } from "@stevedore/os/test-tree";
import * as fc from "fast-check";
import { diff, steps, unpack } from "./test-support.ts";

const base = mkdtempSync(`${tmpdir()}/worker-fuzz-`);
mountRaw("tmpfs", base, { type: "tmpfs" });
afterAll(() => {
  process.chdir("/");
  unmount(base);
  rmSync(base, { recursive: true });
});

test(
  "apply(compare(x)) = x on plain folders and on overlayfs, which agree",
  async () => {
    let made = 0;
    await fc.assert(
      fc.asyncProperty(steps, steps, async (before, changes) => {
        const folders = Array.from({ length: 4 }, () => {
          const path = `${base}/${++made}`;
          mkdirSync(path);
          return path;
        });
        const [lower = "", upper = "", plain = "", over = ""] = folders;
        try {
          carryOut(lower, before);
          copyTree(lower, upper);
          carryOut(upper, changes);
          copyTree(lower, plain);
          const layer = diff(lower, upper);
          unpack(layer, plain);
          unpack(layer, over, { overlay: true, lowers: [lower] });
          expect(describeTree(plain)).toEqual(describeTree(upper));
          const options = [`lowerdir=${over}:${lower}`, "index=off"];
          const merged = await withTempMount([{ type: "overlay", source: "overlay", options }], (dir) =>
            describeTree(dir),
          );
          const single = (lines: readonly string[]): string[] => lines.filter((line) => !line.startsWith("linked:"));
          expect(single(merged)).toEqual(single(describeTree(upper)));
        } finally {
          for (const path of folders) removeTree(path);
        }
      }),
      fuzzing(),
    );
  },
  fuzzLimitMs(),
);
