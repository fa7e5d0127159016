import { describe, expect, test } from "bun:test";
import { errorClassOf } from "@stevedore/base";
import * as fc from "fast-check";
import { BLOCK, checksums, type TarHeader } from "./header.ts";
import { decodeName, encodeName, nameBytes } from "./names.ts";
import { TarParser } from "./parser.ts";
import { readTar } from "./read.ts";
import { parseWhiteout } from "./whiteout.ts";
import { encodeTarHeader, TAR_END, type TarEntryInit, tarPadding } from "./writer.ts";

interface Parsed {
  readonly header: TarHeader;
  readonly bytes: Buffer;
}

/** Parses in pieces of `step` bytes. */
function parse(archive: Uint8Array, step = archive.length, limits = {}): Parsed[] {
  const found: { header: TarHeader; bytes: Buffer }[] = [];
  const parser = new TarParser(
    {
      entry: (header) => found.push({ header, bytes: Buffer.alloc(header.size) }),
      data: (bytes, offset) => found.at(-1)?.bytes.set(bytes, offset),
      finish: () => undefined,
    },
    limits,
  );
  for (let at = 0; at < archive.length; at += step) parser.push(archive.subarray(at, at + step));
  parser.end();
  return found;
}

function archiveOf(...entries: readonly (readonly [TarEntryInit, Uint8Array?])[]): Buffer {
  const parts: Uint8Array[] = [];
  for (const [entry, bytes = new Uint8Array()] of entries) {
    parts.push(encodeTarHeader({ ...entry, size: bytes.length }), bytes, tarPadding(bytes.length));
  }
  return Buffer.concat([...parts, TAR_END]);
}

