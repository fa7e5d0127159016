import { expect, test } from "bun:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { concatBytes } from "@stevedore/base";
import {
  ReadContentResponseSchema,
  WriteAction,
  WriteContentRequestSchema,
} from "../../gen/containerd/services/content/v1/content_pb.ts";
import { messageParts } from "./message-parts.ts";

test("a long field travels apart, uncopied, and the parts are the message", () => {
  const data = new Uint8Array(100_000).map((_, i) => i % 251);
  const message = create(WriteContentRequestSchema, {
    action: WriteAction.COMMIT,
    ref: "r",
    data,
    offset: 5n,
    labels: { a: "b" },
  });
  const parts = messageParts(WriteContentRequestSchema, message);
  expect(parts.at(-1)).toBe(data);
  expect(message.data).toBe(data);
  expect(fromBinary(WriteContentRequestSchema, concatBytes(parts))).toEqual(message);
});

test("other messages are one part", () => {
  const small = create(ReadContentResponseSchema, { data: new Uint8Array(10), offset: 1n });
  const parts = messageParts(ReadContentResponseSchema, small);
  expect(parts.length).toBe(1);
  expect(fromBinary(ReadContentResponseSchema, concatBytes(parts))).toEqual(small);
  const frozen = Object.freeze(create(ReadContentResponseSchema, { data: new Uint8Array(100_000) }));
  expect(fromBinary(ReadContentResponseSchema, concatBytes(messageParts(ReadContentResponseSchema, frozen)))).toEqual(
    frozen,
  );
});
