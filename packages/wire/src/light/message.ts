import type { DescMessage, DescService, Message } from "@bufbuild/protobuf";
import type { GenMessage, GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/**
 * Messages without descriptors. The first descriptor of protobuf-es a process loads costs it 5 ms and 3 MB of private
 * memory (docs/decisions/0020-light-messages.md), which a shim and a short-lived command feel. The code under
 * `gen/light` has the same names and types as that under `gen`, over a small table-driven codec.
 *
 * What light schemas cannot do: reflection, JSON, `create`, `toBinary` and `fromBinary` of protobuf-es (use
 * `makeMessage`, `encodeMessage` and `decodeMessage` of `wire/codec`, which take both kinds), and keeping unknown
 * fields. Whoever passes messages on unread must use the full ones.
 */

/** Says what a light schema is; protobuf-es never sees it. */
const TABLE = Symbol("light message table");

/** How a value is written: scalars by the letter tables use, messages by their schema. */
type Kind = "s" | "y" | "b" | "i" | "l" | "u" | "v" | "d" | "f" | LightTable;

interface LightField {
  readonly no: number;
  /** Property name in TypeScript. */
  readonly name: string;
  readonly kind: Kind;
  readonly shape: "single" | "list" | "map";
  /** Absent differs from zero. */
  readonly optional: boolean;
  /** Of maps. */
  readonly keyKind: Kind;
}

/** The fields of one message, read from their text when the message is first used. */
class LightTable {
  readonly typeName: string;
  readonly #text: string;
  readonly #refs: (() => readonly DescMessage[]) | undefined;
  #fields: readonly LightField[] | undefined;
  #byNumber: ReadonlyMap<number, LightField> | undefined;

  constructor(typeName: string, text: string, refs: (() => readonly DescMessage[]) | undefined) {
    this.typeName = typeName;
    this.#text = text;
    this.#refs = refs;
  }

  get fields(): readonly LightField[] {
    this.#fields ??= this.#parse();
    return this.#fields;
  }

  field(no: number): LightField | undefined {
    this.#byNumber ??= new Map(this.fields.map((field) => [field.no, field]));
    return this.#byNumber.get(no);
  }

  /** `1id:s 3rootfs:*0 5labels:%ss 9dir:?s`: number, name, then `*` list, `%` map with its key's letter, `?` optional. */
  #parse(): LightField[] {
    const refs = this.#refs?.() ?? [];
    if (this.#text === "") return [];
    return this.#text.split(" ").map((entry) => {
      const match = /^(\d+)([^:]+):([*?]|%([a-z]))?(\w+)$/.exec(entry);
      const [, no = "", name = "", mark = "", keyLetter = "s", kind = ""] = match ?? [];
      return {
        no: Number(no),
        name,
        kind: kindOf(kind, refs),
        shape: mark === "*" ? "list" : mark.startsWith("%") ? "map" : "single",
        optional: mark === "?",
        keyKind: kindOf(keyLetter, refs),
      };
    });
  }
}

function kindOf(text: string, refs: readonly DescMessage[]): Kind {
  switch (text) {
    case "s":
    case "y":
    case "b":
    case "i":
    case "l":
    case "u":
    case "v":
    case "d":
    case "f":
      return text;
    default: {
      const ref = refs[Number(text)];
      const table = ref === undefined ? undefined : lightTableOf(ref);
      if (table === undefined) throw new Error(`light message refers to ${text}, which is no light message`);
      return table;
    }
  }
}

/**
 * A schema over a table. Called by generated code only.
 *
 * @param fields see {@link LightTable}; numbers stand for entries of `refs`.
 */
export function lightMessage<T extends Message>(
  typeName: T["$typeName"],
  fields: string,
  refs?: () => readonly DescMessage[],
): GenMessage<T> {
  const name = typeName.slice(typeName.lastIndexOf(".") + 1);
  const schema: object = {
    kind: "message",
    typeName,
    name,
    [TABLE]: new LightTable(typeName, fields, refs),
    toString: () => `message ${typeName}`,
    // What protobuf-es looks at first: better one clear error than whatever it would make of undefined.
    get fields(): never {
      throw noDescriptor(typeName);
    },
    get file(): never {
      throw noDescriptor(typeName);
    },
  };
  if (!isSchema<T>(schema)) throw new Error(`light message ${typeName} has no table`);
  return schema;
}

