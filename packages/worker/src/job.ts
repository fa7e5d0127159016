import { classified } from "@stevedore/base/errors";
import type { ApplyJob, CompareJob, JobMount, LayerJob, LayerLimits } from "@stevedore/oci/layer-job";

/** Reading a job from its JSON: every field is checked, nothing unknown is used. */

type Fields = Readonly<Record<string, unknown>>;

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function bad(what: string): Error {
  return classified("invalid-argument", `read layer job: ${what}`);
}

function text(fields: Fields, key: string): string {
  const value = fields[key];
  if (typeof value !== "string") throw bad(`${key} is no string`);
  return value;
}

function strings(fields: Fields, key: string): readonly string[] {
  const value = fields[key];
  if (!Array.isArray(value) || !value.every((item): item is string => typeof item === "string")) {
    throw bad(`${key} is no list of strings`);
  }
  return value;
}

function number(fields: Fields, key: string): number {
  const value = fields[key];
  if (typeof value !== "number" || !Number.isSafeInteger(value)) throw bad(`${key} is no integer`);
  return value;
}

function oneOf<const Words extends readonly string[]>(fields: Fields, key: string, words: Words): Words[number] {
  const value = fields[key];
  const found = words.find((word) => word === value);
  if (found === undefined) throw bad(`${key} is none of ${words.join(", ")}`);
  return found;
}

function mounts(fields: Fields, key: string): JobMount[] {
  const value = fields[key];
  if (!Array.isArray(value)) throw bad(`${key} is no list`);
  const list: readonly unknown[] = value;
  return list.map((item) => {
    if (!isFields(item)) throw bad(`${key} holds no mount`);
    const options = item["options"];
    if (!Array.isArray(options) || !options.every((option): option is string => typeof option === "string")) {
      throw bad(`${key} holds a mount without options`);
    }
    const target = item["target"];
    return {
      type: text(item, "type"),
      source: text(item, "source"),
      options,
      ...(typeof target === "string" && target !== "" ? { target } : {}),
    };
  });
}

function limits(fields: Fields): LayerLimits {
  const value = fields["limits"];
  if (!isFields(value)) throw bad("limits are missing");
  return {
    maxBytes: number(value, "maxBytes"),
    maxRatio: number(value, "maxRatio"),
    ratioFloor: number(value, "ratioFloor"),
    maxEntries: number(value, "maxEntries"),
  };
}

/** @throws invalid-argument */
export function parseJob(json: string): LayerJob {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw classified("invalid-argument", "read layer job: not JSON", { cause: error });
  }
  if (!isFields(value)) throw bad("no object");
  const kind = oneOf(value, "kind", ["apply", "compare"]);
  if (kind === "apply") {
    return {
      kind,
      mounts: mounts(value, "mounts"),
      compression: oneOf(value, "compression", ["none", "detect"]),
      gunzip: strings(value, "gunzip"),
      digest: text(value, "digest"),
      size: number(value, "size"),
      mountPoint: text(value, "mountPoint"),
      parent: number(value, "parent"),
      syncFs: value["syncFs"] === true,
      limits: limits(value),
    } satisfies ApplyJob;
  }
  const epoch = value["sourceDateEpoch"];
  return {
    kind,
    lower: mounts(value, "lower"),
    upper: mounts(value, "upper"),
    mountPoint: text(value, "mountPoint"),
    parent: number(value, "parent"),
    compression: oneOf(value, "compression", ["none", "gzip", "zstd"]),
    ...(typeof epoch === "number" ? { sourceDateEpoch: epoch } : {}),
  } satisfies CompareJob;
}
