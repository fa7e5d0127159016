/** Metrics of tasks: cgroup figures as the shim measured them. */
import { classified } from "@stevedore/base";
import type { AnyValue } from "@stevedore/core";
import { unpackAnything } from "@stevedore/wire/typeurl";

/** A metric message as a tree of plain values, without protobuf's own fields. */
export type MetricTree = string | number | bigint | boolean | MetricTree[] | { readonly [key: string]: MetricTree };

/** Type names of the two cgroup versions' metrics. */
const V1 = "io.containerd.cgroups.v1.Metrics";
const V2 = "io.containerd.cgroups.v2.Metrics";

/** @throws not-implemented for metrics of another kind than cgroups */
export async function decodeMetric(data: AnyValue): Promise<{ readonly version: 1 | 2; readonly tree: MetricTree }> {
  const unpacked = await unpackAnything(data);
  const name = unpacked.kind === "message" ? unpacked.schema.typeName : data.typeUrl;
  if (unpacked.kind !== "message" || (name !== V1 && name !== V2)) {
    throw classified("not-implemented", `cannot show metrics of type ${JSON.stringify(name)}: not implemented`);
  }
  return { version: name === V1 ? 1 : 2, tree: toTree(unpacked.message) };
}

function toTree(value: unknown): MetricTree {
  if (Array.isArray(value)) return value.map(toTree);
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value)
      .filter(([key, item]: [string, unknown]) => !key.startsWith("$") && item !== undefined)
      .map(([key, item]: [string, unknown]): [string, MetricTree] => [key, toTree(item)]);
    return Object.fromEntries(entries);
  }
  if (typeof value === "string" || typeof value === "number" || typeof value === "bigint") return value;
  return typeof value === "boolean" ? value : "";
}
