/**
 * The figures of a container's cgroup under the names of containerd 2.3.4, for both versions of cgroups. What a table has
 * is what the peer shows: fields of the messages that it leaves out are left out.
 */
import { MEMORY_V1, MEMORY_V2, type MetricsV1, type MetricsV2 } from "@stevedore/os/cgroup";
import type { LabelSet, MetricMeta, MetricPage } from "./family.ts";

/** A message of the shim, or what was read here: the same fields, some of which a shim may leave out. */
export type Figures<T> = T extends bigint
  ? T
  : T extends readonly (infer E)[]
    ? readonly Figures<E>[]
    : T extends object
      ? { readonly [K in keyof T]?: Figures<T[K]> | undefined }
      : T;

export type FiguresV1 = Figures<Pick<MetricsV1, "pids" | "cpu" | "memory" | "blkio" | "hugetlb" | "memoryOomControl">>;
export type FiguresV2 = Figures<Pick<MetricsV2, "pids" | "cpu" | "memory" | "io" | "memoryEvents">>;

export interface ContainerLabels {
  /** `container_id`, `namespace`, `runtime`. */
  readonly full: LabelSet;
  /** Without the runtime, as the peer shows out-of-memory counts. */
  readonly short: LabelSet;
}

type Row = readonly [field: string, name: string, help: string];

const metas = new Map<string, MetricMeta>();

/** All of these are gauges with the peer, counters or not. */
function gauge(name: string, help: string): MetricMeta {
  let meta = metas.get(name);
  if (meta?.help !== help) {
    meta = { name: `container_${name}`, help, kind: "gauge" };
    metas.set(name, meta);
  }
  return meta;
}

function putRows(page: MetricPage, labels: LabelSet, rows: readonly Row[], from: object): void {
  for (const [field, name, help] of rows) {
    const value: unknown = Reflect.get(from, field);
    if (typeof value === "bigint") page.add(gauge(name, help), labels, value);
  }
}

/** `memory_<name>_bytes` with the peer's usual help. */
function memoryRows(names: Readonly<Record<string, string>>, help: (name: string) => string): Row[] {
  return Object.entries(names).map(([field, name]) => [field, `memory_${name}_bytes`, help(name)]);
}

/** Fields of the v1 memory message whose help says "amount used". */
const USED_V1 = ["cache", "rss", "rss_huge", "mapped_file"];

const MEMORY_ROWS_V1: readonly Row[] = memoryRows(
  MEMORY_V1,
  (name) => `The ${name} amount${USED_V1.includes(name.replace(/^total_/, "")) ? " used" : ""}`,
);

/** Field of the v1 memory message, name of its figures, and what their help calls it. */
const ENTRIES_V1 = [
  ["usage", "usage", "memory"],
  ["swap", "swap", "swap"],
  ["kernel", "kernel", "kernel"],
  ["kernelTcp", "kerneltcp", "kerneltcp"],
] as const;

const CPU_V1: readonly Row[] = [
  ["total", "cpu_total_nanoseconds", "The total cpu time"],
  ["kernel", "cpu_kernel_nanoseconds", "The total kernel cpu time"],
  ["user", "cpu_user_nanoseconds", "The total user cpu time"],
];

const THROTTLING_V1: readonly Row[] = [
  ["periods", "cpu_throttle_periods_total", "The total cpu throttle periods"],
  ["throttledPeriods", "cpu_throttled_periods_total", "The total cpu throttled periods"],
  ["throttledTime", "cpu_throttled_time_nanoseconds", "The total cpu throttled time"],
];

const BLKIO_V1: Readonly<Record<keyof MetricsV1["blkio"], readonly [name: string, unit: string]>> = {
  ioMergedRecursive: ["io_merged_recursive", "total"],
  ioQueuedRecursive: ["io_queued_recursive", "total"],
  ioServiceBytesRecursive: ["io_service_bytes_recursive", "bytes"],
  ioServiceTimeRecursive: ["io_service_time_recursive", "total"],
  ioServicedRecursive: ["io_serviced_recursive", "total"],
  ioTimeRecursive: ["io_time_recursive", "total"],
  // The peer has no figure for the time of waiting.
  ioWaitTimeRecursive: ["", ""],
  sectorsRecursive: ["sectors_recursive", "total"],
};

const OOM_HELP = "The number of times a container has received an oom event";

