import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  type Message,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { Tasks as FullTasks } from "../../gen/containerd/services/tasks/v1/tasks_pb.ts";
import { BootstrapParamsSchema } from "../../gen/light/containerd/runtime/bootstrap/v1/bootstrap_pb.ts";
import { WriteAction, WriteContentRequestSchema } from "../../gen/light/containerd/services/content/v1/content_pb.ts";
import { CreateTaskRequestSchema, Tasks } from "../../gen/light/containerd/services/tasks/v1/tasks_pb.ts";
import { decodeMessage, encodeMessage, makeMessage } from "../codec.ts";
import { createClient } from "../rpc/client.ts";
import { memoryTransport } from "../rpc/memory-transport.ts";
import { Router } from "../rpc/router.ts";
import { timestampDate, timestampFromDate } from "./wkt.ts";

/** Generated files are found by listing their folder, so no import statement can name them. */
const load = createRequire(import.meta.url);

const GEN = join(import.meta.dir, "../../gen");

/** Full and light schemas of one message. */
interface Pair {
  readonly full: DescMessage;
  readonly light: DescMessage;
}

function isDescMessage(value: unknown): value is DescMessage {
  return typeof value === "object" && value !== null && Reflect.get(value, "kind") === "message";
}

async function pairs(): Promise<Pair[]> {
  const found: Pair[] = [];
  for (const path of readdirSync(join(GEN, "light"), { recursive: true, encoding: "utf8" })) {
    if (!path.endsWith("_pb.ts")) continue;
    const full: unknown = load(join(GEN, path));
    const light: unknown = load(join(GEN, "light", path));
    if (typeof full !== "object" || full === null || typeof light !== "object" || light === null) continue;
    for (const [name, schema] of Object.entries(full)) {
      const twin: unknown = Reflect.get(light, name);
      if (isDescMessage(schema) && isDescMessage(twin)) found.push({ full: schema, light: twin });
      else if (isDescMessage(schema)) throw new Error(`${path}: no light ${name}`);
    }
  }
  return found;
}

const U64 = { min: 0n, max: 2n ** 64n - 1n };
const I64 = { min: -(2n ** 63n), max: 2n ** 63n - 1n };

const SCALARS: ReadonlyMap<ScalarType, fc.Arbitrary<unknown>> = new Map<ScalarType, fc.Arbitrary<unknown>>([
  [ScalarType.STRING, fc.string({ unit: "grapheme", maxLength: 10 })],
  [ScalarType.BYTES, fc.uint8Array({ maxLength: 10 })],
  [ScalarType.BOOL, fc.boolean()],
  [ScalarType.INT64, fc.bigInt(I64)],
  [ScalarType.UINT64, fc.bigInt(U64)],
  [ScalarType.INT32, fc.integer()],
  [ScalarType.UINT32, fc.nat({ max: 0xffffffff })],
  [ScalarType.DOUBLE, fc.double({ noNaN: true })],
]);

function scalar(type: ScalarType): fc.Arbitrary<unknown> {
  const found = SCALARS.get(type);
  if (found === undefined) throw new Error(`no values for ${ScalarType[type] ?? type}`);
  return found;
}

/** Values for one field; nested messages end at a depth. */
function fieldValue(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const element = (): fc.Arbitrary<unknown> => {
    if (field.message !== undefined) return init(field.message, depth + 1);
    if (field.enum !== undefined) return fc.constantFrom(...field.enum.values.map((v) => v.number));
    return scalar(field.scalar ?? ScalarType.STRING);
  };
  if (field.fieldKind === "list") return fc.array(element(), { maxLength: 3 });
  if (field.fieldKind === "map") return fc.dictionary(fc.string({ maxLength: 5 }), element(), { maxKeys: 3 });
  return element();
}

function init(message: DescMessage, depth = 0): fc.Arbitrary<Record<string, unknown>> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {};
  for (const field of message.fields) {
    if (field.message !== undefined && depth >= 3) continue;
    fields[field.localName] = fieldValue(field, depth);
  }
  return fc.record(fields, { requiredKeys: [] });
}

const all = await pairs();