function noDescriptor(typeName: string): Error {
  return new Error(`light message ${typeName} has no descriptor: use makeMessage, encodeMessage, decodeMessage`);
}

/** The generated code promises the T; here only the table is checked. */
function isSchema<T extends Message>(schema: object): schema is GenMessage<T> {
  return TABLE in schema;
}

type MethodEntry = readonly [
  name: string,
  localName: string,
  kind: "unary" | "server_streaming" | "client_streaming" | "bidi_streaming",
  input: DescMessage,
  output: DescMessage,
];

/** A service over light messages. Called by generated code only. */
export function lightService<S extends GenServiceMethods>(
  typeName: string,
  entries: readonly MethodEntry[],
): GenService<S> {
  const methods: object[] = [];
  const method: Record<string, object> = {};
  const service = { kind: "service", typeName, name: typeName.slice(typeName.lastIndexOf(".") + 1), methods, method };
  for (const [name, localName, methodKind, input, output] of entries) {
    const made = { kind: "rpc", name, localName, parent: service, methodKind, input, output };
    methods.push(made);
    method[localName] = made;
  }
  if (!isService<S>(service)) throw new Error(`light service ${typeName} has no methods`);
  return service;
}

function isService<S extends GenServiceMethods>(service: object): service is GenService<S> & DescService {
  return "methods" in service;
}

/** The table behind a light schema; undefined for a schema of protobuf-es. */
export function lightTableOf(schema: DescMessage): LightTable | undefined {
  const table: unknown = Reflect.get(schema, TABLE);
  return table instanceof LightTable ? table : undefined;
}

type Fields = Record<string, unknown>;

/** Levels of nested messages that are read; protobuf-es has the same. */
const MAX_DEPTH = 100;

const NO_BYTES = new Uint8Array(0);

function zero(kind: Kind): unknown {
  if (kind instanceof LightTable) return undefined;
  switch (kind) {
    case "s":
      return "";
    case "y":
      return NO_BYTES;
    case "b":
      return false;
    case "l":
    case "v":
      return 0n;
    case "i":
    case "u":
    case "d":
    case "f":
      return 0;
  }
}

function emptyOf(table: LightTable): Fields {
  const made: Fields = { $typeName: table.typeName };
  for (const { name, kind, shape, optional } of table.fields) {
    if (shape === "list") made[name] = [];
    else if (shape === "map") made[name] = {};
    else if (!optional && !(kind instanceof LightTable)) made[name] = zero(kind);
  }
  return made;
}

/** A message with what `init` gives and zero elsewhere. Nested plain objects become messages. */
export function lightMake(table: LightTable, init: object): Message {
  const made = emptyOf(table);
  for (const { name, kind, shape } of table.fields) {
    const given: unknown = Reflect.get(init, name);
    if (given === undefined || given === null) continue;
    if (!(kind instanceof LightTable)) made[name] = given;
    else if (shape === "list" && Array.isArray(given)) made[name] = given.map((item: unknown) => nested(kind, item));
    else if (shape === "map" && isFields(given)) {
      const entries: Fields = {};
      for (const [key, item] of Object.entries(given)) setEntry(entries, key, nested(kind, item));
      made[name] = entries;
    } else made[name] = nested(kind, given);
  }
  return asMessage(made);
}

function nested(table: LightTable, value: unknown): unknown {
  if (!isFields(value)) return value;
  return value["$typeName"] === table.typeName ? value : lightMake(table, value);
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null;
}

function asMessage(fields: Fields): Message {
  if (!isMessage(fields)) throw new Error("light message without type name");
  return fields;
}

function isMessage(fields: Fields): fields is Fields & Message {
  return typeof fields["$typeName"] === "string";
}

