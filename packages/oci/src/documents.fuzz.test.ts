// Documents and names that come from images, clients and files: a value or a classified refusal, whatever the text.
import { expect, test } from "bun:test";
import { ClassifiedError, encodeText } from "@stevedore/base";
import { fuzzing, fuzzLimitMs } from "@stevedore/base/test-fuzz";
import * as fc from "fast-check";
import { parseDigest } from "./digest.ts";
import { parseDockerReference } from "./docker-reference.ts";
import { encodeJson, type JsonValue, parseJson } from "./json-lossless.ts";
import { childrenOf, parseImageConfig, parseManifestOrIndex } from "./manifest.ts";
import { formatPlatform, parsePlatform } from "./platform.ts";
import { parseReference } from "./reference.ts";
import { parseLinuxResources, parseProcess, parseSpec } from "./runtime-spec-parse.ts";

const TESTS = 3;
const damage = fc.array(
  fc.record({
    at: fc.nat(),
    cut: fc.nat(3),
    put: fc.string({ unit: fc.constantFrom(...Array.from('[]{}",:\\eE+-.019truefalsn \n\t\0\u00e9')), maxLength: 4 }),
  }),
  { maxLength: 4 },
);

function damaged(text: string, changes: readonly { at: number; cut: number; put: string }[]): string {
  return changes.reduce((before, { at, cut, put }) => {
    const place = before.length === 0 ? 0 : at % before.length;
    return before.slice(0, place) + put + before.slice(place + cut);
  }, text);
}

/** The value, or "refused" for a classified error; any other error is a finding. */
function outcome<T>(read: () => T): T | "refused" {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ClassifiedError)) throw error;
    return "refused";
  }
}

/** The same value as the engine's own parser has it. */
function plain(value: JsonValue): unknown {
  if (typeof value === "bigint") return Number(value);
  return value;
}

test(
  "N15 JSON is what the engine's parser reads, and comes out as it went in",
  () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 6 }), damage, (text, changes) => {
        const source = damaged(text, changes);
        const read = outcome(() => parseJson(source));
        if (read === "refused") return;
        // Whatever ours accepts is JSON, and writing it again loses nothing.
        JSON.parse(source);
        const again = encodeJson(read);
        expect(encodeJson(parseJson(again))).toBe(again);
        if (typeof read !== "object") expect(plain(read)).toEqual(JSON.parse(source));
      }),
      fuzzing(TESTS),
    );
  },
  fuzzLimitMs(),
);

const HEX = "0123456789abcdef".repeat(4);
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const INDEX = "application/vnd.oci.image.index.v1+json";
const descriptor = (mediaType: string): object => ({ mediaType, digest: `sha256:${HEX}`, size: 123 });
const DOCUMENTS: readonly string[] = [
  {
    schemaVersion: 2,
    mediaType: MANIFEST,
    config: descriptor("application/vnd.oci.image.config.v1+json"),
    layers: [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
    annotations: { a: "b" },
  },
  {
    schemaVersion: 2,
    mediaType: INDEX,
    manifests: [{ ...descriptor(MANIFEST), platform: { os: "linux", architecture: "arm64", variant: "v8" } }],
  },
  {
    architecture: "amd64",
    os: "linux",
    created: "2026-01-01T00:00:00Z",
    config: { Env: ["A=b"], Cmd: ["sh"], ExposedPorts: { "80/tcp": {} }, Volumes: { "/x": {} }, StopSignal: "SIGTERM" },
    rootfs: { type: "layers", diff_ids: [`sha256:${HEX}`] },
    history: [{ created_by: "x", empty_layer: true }],
  },
  {
    ociVersion: "1.1.0",
    process: {
      user: { uid: 0, gid: 0 },
      args: ["sh"],
      cwd: "/",
      rlimits: [{ type: "RLIMIT_NOFILE", hard: 18446744073709551615n.toString(), soft: 1 }],
      capabilities: { bounding: ["CAP_KILL"] },
    },
    root: { path: "rootfs" },
    mounts: [{ destination: "/proc", type: "proc", source: "proc", options: ["ro"] }],
    linux: { resources: { memory: { limit: 1 }, cpu: { shares: 2 }, devices: [{ allow: false, access: "rwm" }] } },
  },
].map((each) => JSON.stringify(each));

test(
  "N15 image documents and specs are read or refused with a class",
  () => {
    fc.assert(
      fc.property(fc.constantFrom(...DOCUMENTS), damage, (document, changes) => {
        const bytes = encodeText(damaged(document, changes));
        for (const mediaType of [MANIFEST, INDEX]) {
          const read = outcome(() => parseManifestOrIndex(bytes, mediaType));
          if (read !== "refused") for (const child of childrenOf(read)) expect(typeof child.digest).toBe("string");
        }
        for (const parse of [parseImageConfig, parseSpec, parseProcess, parseLinuxResources])
          outcome(() => parse(bytes));
      }),
      fuzzing(TESTS),
    );
  },
  fuzzLimitMs(),
);

const NAMES: readonly string[] = [
  "docker.io/library/busybox:1.36",
  `registry.example:5000/a/b-c__d.e@sha256:${HEX}`,
  `[::1]:5000/x:tag@sha256:${HEX}`,
  "linux/arm64/v8",
  "linux(5.10)/amd64",
  `sha512:${HEX}${HEX}`,
];

test(
  "C01 names are read or refused with a class, and what is read is written again as itself",
  () => {
    const change = fc.array(
      fc.record({
        at: fc.nat(),
        cut: fc.nat(3),
        put: fc.string({ unit: fc.constantFrom(...Array.from("azAZ09@:/._-[]() \0\u00e9")), maxLength: 4 }),
      }),
      { maxLength: 4 },
    );
    fc.assert(
      fc.property(fc.constantFrom(...NAMES), change, (name, changes) => {
        const text = damaged(name, changes);
        outcome(() => parseReference(text));
        outcome(() => parseDockerReference(text));
        outcome(() => parseDigest(text));
        const platform = outcome(() => parsePlatform(text));
        if (platform !== "refused")
          expect(formatPlatform(parsePlatform(formatPlatform(platform)))).toBe(formatPlatform(platform));
      }),
      fuzzing(TESTS),
    );
  },
  fuzzLimitMs(),
);
