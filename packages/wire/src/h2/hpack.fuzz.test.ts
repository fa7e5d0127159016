import { expect, test } from "bun:test";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder } from "./hpack-encoder.ts";
import { ConnectionError, type HeaderField } from "./protocol.ts";

const LIST_LIMIT = 1 << 14;

const NAME = fc.oneof(
  fc.constantFrom(":path", "grpc-timeout", "content-type", "containerd-namespace", "x"),
  fc.stringMatching(/^[a-z0-9-]{1,20}$/),
);
const FIELD = fc.tuple(NAME, fc.stringMatching(/^[ -~]{0,60}$/));
const BLOCKS = fc.array(fc.array(FIELD, { maxLength: 8 }), { minLength: 1, maxLength: 12 });

test(
  "N01 blocks of one connection come out as they went in",
  () => {
    fc.assert(
      fc.property(BLOCKS, (blocks) => {
        const [encoder, decoder] = [new HpackEncoder(), new HpackDecoder(LIST_LIMIT)];
        for (const fields of blocks) {
          const wanted: HeaderField[] = fields.map(([name, value]): HeaderField => [name, value]);
          expect(decoder.decode(encoder.encode(wanted)).fields).toEqual(wanted);
        }
      }),
      fuzzing(2),
    );
  },
  fuzzLimitMs(),
);

test(
  "N01 damaged blocks are fields or a connection error, within the list's limit",
  () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 });
    fc.assert(
      fc.property(BLOCKS, damage, fc.uint8Array({ maxLength: 40 }), (blocks, changes, tail) => {
        const [encoder, decoder] = [new HpackEncoder(), new HpackDecoder(LIST_LIMIT)];
        for (const fields of blocks) {
          const block = Buffer.concat([
            encoder.encode(fields.map(([name, value]): HeaderField => [name, value])),
            tail,
          ]);
          for (const [at, value] of changes) if (block.length > 0) block[at % block.length] = value;
          try {
            const decoded = decoder.decode(block).fields;
            expect(decoded.reduce((sum, [name, value]) => sum + name.length + value.length, 0)).toBeLessThanOrEqual(
              LIST_LIMIT,
            );
          } catch (error) {
            expect(error).toBeInstanceOf(ConnectionError);
            return;
          }
        }
      }),
      fuzzing(2),
    );
  },
  fuzzLimitMs(),
);
