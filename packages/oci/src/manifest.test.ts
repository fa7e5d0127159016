import { describe, expect, test } from "bun:test";
import { encodeText } from "@stevedore/base";
import * as fc from "fast-check";
import { childGcLabel, isReservedLabel } from "./annotations.ts";
import { digestOf } from "./digest.ts";
import {
  childrenOf,
  configPlatform,
  parseImageConfig,
  parseIndex,
  parseManifest,
  parseManifestOrIndex,
} from "./manifest.ts";
import { diffCompression, isLayerType, isNonDistributable, MediaType } from "./media-types.ts";

const bytes = (document: unknown): Uint8Array => encodeText(JSON.stringify(document));
const descriptor = (mediaType: string, of: string) => ({ mediaType, digest: digestOf(of), size: of.length });

const CONFIG = descriptor(MediaType.ociConfig, "config");
const LAYER = descriptor(MediaType.ociLayerGzip, "layer");

describe("parseManifest()", () => {
  test("reads a manifest, and null like nothing", () => {
    const manifest = parseManifest(
      bytes({
        schemaVersion: 2,
        mediaType: MediaType.ociManifest,
        config: { ...CONFIG, annotations: null, unknown: 1 },
        layers: [
          LAYER,
          { ...LAYER, urls: ["https://a"], platform: { os: "linux", architecture: "amd64", "os.version": "1" } },
        ],
        annotations: { a: "b" },
      }),
      MediaType.ociManifest,
    );
    expect(manifest).toEqual({
      schemaVersion: 2,
      mediaType: MediaType.ociManifest,
      annotations: { a: "b" },
      config: CONFIG,
      layers: [
        LAYER,
        { ...LAYER, urls: ["https://a"], platform: { os: "linux", architecture: "amd64", osVersion: "1" } },
      ],
    });
    expect(childrenOf(manifest).map((d) => d.digest)).toEqual([CONFIG.digest, LAYER.digest, LAYER.digest]);
  });

  const ambiguous: readonly [name: string, document: object, mediaType: string, message: string][] = [
    [
      "a manifest with manifests",
      { config: CONFIG, layers: [], manifests: [] },
      MediaType.ociManifest,
      `media-type: expected manifest but found index (${MediaType.ociManifest})`,
    ],
    [
      "a manifest that calls itself an index",
      { mediaType: MediaType.ociIndex, config: CONFIG },
      MediaType.dockerManifest,
      "expected manifest but found index",
    ],
    ["an index with layers", { manifests: [], layers: null }, MediaType.ociIndex, "expected index but found manifest"],
    [
      "an index with config",
      { manifests: [], config: CONFIG },
      MediaType.dockerManifestList,
      "expected index but found",
    ],
    [
      "an index that calls itself a manifest",
      { mediaType: MediaType.dockerManifest, manifests: [] },
      MediaType.ociIndex,
      "expected index but found manifest",
    ],
    ["schema 1", { fsLayers: [], config: CONFIG }, MediaType.dockerManifest, "media-type: schema 1 not supported"],
    [
      "another spelling of a telling field",
      { config: CONFIG, Manifests: [] },
      MediaType.ociManifest,
      "ambiguous field",
    ],
  ];
  for (const [name, document, mediaType, message] of ambiguous) {
    test(`refuses ${name} (CVE-2021-41190)`, () => {
      expect(() => parseManifestOrIndex(bytes(document), mediaType)).toThrow(message);
    });
  }

  const malformed: readonly [name: string, document: unknown, message: string][] = [
    ["no config", { layers: [] }, "manifest: config: found nothing, want an object"],
    ["a negative size", { config: { ...CONFIG, size: -1 } }, "config.size: found -1, want an integer from 0 to 2^53"],
    ["a size beyond 2^53", { config: { ...CONFIG, size: 2 ** 60 } }, "config.size: found"],
    ["a layer that is a string", { config: CONFIG, layers: ["x"] }, 'layers[0]: found "x", want an object'],
    ["a list", [], "found no json object"],
    ["too many layers", { config: CONFIG, layers: Array.from({ length: 10_001 }, () => LAYER) }, "at most 10000"],
  ];
  for (const [name, document, message] of malformed) {
    test(`refuses ${name}`, () => {
      expect(() => parseManifest(bytes(document), MediaType.ociManifest)).toThrow(message);
    });
  }

  test("refuses other media types as not found", () => {
    expect(() => parseManifestOrIndex(bytes({}), MediaType.ociConfig)).toThrow("unexpected media type");
  });

  test("refuses more than 8 MiB", () => {
    expect(() => parseManifest(new Uint8Array((8 << 20) + 1), MediaType.ociManifest)).toThrow("exceeds the limit");
  });

  test("any document is read or refused with a class", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(MediaType.ociManifest, MediaType.ociIndex), (document, mediaType) => {
        try {
          parseManifestOrIndex(bytes(document), mediaType);
        } catch (error) {
          expect(error).toMatchObject({ errorClass: "invalid-argument" });
        }
      }),
      { numRuns: 500 },
    );
  });
});