function setEntry(entries: Fields, key: string, value: unknown): void {
  if (key !== "__proto__") entries[key] = value;
  else Object.defineProperty(entries, key, { value, enumerable: true, configurable: true, writable: true });
}

/** The message's bytes, fields in order of number. */
export function lightEncode(table: LightTable, message: object): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  writeFields(table, message, writer);
  return writer.finish();
}

function writeFields(table: LightTable, message: object, writer: BinaryWriter): void {
  for (const field of table.fields) {
    const value: unknown = Reflect.get(message, field.name);
    if (value === undefined || value === null) continue;
    if (field.shape === "list") {
      if (Array.isArray(value)) writeList(field, value, writer);
    } else if (field.shape === "map") {
      if (isFields(value)) writeMap(field, value, writer);
    } else if (field.optional || !isZero(field.kind, value)) writeValue(field.no, field.kind, value, writer);
  }
}

function isZero(kind: Kind, value: unknown): boolean {
  if (kind instanceof LightTable) return false;
  if (kind === "y") return value instanceof Uint8Array && value.byteLength === 0;
  if (kind === "d" || kind === "f") return Object.is(value, 0);
  return value === "" || value === false || value === 0 || value === 0n;
}

function writeList(field: LightField, list: readonly unknown[], writer: BinaryWriter): void {
  const { kind, no } = field;
  if (kind instanceof LightTable || kind === "s" || kind === "y") {
    for (const item of list) writeValue(no, kind, item, writer);
    return;
  }
  if (list.length === 0) return;
  writer.tag(no, WireType.LengthDelimited).fork();
  for (const item of list) writeScalar(kind, item, writer);
  writer.join();
}

function writeMap(field: LightField, entries: Fields, writer: BinaryWriter): void {
  for (const [key, value] of Object.entries(entries)) {
    writer.tag(field.no, WireType.LengthDelimited).fork();
    writeValue(1, field.keyKind, field.keyKind === "s" ? key : keyFromText(field.keyKind, key), writer);
    writeValue(2, field.kind, value, writer);
    writer.join();
  }
}

function keyFromText(kind: Kind, key: string): unknown {
  if (kind === "b") return key === "true";
  return kind === "l" || kind === "v" ? BigInt(key) : Number(key);
}

function writeValue(no: number, kind: Kind, value: unknown, writer: BinaryWriter): void {
  if (kind instanceof LightTable) {
    writer.tag(no, WireType.LengthDelimited).fork();
    if (isFields(value)) writeFields(kind, value, writer);
    writer.join();
    return;
  }
  writer.tag(no, wireTypeOf(kind));
  writeScalar(kind, value, writer);
}

function wireTypeOf(kind: Exclude<Kind, LightTable>): WireType {
  switch (kind) {
    case "s":
    case "y":
      return WireType.LengthDelimited;
    case "d":
      return WireType.Bit64;
    case "f":
      return WireType.Bit32;
    case "b":
    case "i":
    case "u":
    case "l":
    case "v":
      return WireType.Varint;
  }
}

function writeScalar(kind: Exclude<Kind, LightTable>, value: unknown, writer: BinaryWriter): void {
  switch (kind) {
    case "s":
      writer.string(String(value));
      return;
    case "y":
      writer.bytes(value instanceof Uint8Array ? value : NO_BYTES);
      return;
    case "b":
      writer.bool(value === true);
      return;
    case "i":
      writer.int32(Number(value));
      return;
    case "u":
      writer.uint32(Number(value));
      return;
    case "l":
      writer.int64(typeof value === "bigint" ? value : String(value));
      return;
    case "v":
      writer.uint64(typeof value === "bigint" ? value : String(value));
      return;
    case "d":
      writer.double(Number(value));
      return;
    case "f":
      writer.float(Number(value));
      return;
  }
}

/** The message in `bytes`; unknown fields are dropped. @throws Error when the bytes are no such message. */
export function lightDecode(table: LightTable, bytes: Uint8Array): Message {
  const reader = new BinaryReader(bytes);
  const made = emptyOf(table);
  readFields(table, made, { reader, end: reader.len, depth: 0 });
  return asMessage(made);
}