/** Adds a container's figures of cgroup v1. */
export function addCgroupV1(page: MetricPage, { full, short }: ContainerLabels, figures: FiguresV1): void {
  const { pids, cpu, memory, blkio, hugetlb = [], memoryOomControl } = figures;
  if (pids !== undefined) {
    putRows(page, full, [["current", "pids_current", "The current number of pids"]], pids);
    putRows(page, full, [["limit", "pids_limit", "The limit to the number of pids allowed"]], pids);
  }
  if (cpu?.usage !== undefined) {
    putRows(page, full, CPU_V1, cpu.usage);
    for (const [at, value] of (cpu.usage.perCpu ?? []).entries()) {
      page.add(gauge("per_cpu_nanoseconds", "The total cpu time per cpu"), full.with({ cpu: String(at) }), value);
    }
  }
  if (cpu?.throttling !== undefined) putRows(page, full, THROTTLING_V1, cpu.throttling);
  if (memory !== undefined) {
    putRows(page, full, MEMORY_ROWS_V1, memory);
    for (const [field, name, called] of ENTRIES_V1) {
      const entry = memory[field];
      if (entry === undefined) continue;
      const rows: readonly Row[] = [
        ["failcnt", `memory_${name}_failcnt_total`, `The ${name} failcnt`],
        ["limit", `memory_${name}_limit_bytes`, `The ${called} limit`],
        ["max", `memory_${name}_max_bytes`, `The ${called} maximum usage`],
        ["usage", `memory_${name}_usage_bytes`, `The ${called} usage`],
      ];
      putRows(page, full, rows, entry);
    }
  }
  if (memoryOomControl?.oomKill !== undefined) {
    page.add(gauge("memory_oom_total", OOM_HELP), short, memoryOomControl.oomKill);
  }
  for (const { pagesize = "", usage, max, failcnt } of hugetlb) {
    const labels = full.with({ page: pagesize });
    const rows: readonly Row[] = [
      ["usage", "hugetlb_usage_bytes", "The hugetlb usage"],
      ["failcnt", "hugetlb_failcnt_total", "The hugetlb failcnt"],
      ["max", "hugetlb_max_bytes", "The hugetlb maximum usage"],
    ];
    putRows(page, labels, rows, { usage, max, failcnt });
  }
  if (blkio !== undefined) addBlkio(page, full, blkio);
}

function addBlkio(page: MetricPage, full: LabelSet, blkio: NonNullable<FiguresV1["blkio"]>): void {
  for (const field of ENTRIES_BLKIO) {
    const [name, unit] = BLKIO_V1[field];
    if (name === "") continue;
    const meta = gauge(`blkio_${name}_${unit}`, `The blkio ${name.replaceAll("_", " ")}`);
    for (const { op = "", device = "", major, minor, value = 0n } of blkio[field] ?? []) {
      page.add(meta, full.with({ op, device, major: String(major), minor: String(minor) }), value);
    }
  }
}

const ENTRIES_BLKIO = [
  "ioMergedRecursive",
  "ioQueuedRecursive",
  "ioServiceBytesRecursive",
  "ioServiceTimeRecursive",
  "ioServicedRecursive",
  "ioTimeRecursive",
  "sectorsRecursive",
] as const satisfies readonly (keyof MetricsV1["blkio"])[];

const PIDS_V2: readonly Row[] = [
  ["current", "pids_current", "The current number of pids (cgroup v2)"],
  ["limit", "pids_limit", "The limit to the number of pids allowed (cgroup v2)"],
];

const CPU_V2: readonly Row[] = [
  ["usageUsec", "cpu_usage_usec_microseconds", "Total cpu usage (cgroup v2)"],
  ["userUsec", "cpu_user_usec_microseconds", "Current cpu usage in user space (cgroup v2)"],
  ["systemUsec", "cpu_system_usec_microseconds", "Current cpu usage in kernel space (cgroup v2)"],
  ["nrPeriods", "cpu_nr_periods_total", "Current cpu number of periods (only if controller is enabled)"],
  [
    "nrThrottled",
    "cpu_nr_throttled_total",
    "Total number of times tasks have been throttled (only if controller is enabled)",
  ],
  [
    "throttledUsec",
    "cpu_throttled_usec_microseconds",
    "Total time duration for which tasks have been throttled. (only if controller is enabled)",
  ],
];

const MEMORY_ROWS_V2: readonly Row[] = [
  ["usage", "memory_usage_bytes", "Current memory usage (cgroup v2)"],
  ["usageLimit", "memory_usage_limit_bytes", "Current memory usage limit (cgroup v2)"],
  ["swapUsage", "memory_swap_usage_bytes", "Current swap usage (cgroup v2)"],
  ["swapLimit", "memory_swap_limit_bytes", "Current swap usage limit (cgroup v2)"],
  ...memoryRows(MEMORY_V2, (name) => `The ${name} amount`),
];

/** Adds a container's figures of cgroup v2. */
export function addCgroupV2(page: MetricPage, { full }: ContainerLabels, figures: FiguresV2): void {
  const { pids, cpu, memory, io, memoryEvents } = figures;
  if (pids !== undefined) putRows(page, full, PIDS_V2, pids);
  if (cpu !== undefined) putRows(page, full, CPU_V2, cpu);
  if (memory !== undefined) putRows(page, full, MEMORY_ROWS_V2, memory);
  // With v2 the peer has its count among the others, with their labels.
  if (memoryEvents?.oom !== undefined) page.add(gauge("memory_oom_total", OOM_HELP), full, memoryEvents.oom);
  for (const { major, minor, rbytes, wbytes, rios, wios } of io?.usage ?? []) {
    const labels = full.with({ major: String(major), minor: String(minor) });
    const rows: readonly Row[] = [
      ["rbytes", "io_rbytes_bytes", "IO bytes read"],
      ["wbytes", "io_wbytes_bytes", "IO bytes written"],
      ["rios", "io_rios_total", "Number of read IOs"],
      ["wios", "io_wios_total", "Number of write IOs"],
    ];
    putRows(page, labels, rows, { rbytes, wbytes, rios, wios });
  }
}
