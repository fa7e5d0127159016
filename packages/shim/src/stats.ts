import { type Cgroup, readCgroupMetrics } from "@stevedore/os/cgroup";
import { type DescMessage, encodeMessage, makeMessage } from "@stevedore/wire/codec";
import type { AnyBytes } from "./options.ts";

/** The resource use of a cgroup, as the metrics message of its version. @throws not-found when it is gone */
export async function readStats(cgroup: Cgroup): Promise<AnyBytes> {
  const { version, metrics } = readCgroupMetrics(cgroup);
  return encodeStats(version, { ...metrics });
}

/** Counters as the metrics message of a cgroup version. They have the message's field names. */
export async function encodeStats(version: 1 | 2, metrics: Readonly<Record<string, unknown>>): Promise<AnyBytes> {
  if (version === 2) {
    const { MetricsSchema } = await import("@stevedore/wire/gen/light/io/containerd/cgroups/v2/metrics_pb");
    return encode(MetricsSchema, { ...metrics });
  }
  const { MetricsSchema } = await import("@stevedore/wire/gen/light/io/containerd/cgroups/v1/metrics_pb");
  return encode(MetricsSchema, { ...metrics });
}

// Only the counters' lists are read-only, which the message's type does not know.
function encode(schema: DescMessage, fields: Record<string, unknown>): AnyBytes {
  return { typeUrl: schema.typeName, value: encodeMessage(schema, makeMessage(schema, fields)) };
}