describe("light messages", () => {
  test("there are as many as full ones, CRI and NRI aside", () => expect(all.length).toBeGreaterThan(250));

  for (const { full, light } of all) {
    test(`${full.typeName} is written and read as by its descriptor`, () => {
      fc.assert(
        fc.property(init(full), (values) => {
          const message = create(full, values);
          const bytes = toBinary(full, message);
          const made: Message = makeMessage(light, values);
          expect(made).toEqual(message);
          expect(Buffer.from(encodeMessage(light, made))).toEqual(Buffer.from(bytes));
          expect(decodeMessage(light, bytes)).toEqual(fromBinary(full, bytes));
        }),
        { numRuns: 20 },
      );
    });
  }

  test("any bytes are read or refused with an Error; what was read is read again the same", () => {
    const schemas = all.map((pair) => pair.light);
    fc.assert(
      fc.property(fc.nat({ max: schemas.length - 1 }), fc.uint8Array({ maxLength: 40 }), (at, bytes) => {
        const schema = schemas[at];
        if (schema === undefined) return;
        let got: Message;
        try {
          got = decodeMessage(schema, bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          return;
        }
        expect(decodeMessage(schema, encodeMessage(schema, got))).toEqual(got);
      }),
      { numRuns: 5000 },
    );
  });

  test("a known number with another wire type is an unknown field", () => {
    const descriptor = all.find((pair) => pair.full.typeName === "containerd.types.Descriptor");
    if (descriptor === undefined) throw new Error("no Descriptor");
    // Field 1 (a string) as a varint, then field 3 (an int64) as it should be.
    const message = decodeMessage(descriptor.light, new Uint8Array([0x08, 0x05, 0x18, 0x07]));
    expect(message).toMatchObject({ mediaType: "", size: 7n });
  });

  test("nesting is limited", () => {
    // A Progress cannot nest, but an unknown group may, and must not reach the end of the stack.
    const groups = new Uint8Array(100_000).fill(0x7b);
    expect(() => decodeMessage(CreateTaskRequestSchema, groups)).toThrow();
  });

  test("an optional field tells absent from empty", () => {
    const absent = decodeMessage(
      BootstrapParamsSchema,
      encodeMessage(BootstrapParamsSchema, makeMessage(BootstrapParamsSchema, {})),
    );
    expect(absent.socketDir).toBeUndefined();
    const empty = makeMessage(BootstrapParamsSchema, { socketDir: "" });
    expect(decodeMessage(BootstrapParamsSchema, encodeMessage(BootstrapParamsSchema, empty)).socketDir).toBe("");
  });

  test("enums have the same numbers", () => {
    const message = makeMessage(WriteContentRequestSchema, { action: WriteAction.COMMIT });
    expect(decodeMessage(WriteContentRequestSchema, encodeMessage(WriteContentRequestSchema, message)).action).toBe(2);
  });

  test("a map key __proto__ stays a key", () => {
    const schema = all.find((p) => p.full.typeName === "containerd.types.Descriptor");
    if (schema === undefined) throw new Error("no Descriptor");
    const annotations: unknown = JSON.parse('{"__proto__":"x","a":"b"}');
    const values = { annotations };
    const bytes = encodeMessage(schema.light, makeMessage(schema.light, values));
    const back: unknown = Reflect.get(decodeMessage(schema.light, bytes), "annotations");
    expect(JSON.stringify(back)).toBe('{"__proto__":"x","a":"b"}');
  });

  test("protobuf-es refuses light schemas with a word", () => {
    expect(() => create(CreateTaskRequestSchema)).toThrow("has no descriptor");
    expect(() => fromBinary(CreateTaskRequestSchema, new Uint8Array())).toThrow("has no descriptor");
    const made = makeMessage(CreateTaskRequestSchema);
    expect(() => toBinary(CreateTaskRequestSchema, made)).toThrow();
  });

  test("dates and timestamps convert", () => {
    for (const ms of [0, 1, 1_700_000_000_123, -1, -1500]) {
      expect(timestampDate(timestampFromDate(new Date(ms))).getTime()).toBe(ms);
    }
    expect(timestampFromDate(new Date(-1))).toEqual({ seconds: -1n, nanos: 999_000_000 });
  });

  test("a light client talks to a full service, and the other way round", async () => {
    const router = new Router().service(FullTasks, {
      get: async ({ containerId }) => ({ process: { id: containerId, pid: 7 } }),
    });
    const { process } = await createClient(Tasks, memoryTransport(router)).get({ containerId: "c" });
    expect([process?.id, process?.pid]).toEqual(["c", 7]);
    const light = new Router().service(Tasks, {
      get: async ({ containerId }) => ({ process: { id: containerId, pid: 8 } }),
    });
    const answer = await createClient(FullTasks, memoryTransport(light)).get({ containerId: "d" });
    expect([answer.process?.id, answer.process?.pid]).toEqual(["d", 8]);
  });
});
