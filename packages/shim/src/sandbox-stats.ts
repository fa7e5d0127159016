import { isErrorClass } from "@stevedore/base/errors";
import { type Cgroup, readCgroupMetrics } from "@stevedore/os/cgroup";
import { NO_LIMIT } from "@stevedore/os/cgroup-parse";
import type { AnyBytes } from "./options.ts";
import { encodeStats } from "./stats.ts";

/**
 * What several containers use together, as one metrics message. Counters are added, limits too (one without a limit makes
 * a sum without); lists per device are left out, since a sum of them would name no cgroup. Undefined without a cgroup.
 */
export async function sumOfStats(
  containers: readonly { readonly cgroup: Cgroup | undefined }[],
): Promise<AnyBytes | undefined> {
  let version: 1 | 2 | undefined;
  let sum: unknown;
  for (const { cgroup } of containers) {
    if (cgroup === undefined) continue;
    let read: ReturnType<typeof readCgroupMetrics>;
    try {
      read = readCgroupMetrics(cgroup);
    } catch (error) {
      if (isErrorClass(error, "not-found")) continue; // it has just ended
      throw error;
    }
    version = read.version;
    sum = add(sum, read.metrics);
  }
  return version === undefined || !isRecord(sum) ? undefined : encodeStats(version, sum);
}

/** The sum of two readings of the same shape; what is in one only is taken from there. */
export function add(a: unknown, b: unknown): unknown {
  if (a === undefined) return withoutDevices(b);
  if (b === undefined) return a;
  if (typeof a === "bigint" && typeof b === "bigint") return a + b > NO_LIMIT ? NO_LIMIT : a + b;
  if (Array.isArray(a) && Array.isArray(b)) {
    const [longer, shorter]: [unknown[], unknown[]] = a.length < b.length ? [b, a] : [a, b];
    return withoutDevices(longer.map((value, at) => add(value, shorter[at])));
  }
  if (isRecord(a) && isRecord(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return Object.fromEntries([...keys].map((key) => [key, add(a[key], b[key])]));
  }
  return a;
}

function withoutDevices(value: unknown): unknown {
  if (Array.isArray(value)) return value.filter((one) => typeof one === "bigint");
  if (!isRecord(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, withoutDevices(one)]));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