test("parseIndex() keeps order and platforms", () => {
  const index = parseIndex(
    bytes({
      schemaVersion: 2,
      manifests: [
        { ...descriptor(MediaType.ociManifest, "a"), platform: { os: "linux", architecture: "arm64", variant: "v8" } },
        { ...descriptor(MediaType.ociManifest, "b"), artifactType: "x/y", data: "e30=" },
      ],
    }),
    MediaType.ociIndex,
  );
  expect(index.manifests.map((d) => d.platform?.variant)).toEqual(["v8", undefined]);
  expect(index.manifests[1]).toMatchObject({ artifactType: "x/y", data: "e30=" });
});

test("parseImageConfig() reads what Docker and OCI builders write", () => {
  const config = parseImageConfig(
    bytes({
      architecture: "arm64",
      os: "linux",
      variant: "v8",
      config: { Env: ["A=b"], Cmd: ["sh"], Entrypoint: null, Labels: { a: "b" }, Volumes: { "/v": {} }, OnBuild: null },
      rootfs: { type: "layers", diff_ids: [digestOf("a")] },
      history: [{ created_by: "x", empty_layer: true }],
    }),
  );
  expect(config.config?.Cmd).toEqual(["sh"]);
  expect(config.config?.Entrypoint).toBeUndefined();
  expect(config.rootfs.diff_ids).toEqual([digestOf("a")]);
  expect(configPlatform(config)).toEqual({ os: "linux", architecture: "arm64", variant: "v8" });
  expect(parseImageConfig(bytes({}))).toMatchObject({ os: "", rootfs: { diff_ids: [] } });
  expect(() => parseImageConfig(bytes({ config: { Env: "A=b" } }))).toThrow("config.Env");
});

describe("media types", () => {
  const layers: readonly [mediaType: string, compression: string][] = [
    [MediaType.ociLayer, "none"],
    [MediaType.ociLayerGzip, "gzip"],
    [MediaType.ociLayerZstd, "zstd"],
    [MediaType.dockerLayer, "unknown"],
    [MediaType.dockerLayerGzip, "gzip"],
    [MediaType.dockerLayerZstd, "zstd"],
    [MediaType.dockerLayerForeignGzip, "gzip"],
    [MediaType.ociLayerNonDistributableGzip, "gzip"],
    [`${MediaType.ociLayerGzip}+encrypted`, "gzip"],
    [`${MediaType.dockerLayerGzip}+encrypted`, "none"],
  ];
  for (const [mediaType, compression] of layers) {
    test(`${mediaType} is a layer, ${compression}`, () => {
      expect(isLayerType(mediaType)).toBe(true);
      expect<string>(diffCompression(mediaType)).toBe(compression);
    });
  }

  test("what is no layer has no compression", () => {
    expect(() => diffCompression(MediaType.ociConfig)).toThrow("unrecognised mediatype");
    expect(isLayerType(MediaType.ociConfig)).toBe(false);
    expect(isNonDistributable(MediaType.dockerLayerForeign)).toBe(true);
  });
});

test("childGcLabel() names the label that keeps a child", () => {
  expect(childGcLabel(MediaType.ociConfig)).toBe("containerd.io/gc.ref.content.config");
  expect(childGcLabel(MediaType.dockerManifest)).toBe("containerd.io/gc.ref.content.m.");
  expect(childGcLabel(MediaType.ociLayerGzip)).toBe("containerd.io/gc.ref.content.l.");
  expect(childGcLabel("text/plain")).toBe("containerd.io/gc.ref.content.");
  expect(isReservedLabel("containerd.io/gc.root")).toBe(true);
  expect(isReservedLabel("maintainer")).toBe(false);
});