interface ReadState {
  readonly reader: BinaryReader;
  /** Where the message ends. */
  readonly end: number;
  readonly depth: number;
}

type ValueState = Omit<ReadState, "end">;

function readFields(table: LightTable, into: Fields, { reader, end, depth }: ReadState): void {
  if (depth >= MAX_DEPTH) {
    throw new Error(`cannot decode ${table.typeName} from binary: maximum recursion depth of ${MAX_DEPTH} reached`);
  }
  while (reader.pos < end) {
    const [no, wireType] = reader.tag();
    const field = table.field(no);
    // Of another wire type than ours it is another field, of a version we do not know: as Go has it.
    if (field === undefined || !fits(field, wireType)) {
      reader.skip(wireType, no, MAX_DEPTH - depth);
      continue;
    }
    if (field.shape === "map") readEntry(field, into, { reader, end: lengthEnd(reader), depth });
    else if (field.shape === "list") readItems(field, into, { reader, wireType, depth });
    else into[field.name] = readValue(field.kind, into[field.name], { reader, depth });
  }
  if (reader.pos !== end) throw new Error(`cannot decode ${table.typeName} from binary: premature end`);
}

function fits({ shape, kind }: LightField, wireType: WireType): boolean {
  if (shape === "map" || kind instanceof LightTable) return wireType === WireType.LengthDelimited;
  return wireType === wireTypeOf(kind) || (shape === "list" && wireType === WireType.LengthDelimited);
}

function lengthEnd(reader: BinaryReader): number {
  const length = reader.uint32();
  const end = reader.pos + length;
  if (end > reader.len) throw new RangeError("premature EOF");
  return end;
}

function readEntry(field: LightField, into: Fields, { reader, end, depth }: ReadState): void {
  let key: unknown = zero(field.keyKind);
  let value: unknown = field.kind instanceof LightTable ? emptyOf(field.kind) : zero(field.kind);
  while (reader.pos < end) {
    const [no, wireType] = reader.tag();
    if (no === 1 && fits({ ...field, shape: "single", kind: field.keyKind }, wireType)) {
      key = readValue(field.keyKind, key, { reader, depth });
    } else if (no === 2 && fits({ ...field, shape: "single" }, wireType)) {
      value = readValue(field.kind, value, { reader, depth });
    } else reader.skip(wireType, no, MAX_DEPTH - depth);
  }
  const entries = into[field.name];
  if (isFields(entries)) setEntry(entries, String(key), value);
}

function readItems(field: LightField, into: Fields, state: ValueState & { readonly wireType: WireType }): void {
  const { reader, wireType } = state;
  const list = into[field.name];
  if (!Array.isArray(list)) return;
  const { kind } = field;
  const packable = !(kind instanceof LightTable) && kind !== "s" && kind !== "y";
  if (!packable || wireType !== WireType.LengthDelimited) {
    list.push(readValue(kind, undefined, state));
    return;
  }
  const end = lengthEnd(reader);
  while (reader.pos < end) list.push(readScalar(kind, reader));
}

function readValue(kind: Kind, before: unknown, { reader, depth }: ValueState): unknown {
  if (!(kind instanceof LightTable)) return readScalar(kind, reader);
  const end = lengthEnd(reader);
  // A message that comes twice is merged, as protobuf wants it.
  const made = isFields(before) ? before : emptyOf(kind);
  readFields(kind, made, { reader, end, depth: depth + 1 });
  return made;
}

function readScalar(kind: Exclude<Kind, LightTable>, reader: BinaryReader): unknown {
  switch (kind) {
    case "s":
      return reader.string();
    case "y":
      return reader.bytes();
    case "b":
      return reader.bool();
    case "i":
      return reader.int32();
    case "u":
      return reader.uint32();
    case "l":
      return BigInt(reader.int64());
    case "v":
      return BigInt(reader.uint64());
    case "d":
      return reader.double();
    case "f":
      return reader.float();
  }
}
