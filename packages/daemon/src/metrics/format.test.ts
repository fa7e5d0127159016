import { expect, test } from "bun:test";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Histogram, MetricPage } from "./family.ts";
import { chooseFormat, encodingOf } from "./negotiate.ts";
import { protobufOf } from "./protobuf.ts";
import { goNumber, textOf } from "./text.ts";

test("numbers are written as Go's shortest form", () => {
  const cases: [number, string][] = [
    [0, "0"],
    [20_000, "20000"],
    [999_999, "999999"],
    [1_000_000, "1e+06"],
    [40_652_800, "4.06528e+07"],
    [2 ** 64, "1.8446744073709552e+19"],
    [1.5202e-5, "1.5202e-05"],
    [0.0001, "0.0001"],
    [0.04, "0.04"],
    [-2.5, "-2.5"],
    [1e100, "1e+100"],
    [Number.POSITIVE_INFINITY, "+Inf"],
    [Number.NaN, "NaN"],
  ];
  for (const [value, text] of cases) expect(goNumber(value)).toBe(text);
});

function somePage(): MetricPage {
  const page = new MetricPage();
  const histogram = new Histogram([0.5, 1]);
  for (const value of [0.25, 0.5, 0.75, 8]) histogram.observe(value);
  page.add({ name: "z_seconds", help: "h", kind: "histogram" }, { b: "2", a: "1" }, histogram.value());
  page.add({ name: "a_total", help: "two\nlines\\", kind: "counter" }, { x: 'q"\\\n' }, 3n);
  page.add({ name: "m", help: "m", kind: "gauge" }, undefined, 1.5);
  return page;
}

test("the text format: families and labels by name, escapes, cumulative buckets", () => {
  expect(textOf(somePage().families())).toBe(`# HELP a_total two\\nlines\\\\
# TYPE a_total counter
a_total{x="q\\"\\\\\\n"} 3
# HELP m m
# TYPE m gauge
m 1.5
# HELP z_seconds h
# TYPE z_seconds histogram
z_seconds_bucket{a="1",b="2",le="0.5"} 2
z_seconds_bucket{a="1",b="2",le="1"} 3
z_seconds_bucket{a="1",b="2",le="+Inf"} 4
z_seconds_sum{a="1",b="2"} 9.5
z_seconds_count{a="1",b="2"} 4
`);
});

test("the protobuf format: each family behind its length", () => {
  const reader = new BinaryReader(protobufOf(somePage().families()));
  const names: string[] = [];
  while (reader.pos < reader.len) {
    const family = new BinaryReader(reader.bytes());
    const types: number[] = [];
    while (family.pos < family.len) {
      const [field, wireType] = family.tag();
      if (field === 1) names.push(family.string());
      else if (field === 3) types.push(family.int32());
      else family.skip(wireType);
    }
    expect(types).toHaveLength(1);
  }
  expect(names).toEqual(["a_total", "m", "z_seconds"]);
});

test("the format is what the client likes best of what there is", () => {
  const text = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
  const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
  const kinds: [string, string][] = [
    ["", text],
    ["*/*", text],
    ["application/openmetrics-text;version=1.0.0", text],
    [
      "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;escaping=allow-utf-8;q=0.4",
      text.replace("underscores", "allow-utf-8"),
    ],
    [`text/plain;version=0.0.4;q=0.3,${protobuf};q=0.7`, `${protobuf.replaceAll(";", "; ")}; escaping=underscores`],
    [`${protobuf};q=0.1,text/plain;q=0.7`, text],
    [protobuf.replace("delimited", "text"), text],
  ];
  for (const [accept, contentType] of kinds) expect(chooseFormat(accept).contentType).toBe(contentType);
});

test("the encoding is the best rated of gzip and zstd", () => {
  const cases: [string, "identity" | "gzip" | "zstd"][] = [
    ["", "identity"],
    ["br", "identity"],
    ["gzip", "gzip"],
    ["gzip;q=0", "identity"],
    ["gzip, zstd", "gzip"],
    ["gzip;q=0.5, zstd", "zstd"],
  ];
  for (const [accept, encoding] of cases) expect(encodingOf(accept)).toBe(encoding);
});
