// Callers' bytes are read by tables of our own: protobuf-es, which goes by descriptors, is the judge.
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { decodeMessage, encodeMessage } from "../codec.ts";

/** Generated files are found by listing their folder, so no import statement can name them. */
const load = createRequire(import.meta.url);
const GEN = join(import.meta.dir, "../../gen");

function schemasOf(file: string): Map<string, DescMessage> {
  const found = new Map<string, DescMessage>();
  const module: unknown = load(file);
  if (typeof module !== "object" || module === null) throw new Error(`${file}: no module`);
  for (const value of Object.values<unknown>({ ...module })) if (isMessage(value)) found.set(value.typeName, value);
  return found;
}

function isMessage(value: unknown): value is DescMessage {
  return typeof value === "object" && value !== null && Reflect.get(value, "kind") === "message";
}

/** Each message in both forms. */
const PAIRS = readdirSync(join(GEN, "light"), { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith("_pb.ts"))
  .flatMap((path) => {
    const full = schemasOf(join(GEN, path));
    return [...schemasOf(join(GEN, "light", path))].flatMap(([name, light]) => {
      const twin = full.get(name);
      return twin === undefined ? [] : [{ full: twin, light }];
    });
  });

type Piece = { readonly no: number; readonly type: WireType; readonly bytes: Uint8Array };

/** Fields as they lie on the wire: any number, any wire type, payloads that hold fields again. */
const { message: MESSAGE } = fc.letrec<{ message: Uint8Array; piece: Piece }>((tie) => ({
  message: fc.array(tie("piece"), { maxLength: 6 }).map((pieces) => {
    const writer = new BinaryWriter();
    for (const { no, type, bytes } of pieces) writer.tag(no, type).raw(bytes);
    return writer.finish();
  }),
  piece: fc.oneof(
    { depthSize: "small" },
    fc.record({
      no: fc.integer({ min: 1, max: 20 }),
      type: fc.constant(WireType.Varint),
      bytes: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => new BinaryWriter().uint64(value).finish()),
    }),
    fc.record({
      no: fc.integer({ min: 1, max: 20 }),
      type: fc.constantFrom(WireType.Bit64, WireType.Bit32),
      bytes: fc.uint8Array({ minLength: 4, maxLength: 8 }),
    }),
    fc.record({
      no: fc.integer({ min: 1, max: 20 }),
      type: fc.constant(WireType.LengthDelimited),
      bytes: fc
        .oneof(
          fc.string({ unit: "binary", maxLength: 12 }).map((text) => new TextEncoder().encode(text)),
          fc.uint8Array({ maxLength: 12 }),
          tie("message"),
        )
        .map((inner) => new BinaryWriter().bytes(inner).finish()),
    }),
  ),
}));

test(
  "N01 whatever the bytes, they are refused or a message that descriptors read and write the same",
  () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 });
    fc.assert(
      fc.property(fc.constantFrom(...PAIRS), MESSAGE, damage, ({ full, light }, message, changes) => {
        const bytes = Uint8Array.from(message);
        for (const [at, value] of changes) if (bytes.length > 0) bytes[at % bytes.length] = value;
        let read: Uint8Array<ArrayBuffer>;
        try {
          read = encodeMessage(light, decodeMessage(light, bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          return;
        }
        // Not compared on `bytes`: a field of another wire type is skipped by ours, as in Go, and misread by protobuf-es.
        expect(toBinary(full, fromBinary(full, read))).toEqual(read);
        expect(encodeMessage(light, decodeMessage(light, read))).toEqual(read);
      }),
      fuzzing(),
    );
  },
  fuzzLimitMs(),
);
