import { decodeMetric, type MetricTree } from "@stevedore/sdk/metrics";
import type { AnyValue } from "@stevedore/sdk/types";

/** What `ctr tasks metrics` shows of cgroup v1, in its order. */
const V1_ROWS: readonly (readonly [name: string, path: readonly string[]])[] = [
  ["memory.usage_in_bytes", ["memory", "usage", "usage"]],
  ["memory.limit_in_bytes", ["memory", "usage", "limit"]],
  ["memory.stat.cache", ["memory", "totalCache"]],
  ["cpuacct.usage", ["cpu", "usage", "total"]],
  ["cpuacct.usage_percpu", ["cpu", "usage", "perCpu"]],
  ["pids.current", ["pids", "current"]],
  ["pids.limit", ["pids", "limit"]],
];

/** And of cgroup v2. */
const V2_ROWS: readonly (readonly [name: string, path: readonly string[]])[] = [
  ["pids.current", ["pids", "current"]],
  ["pids.limit", ["pids", "limit"]],
  ["cpu.usage_usec", ["cpu", "usageUsec"]],
  ["cpu.user_usec", ["cpu", "userUsec"]],
  ["cpu.system_usec", ["cpu", "systemUsec"]],
  ["cpu.nr_periods", ["cpu", "nrPeriods"]],
  ["cpu.nr_throttled", ["cpu", "nrThrottled"]],
  ["cpu.throttled_usec", ["cpu", "throttledUsec"]],
  ["memory.usage", ["memory", "usage"]],
  ["memory.usage_limit", ["memory", "usageLimit"]],
  ["memory.swap_usage", ["memory", "swapUsage"]],
  ["memory.swap_limit", ["memory", "swapLimit"]],
];

/** The rows of the table: a metric's name and its value; sections that were not measured are left out. */
export async function metricRows(data: AnyValue): Promise<readonly (readonly [name: string, value: string])[]> {
  const { version, tree } = await decodeMetric(data);
  const rows: [string, string][] = [];
  for (const [name, path] of version === 1 ? V1_ROWS : V2_ROWS) {
    const value = valueAt(tree, path);
    if (value !== undefined) rows.push([name, value]);
  }
  return rows;
}

function valueAt(tree: MetricTree, path: readonly string[]): string | undefined {
  let at: MetricTree | undefined = tree;
  for (const key of path) {
    if (typeof at !== "object" || Array.isArray(at)) return undefined;
    at = Object.entries(at).find(([name]) => name === key)?.[1];
  }
  if (at === undefined) return undefined;
  if (Array.isArray(at)) return `[${at.map(String).join(" ")}]`;
  return typeof at === "object" ? undefined : String(at);
}
