import { expect, test } from "bun:test";
import { errorClassOf } from "@stevedore/base";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { BLOCK, checksums } from "./header.ts";
import { TarParser } from "./parser.ts";
import { encodeTarHeader, TAR_END, tarPadding } from "./writer.ts";

const LIMITS = { maxHeaderBytes: 4096, maxEntries: 200 };

/** What a parse of `bytes` in pieces of `step` ends with, and what it announced. */
function outcome(bytes: Uint8Array, step: number): string {
  const seen: string[] = [];
  let sizes = 0;
  const parser = new TarParser(
    {
      entry: (header) => seen.push(`${header.type} ${header.name} ${header.linkName} ${header.size} ${header.mode}`),
      data: (piece, offset) => {
        // Equal however the run is cut: each byte counts with its place.
        for (let i = 0; i < piece.length; i++) sizes = (sizes + (piece[i] ?? 0) * (offset + i + 1)) % 1_000_003;
      },
      finish: () => seen.push(String(sizes)),
    },
    LIMITS,
  );
  try {
    for (let at = 0; at < bytes.length; at += step) parser.push(bytes.subarray(at, at + step));
    parser.end();
    return seen.join("\n");
  } catch (error) {
    const name = errorClassOf(error);
    if (name === "unknown") throw error;
    // How many bytes were seen before the end depends on nothing but the bytes.
    return [...seen, name].join("\n");
  }
}

function sample(): Buffer {
  const parts: Uint8Array[] = [];
  const add = (header: Uint8Array, size = 0): void => {
    parts.push(header, new Uint8Array(size).fill(7), tarPadding(size));
  };
  add(encodeTarHeader({ type: "directory", name: "d", mode: 0o755 }));
  add(encodeTarHeader({ type: "file", name: "a".repeat(120), size: 700, mtime: { seconds: 1, nanoseconds: 5 } }), 700);
  add(encodeTarHeader({ type: "symlink", name: "s", linkName: "t" }));
  add(encodeTarHeader({ type: "file", name: "x", size: 3, xattrs: new Map([["user.x", new Uint8Array([1, 0])]]) }), 3);
  const sparse = Buffer.from(encodeTarHeader({ type: "file", name: "sp", size: 512 }));
  sparse[156] = 0x53;
  sparse.write("ustar  \0", 257, "latin1");
  sparse.write("00000000000\x0000000001000\0", 386, "latin1");
  sparse.write("00000002000\0", 483, "latin1");
  add(sparse, 512);
  return Buffer.concat([...parts, TAR_END]);
}

test(
  "damaged archives end in a classified error, the same one however they are cut",
  () => {
    const base = sample();
    const damage = fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { maxLength: 12 });
    fc.assert(
      fc.property(
        damage,
        fc.integer({ min: 1, max: 3000 }),
        fc.boolean(),
        fc.uint8Array({ maxLength: 600 }),
        (changes, step, repair, tail) => {
          const bytes = Buffer.concat([base, tail]);
          for (const [at, value] of changes) bytes[at] = value;
          if (repair) {
            for (let at = 0; at + BLOCK <= bytes.length; at += BLOCK) {
              const part = bytes.subarray(at, at + BLOCK);
              if (part.toString("latin1", 257, 262) !== "ustar") continue;
              part.write(`${checksums(part).unsigned.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
            }
          }
          expect(outcome(bytes, step)).toBe(outcome(bytes, bytes.length));
        },
      ),
      fuzzing(),
    );
  },
  fuzzLimitMs(),
);