/** A header block by hand, for what the writer never writes. */
function block(fields: { readonly [offset: number]: string | Uint8Array }): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  for (const [offset, value] of Object.entries(fields)) {
    bytes.set(typeof value === "string" ? Buffer.from(value, "latin1") : value, Number(offset));
  }
  bytes.write(`${checksums(bytes).unsigned.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return bytes;
}

const NUMBERS = { 100: "0000644\0", 108: "0000000\0", 116: "0000000\0", 136: "00000000000\0" };

function pax(records: readonly string[]): Buffer {
  const payload = Buffer.from(
    records
      .map((record) => {
        let length = record.length + 3;
        while (`${length} ${record}\n`.length !== length) length++;
        return `${length} ${record}\n`;
      })
      .join(""),
    "latin1",
  );
  const header = block({ ...NUMBERS, 0: "x", 124: `${payload.length.toString(8).padStart(11, "0")}\0`, 156: "x" });
  return Buffer.concat([header, payload, tarPadding(payload.length)]);
}

function failureOf(run: () => unknown): { class: string; message: string } {
  try {
    run();
  } catch (error) {
    return { class: errorClassOf(error), message: error instanceof Error ? error.message : "" };
  }
  return { class: "none", message: "" };
}

/** What GNU tar makes of a few files, by its own options. */
async function gnuTar(options: readonly string[], script: string): Promise<Buffer> {
  const make = `set -e; d=$(mktemp -d); cd $d; ${script}; tar ${options.join(" ")} -cf - .; rm -rf $d`;
  const child = Bun.spawn(["sh", "-c", make], { stdout: "pipe" });
  const bytes = Buffer.from(await new Response(child.stdout).arrayBuffer());
  expect(await child.exited).toBe(0);
  return bytes;
}

const FILES = `
  printf abc > ${"n".repeat(150)}; ln ${"n".repeat(150)} hard; ln -s ${"t".repeat(160)} soft; mkfifo pipe
  truncate -s 300000 holes; printf x | dd of=holes bs=1 seek=100000 conv=notrunc 2>/dev/null
  printf y | dd of=holes bs=1 seek=250000 conv=notrunc 2>/dev/null; mkdir dir; chmod 1777 dir`;

describe("TarParser", () => {
  for (const options of [
    ["--format=gnu", "-S"],
    ["--format=posix", "-S", "--sparse-version=1.0"],
    ["--format=posix", "-S", "--sparse-version=0.1"],
    ["--format=posix", "-S", "--sparse-version=0.0"],
    ["--format=oldgnu", "-S"],
  ]) {
    test(`reads what GNU tar writes with ${options.join(" ")}, however it is cut`, async () => {
      const archive = await gnuTar(options, FILES);
      for (const step of [archive.length, 1000, 513, 7]) {
        const entries = parse(archive, step);
        const by = new Map(entries.map((entry) => [entry.header.name, entry]));
        const long = by.get(`./${"n".repeat(150)}`);
        const hard = by.get("./hard");
        const file = long?.header.type === "file" ? long : hard;
        expect(file?.bytes.toString()).toBe("abc");
        expect(new Set([long?.header.type, hard?.header.type])).toEqual(new Set(["file", "link"]));
        expect(by.get("./soft")?.header.linkName).toBe("t".repeat(160));
        expect(by.get("./pipe")?.header.type).toBe("fifo");
        expect(by.get("./dir/")?.header.mode).toBe(0o1777);
        const holes = by.get("./holes");
        expect(holes?.header.size).toBe(300_000);
        expect(holes?.header.sparse?.length).toBeGreaterThan(1);
        expect([holes?.bytes[100_000], holes?.bytes[250_000]]).toEqual([0x78, 0x79]);
        expect(holes?.bytes.filter((byte) => byte !== 0).length).toBe(2);
      }
    });
  }

  test("knows base-256 numbers, V7 headers, and folders named by a slash", () => {
    const big = Buffer.alloc(12);
    big[0] = 0x80;
    big.writeBigUInt64BE(9_000_000_000n, 4);
    const [entry] = parse(Buffer.concat([block({ ...NUMBERS, 0: "old/", 124: "00000000000\0", 136: big }), TAR_END]));
    expect(entry?.header).toMatchObject({ type: "directory", name: "old/", mtime: { seconds: 9_000_000_000 } });
  });

  test("PAX records win over the header, empty ones do not, and xattr values are bytes", () => {
    const entry = block({ ...NUMBERS, 0: "short", 124: "00000000003\0", 156: "0" });
    const archive = Buffer.concat([
      pax(["path=a/long", "mtime=-1.25", "uid=70000000", "gid=", "SCHILY.xattr.user.k=\xff\0=v"]),
      entry,
      Buffer.from("abc"),
      tarPadding(3),
      TAR_END,
    ]);
    const [found] = parse(archive);
    expect(found?.header).toMatchObject({
      name: "a/long",
      uid: 70_000_000,
      gid: 0,
      mtime: { seconds: -2, nanoseconds: 750_000_000 },
    });
    expect(found?.header.xattrs?.get("user.k")).toEqual(new Uint8Array([0xff, 0, 0x3d, 0x76]));
  });

  test("a global header is an entry of its own and changes nothing after it", () => {
    const global = pax(["uid=5"]);
    global[156] = 0x67;
    global.write(`${checksums(global).unsigned.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    const found = parse(Buffer.concat([global, archiveOf([{ type: "file", name: "f", uid: 1 }])]));
    expect(found.map(({ header }) => [header.type, header.uid])).toEqual([
      ["global", 0],
      ["file", 1],
    ]);
  });

  test("says what is wrong with an archive", () => {
    const good = archiveOf([{ type: "file", name: "f" }, Buffer.from("hello")]);
    const cut = failureOf(() => parse(good.subarray(0, 514)));
    expect(cut).toEqual({
      class: "data-loss",
      message: 'read archive: unexpected EOF after 514 bytes in or after entry "f"',
    });
    const bad = Buffer.from(good);
    bad[0] = 0x67;
    expect(failureOf(() => parse(bad)).class).toBe("invalid-argument");
    expect(failureOf(() => parse(Buffer.concat([Buffer.alloc(BLOCK), good]))).message).toContain("after a zero block");
    expect(failureOf(() => parse(good, 100, { maxEntries: 0 })).message).toContain("more than 0 entries");
    expect(failureOf(() => parse(good, 100, { maxNameBytes: 0 })).message).toContain("name of 1 bytes, limit 0");
    const long = pax([`comment=${"x".repeat(2000)}`]);
    expect(failureOf(() => parse(long, 100, { maxHeaderBytes: 1000 })).message).toContain("limit 1000");
    const odd = Buffer.concat([
      pax(["GNU.sparse.major=2", "GNU.sparse.minor=0"]),
      block({ ...NUMBERS, 0: "f", 124: "00000000000\0", 156: "0" }),
    ]);
    expect(failureOf(() => parse(odd)).class).toBe("not-implemented");
    const map = Buffer.concat([
      pax(["GNU.sparse.map=5,1,2,1", "GNU.sparse.size=9"]),
      block({ ...NUMBERS, 0: "f", 124: "00000000002\0", 156: "0" }),
    ]);
    expect(failureOf(() => parse(map)).message).toContain("out of order");
  });

  test("an archive may end without its marker, and what follows the marker is ignored", () => {
    const good = archiveOf([{ type: "file", name: "f" }]);
    expect(parse(good.subarray(0, 512))).toHaveLength(1);
    expect(parse(Buffer.concat([good, Buffer.from("garbage")]), 100)).toHaveLength(1);
    expect(parse(new Uint8Array())).toHaveLength(0);
  });

  test("random bytes and damaged archives only ever give classified errors", () => {
    const classes = new Set(["none", "invalid-argument", "data-loss", "not-implemented"]);
    const base = archiveOf(
      [{ type: "file", name: "a".repeat(120), mtime: { seconds: 1, nanoseconds: 5 } }, Buffer.alloc(700, 1)],
      [{ type: "symlink", name: "s", linkName: "t" }],
      [{ type: "file", name: "b", xattrs: new Map([["user.x", new Uint8Array([1])]]) }, Buffer.alloc(3)],
    );
    const small = { maxHeaderBytes: 4096, maxEntries: 100 };
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(base.length - 1), fc.nat(255)), { maxLength: 6 }),
        fc.integer({ min: 1, max: 2000 }),
        fc.boolean(),
        (changes, step, repair) => {
          const bytes = Buffer.from(base);
          for (const [at, value] of changes) bytes[at] = value;
          // With the checksum made right again, damage reaches the fields.
          if (repair) {
            for (let at = 0; at + BLOCK <= bytes.length; at += BLOCK) {
              const part = bytes.subarray(at, at + BLOCK);
              if (part.toString("latin1", 257, 262) !== "ustar") continue;
              part.write(`${checksums(part).unsigned.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
            }
          }
          const reader = new TarParser(
            { entry: () => undefined, data: () => undefined, finish: () => undefined },
            small,
          );
          const result = failureOf(() => {
            for (let at = 0; at < bytes.length; at += step) reader.push(bytes.subarray(at, at + step));
            reader.end();
          });
          expect(classes).toContain(result.class);
        },
      ),
      { numRuns: 2_000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), (bytes) => {
        expect(classes).toContain(failureOf(() => parse(bytes, 100, small)).class);
      }),
      { numRuns: 500 },
    );
  });
});

const component = fc.string({ minLength: 1, maxLength: 60, unit: "grapheme" }).filter((text) => !/[/\0]/.test(text));
const path = fc.array(component, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
const entries: fc.Arbitrary<TarEntryInit> = fc.record({
  type: fc.constantFrom("file", "directory", "symlink", "char", "block", "fifo", "link"),
  name: path,
  linkName: fc.oneof(fc.constant(""), path),
  mode: fc.nat(0o7777),
  uid: fc.oneof(fc.nat(70_000), fc.nat(2 ** 32)),
  gid: fc.nat(2 ** 32),
  mtime: fc.record({ seconds: fc.integer({ min: -(2 ** 33), max: 2 ** 36 }), nanoseconds: fc.nat(999_999_999) }),
  devMajor: fc.nat(4095),
  devMinor: fc.nat(0o7777777),
  xattrs: fc
    .array(fc.tuple(fc.constantFrom("user.a", "user.b", "security.capability"), fc.uint8Array({ maxLength: 40 })))
    .map((pairs) => new Map(pairs)),
});

describe("encodeTarHeader", () => {
  test("what is written is read back the same", () => {
    fc.assert(
      fc.property(entries, fc.uint8Array({ maxLength: 1200 }), (entry, bytes) => {
        const content = entry.type === "file" ? bytes : new Uint8Array();
        const [found] = parse(archiveOf([entry, content]), 600);
        const slash = entry.type === "directory" && !entry.name.endsWith("/") ? "/" : "";
        expect(found?.header).toMatchObject({
          type: entry.type,
          name: `${entry.name.toWellFormed()}${slash}`,
          linkName: entry.linkName?.toWellFormed() ?? "",
          mode: entry.mode ?? 0,
          uid: entry.uid ?? 0,
          gid: entry.gid ?? 0,
        });
        expect(found?.header.mtime).toEqual(entry.mtime ?? { seconds: 0, nanoseconds: 0 });
        expect(found?.header.xattrs ?? new Map()).toEqual(entry.xattrs ?? new Map());
        expect(found?.bytes.equals(content)).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test("GNU tar lists what is written", async () => {
    const archive = archiveOf(
      [{ type: "directory", name: "d", mode: 0o755 }],
      [{ type: "file", name: `${"p".repeat(90)}/${"q".repeat(90)}`, mode: 0o644 }, Buffer.from("x")],
      [{ type: "file", name: "ü".repeat(80), mode: 0o600 }],
    );
    const child = Bun.spawn(["tar", "tf", "-", "--quoting-style=literal"], { stdin: archive, stdout: "pipe" });
    const text = await new Response(child.stdout).text();
    expect(text.trim().split("\n")).toEqual(["d/", `${"p".repeat(90)}/${"q".repeat(90)}`, "ü".repeat(80)]);
  });

  test("the same layout as Go's archive/tar: ustar prefix, PAX header name, checksum", () => {
    const split = Buffer.from(encodeTarHeader({ type: "file", name: `${"p".repeat(90)}/${"q".repeat(90)}` }));
    expect(split.length).toBe(512);
    expect(split.toString("latin1", 345, 435)).toBe("p".repeat(90));
    const extended = Buffer.from(encodeTarHeader({ type: "file", name: `dir/${"q".repeat(120)}` }));
    expect(extended.toString("latin1", 0, 100)).toBe(`dir/PaxHeaders.0/${"q".repeat(83)}`);
    expect(extended.toString("latin1", 512, 524)).toBe(`134 path=dir`);
  });
});

describe("names", () => {
  test("any bytes survive, and valid UTF-8 is itself", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 700 }), (bytes) => {
        expect(Buffer.from(nameBytes(decodeName(bytes))).equals(Buffer.from(bytes))).toBe(true);
      }),
      { numRuns: 2_000 },
    );
    expect(decodeName(Buffer.from("grün"))).toBe("grün");
    expect(encodeName("grün")).toBe("grün");
    expect(decodeName(Buffer.from([0x61, 0xff]))).toBe("a\udcff");
  });
});

describe("whiteouts", () => {
  test("names of deleted siblings and of opaque folders", () => {
    expect(parseWhiteout("file")).toEqual({ kind: "none" });
    expect(parseWhiteout(".wh.file")).toEqual({ kind: "delete", target: "file" });
    expect(parseWhiteout(".wh..wh..opq")).toEqual({ kind: "opaque" });
    for (const name of [".wh.", ".wh..", ".wh..."]) {
      expect(failureOf(() => parseWhiteout(name)).message).toBe(`invalid whiteout name: ${name}: invalid archive`);
    }
  });
});

describe("readTar", () => {
  test("gives entries with their bodies, skips what is not read, and checks the limit", async () => {
    const archive = archiveOf(
      [{ type: "file", name: "a" }, Buffer.alloc(3000, 1)],
      [{ type: "file", name: "b" }, Buffer.from("bb")],
      [{ type: "file", name: "c" }, Buffer.from("ccc")],
    );
    const pieces = (function* () {
      for (let at = 0; at < archive.length; at += 700) yield archive.subarray(at, at + 700);
    })();
    const seen: string[] = [];
    for await (const entry of readTar(pieces)) {
      if (entry.header.name === "a") continue;
      if (entry.header.name === "c") {
        await expect(entry.bytes(2)).rejects.toThrow("has 3 bytes, limit 2");
        continue;
      }
      seen.push(Buffer.from(await entry.bytes(10)).toString());
    }
    expect(seen).toEqual(["bb"]);
  });
});
