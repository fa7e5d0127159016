import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type DescEnum, type DescField, type DescFile, type DescMessage, ScalarType } from "@bufbuild/protobuf";

/** Generated files are found by listing their folder, so no import statement can name them. */
const load = createRequire(import.meta.url);

const WIRE = join(import.meta.dir, "..");

/** What a package has, as lines of the fact files, each made of its owner and itself. */
type Lines = Set<string>;

function factLines(text: string): { readonly name: string; readonly lines: Lines } {
  const [first = "", ...rest] = text.split("\n").filter((line) => line !== "");
  const name = first.replace("package ", "");
  const lines: Lines = new Set();
  let owner = "";
  for (const line of rest) {
    if (!line.startsWith(" ")) {
      owner = line;
      lines.add(owner);
    } else lines.add(`${owner}: ${line.trim()}`);
  }
  return { name, lines };
}

function local(name: string, pkg: string): string {
  return name.startsWith(`${pkg}.`) ? name.slice(pkg.length + 1) : name;
}

function typeOf(field: DescField, pkg: string): string {
  const scalar = (type: ScalarType): string => ScalarType[type]?.toLowerCase() ?? "?";
  switch (field.fieldKind) {
    case "scalar":
      return scalar(field.scalar);
    case "message":
      return local(field.message.typeName, pkg);
    case "enum":
      return local(field.enum.typeName, pkg);
    case "list": {
      const element =
        field.listKind === "scalar"
          ? scalar(field.scalar)
          : local(field.listKind === "message" ? field.message.typeName : field.enum.typeName, pkg);
      return `repeated ${element}`;
    }
    case "map": {
      const value =
        field.mapKind === "scalar"
          ? scalar(field.scalar)
          : local(field.mapKind === "message" ? field.message.typeName : field.enum.typeName, pkg);
      return `map<${scalar(field.mapKey)},${value}>`;
    }
  }
}

function fieldLine(field: DescField, pkg: string): string {
  const marks = [
    field.proto.proto3Optional ? " optional" : "",
    field.deprecated ? " deprecated" : "",
    field.oneof === undefined ? "" : ` oneof ${field.oneof.name}`,
  ].join("");
  return `${field.number} ${field.name} ${typeOf(field, pkg)}${marks}`;
}

function addMessage(message: DescMessage, pkg: string, lines: Lines): void {
  const name = message.typeName.slice(pkg.length + 1);
  lines.add(`message ${name}`);
  for (const field of message.fields) lines.add(`message ${name}: ${fieldLine(field, pkg)}`);
  for (const { start } of message.proto.reservedRange) lines.add(`message ${name}: reserved ${start}`);
  for (const nested of message.nestedMessages) addMessage(nested, pkg, lines);
  for (const nested of message.nestedEnums) addEnum(nested, pkg, lines);
}

function addEnum(desc: DescEnum, pkg: string, lines: Lines): void {
  const name = desc.typeName.slice(pkg.length + 1);
  lines.add(`enum ${name}`);
  for (const value of desc.values) lines.add(`enum ${name}: ${value.number} ${value.name}`);
}

function addFile(file: DescFile, pkg: string, lines: Lines): void {
  for (const message of file.messages) addMessage(message, pkg, lines);
  for (const each of file.enums) addEnum(each, pkg, lines);
  for (const service of file.services) {
    lines.add(`service ${service.name}`);
    for (const method of service.methods) {
      const clientStreams = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
      const serverStreams = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
      const input = `${clientStreams ? "stream " : ""}${local(method.input.typeName, pkg)}`;
      const output = `${serverStreams ? "stream " : ""}${local(method.output.typeName, pkg)}`;
      lines.add(`service ${service.name}: ${method.name} ${input} -> ${output}`);
    }
  }
}

async function generatedPackages(): Promise<Map<string, Lines>> {
  const packages = new Map<string, Lines>();
  for (const path of readdirSync(join(WIRE, "gen"), { recursive: true, encoding: "utf8" })) {
    if (!path.endsWith("_pb.ts") || path.startsWith("light/")) continue;
    const module: unknown = load(join(WIRE, "gen", path));
    if (typeof module !== "object" || module === null) throw new Error(`${path} is no module`);
    const file = Object.values(module).find(isFile);
    if (file === undefined) throw new Error(`${path} describes no file`);
    const pkg = file.proto.package;
    const lines = packages.get(pkg) ?? new Set();
    addFile(file, pkg, lines);
    packages.set(pkg, lines);
  }
  return packages;
}

function isFile(value: unknown): value is DescFile {
  return typeof value === "object" && value !== null && Reflect.get(value, "kind") === "file";
}

const facts = readdirSync(join(WIRE, "testdata/facts")).map((file) =>
  factLines(readFileSync(join(WIRE, "testdata/facts", file), "utf8")),
);
const generated = await generatedPackages();

describe("generated descriptors", () => {
  for (const { name, lines } of facts) {
    test(`${name} is exactly what the facts say`, () => {
      const ours = generated.get(name) ?? new Set();
      expect([...lines.difference(ours)]).toEqual([]);
      expect([...ours.difference(lines)]).toEqual([]);
    });
  }

  test("there is no package beyond the facts but our own", () => {
    const peers = [...generated.keys()].filter((name) => !name.startsWith("stevedore."));
    expect(peers.sort()).toEqual(facts.map((f) => f.name).sort());
  });
});
