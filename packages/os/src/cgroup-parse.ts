import { classified } from "@stevedore/base/errors";

/**
 * The kernel's cgroup files as data. Pure. Field names are those of containerd's metrics messages
 * (io.containerd.cgroups.v1 and .v2), so that a shim hands the result straight to its encoder; all counters are uint64.
 */

/** "max" in v2 files; also what the metrics carry for "no limit". */
export const NO_LIMIT: bigint = 2n ** 64n - 1n;

/** A file with one number, or "max". Empty or missing text is 0, as the peer reports it. */
export function parseCounter(text: string | undefined): bigint {
  const trimmed = text?.trim() ?? "";
  if (trimmed === "") return 0n;
  if (trimmed === "max") return NO_LIMIT;
  if (!/^-?\d+$/.test(trimmed))
    throw classified("data-loss", `parse cgroup file: ${JSON.stringify(trimmed)} is no number`);
  // memory.limit_in_bytes may say -1 for "none".
  return BigInt.asUintN(64, BigInt(trimmed));
}

/** Lines of `key value`. Lines that are not are skipped: kernels add and reshape them. */
export function parseKeyed(text: string | undefined): Map<string, bigint> {
  const values = new Map<string, bigint>();
  for (const line of (text ?? "").split("\n")) {
    const match = /^(\S+) (\d+|max)$/.exec(line.trim());
    if (match !== null) values.set(match[1] ?? "", parseCounter(match[2]));
  }
  return values;
}

/** /proc/<pid>/cgroup: the path in the unified hierarchy, if any, and in each v1 one by controller. */
export interface ProcessCgroups {
  readonly unified: string | undefined;
  /** `memory` → `/a/b`; named hierarchies as `name=systemd`. */
  readonly controllers: ReadonlyMap<string, string>;
}

export function parseProcessCgroups(text: string): ProcessCgroups {
  const controllers = new Map<string, string>();
  let unified: string | undefined;
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const first = line.indexOf(":");
    const second = line.indexOf(":", first + 1);
    if (first < 0 || second < 0)
      throw classified("data-loss", `parse cgroups of a process: malformed line ${JSON.stringify(line)}`);
    const names = line.slice(first + 1, second);
    const path = line.slice(second + 1);
    if (names === "") unified = path;
    else for (const name of names.split(",")) controllers.set(name, path);
  }
  return { unified, controllers };
}

export interface BlkioEntry {
  /** "" where the kernel gives one value per device. */
  readonly op: string;
  readonly device: string;
  readonly major: bigint;
  readonly minor: bigint;
  readonly value: bigint;
}

/** A v1 blkio file: lines `8:0 Read 123`, `8:0 123`; the closing `Total` line is no device's and left out. */
export function parseBlkio(
  text: string | undefined,
  deviceName: (major: number, minor: number) => string,
): BlkioEntry[] {
  const entries: BlkioEntry[] = [];
  for (const line of (text ?? "").split("\n")) {
    const match = /^(\d+):(\d+)(?: (\S+))? (\d+)$/.exec(line.trim());
    if (match === null) continue;
    const [, major = "0", minor = "0", op = "", value = "0"] = match;
    const device = deviceName(Number(major), Number(minor));
    entries.push({ op, device, major: BigInt(major), minor: BigInt(minor), value: BigInt(value) });
  }
  return entries;
}

export interface IoEntry {
  readonly major: bigint;
  readonly minor: bigint;
  readonly rbytes: bigint;
  readonly wbytes: bigint;
  readonly rios: bigint;
  readonly wios: bigint;
}

/** v2 io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. */
export function parseIoStat(text: string | undefined): IoEntry[] {
  const entries: IoEntry[] = [];
  for (const line of (text ?? "").split("\n")) {
    const [device = "", ...pairs] = line.trim().split(" ");
    const match = /^(\d+):(\d+)$/.exec(device);
    if (match === null) continue;
    const values = new Map(pairs.map((pair) => pair.split("=")).map(([key = "", value]) => [key, parseCounter(value)]));
    const get = (key: string): bigint => values.get(key) ?? 0n;
    const [, major = "0", minor = "0"] = match;
    entries.push({
      major: BigInt(major),
      minor: BigInt(minor),
      rbytes: get("rbytes"),
      wbytes: get("wbytes"),
      rios: get("rios"),
      wios: get("wios"),
    });
  }
  return entries;
}

export interface PressureLine {
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
  /** Microseconds. */
  readonly total: bigint;
}

export interface Pressure {
  readonly some: PressureLine;
  readonly full: PressureLine;
}

const NO_PRESSURE: PressureLine = { avg10: 0, avg60: 0, avg300: 0, total: 0n };

/** A v2 *.pressure file, or undefined where the kernel keeps none. */
export function parsePressure(text: string | undefined): Pressure | undefined {
  if (text === undefined || text.trim() === "") return undefined;
  const lines = new Map<string, PressureLine>();
  for (const line of text.split("\n")) {
    const match = /^(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)$/.exec(line.trim());
    if (match === null) continue;
    const [, kind = "", avg10, avg60, avg300, total = "0"] = match;
    lines.set(kind, { avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300), total: BigInt(total) });
  }
  return { some: lines.get("some") ?? NO_PRESSURE, full: lines.get("full") ?? NO_PRESSURE };
}

export interface RdmaEntry {
  readonly device: string;
  readonly hcaHandles: number;
  readonly hcaObjects: number;
}

const RDMA_MAX = 0xffff_ffff;

/** rdma.current and rdma.max: `mlx4_0 hca_handle=2 hca_object=max`. */
export function parseRdma(text: string | undefined): RdmaEntry[] {
  const entries: RdmaEntry[] = [];
  const value = (found: string | undefined): number =>
    found === undefined ? 0 : found === "max" ? RDMA_MAX : Number(found);
  for (const line of (text ?? "").split("\n")) {
    const device = /^(\S+) .*hca_/.exec(line.trim())?.[1];
    if (device === undefined) continue;
    entries.push({
      device,
      hcaHandles: value(/hca_handle=(\d+|max)/.exec(line)?.[1]),
      hcaObjects: value(/hca_object=(\d+|max)/.exec(line)?.[1]),
    });
  }
  return entries;
}

export interface MemoryEntry {
  readonly limit: bigint;
  readonly usage: bigint;
  readonly max: bigint;
  readonly failcnt: bigint;
}

/** What io.containerd.cgroups.v1.Metrics carries. Times in nanoseconds, sizes in bytes. */
export interface MetricsV1 {
  readonly hugetlb: readonly { usage: bigint; max: bigint; failcnt: bigint; pagesize: string }[];
  readonly pids: { current: bigint; limit: bigint };
  readonly cpu: {
    usage: { total: bigint; kernel: bigint; user: bigint; perCpu: readonly bigint[] };
    throttling: { periods: bigint; throttledPeriods: bigint; throttledTime: bigint };
  };
  readonly memory: Readonly<Record<MemoryStatV1Name, bigint>> & {
    readonly usage: MemoryEntry;
    readonly swap: MemoryEntry;
    readonly kernel: MemoryEntry;
    readonly kernelTcp: MemoryEntry;
  };
  readonly blkio: Readonly<Record<BlkioName, readonly BlkioEntry[]>>;
  readonly rdma: { current: readonly RdmaEntry[]; limit: readonly RdmaEntry[] };
  readonly memoryOomControl: { oomKillDisable: bigint; underOom: bigint; oomKill: bigint };
}

/** Message field → key of memory.stat. */
export const MEMORY_V1 = {
  cache: "cache",
  rss: "rss",
  rssHuge: "rss_huge",
  mappedFile: "mapped_file",
  dirty: "dirty",
  writeback: "writeback",
  pgPgIn: "pgpgin",
  pgPgOut: "pgpgout",
  pgFault: "pgfault",
  pgMajFault: "pgmajfault",
  inactiveAnon: "inactive_anon",
  activeAnon: "active_anon",
  inactiveFile: "inactive_file",
  activeFile: "active_file",
  unevictable: "unevictable",
  hierarchicalMemoryLimit: "hierarchical_memory_limit",
  hierarchicalSwapLimit: "hierarchical_memsw_limit",
  totalCache: "total_cache",
  totalRss: "total_rss",
  totalRssHuge: "total_rss_huge",
  totalMappedFile: "total_mapped_file",
  totalDirty: "total_dirty",
  totalWriteback: "total_writeback",
  totalPgPgIn: "total_pgpgin",
  totalPgPgOut: "total_pgpgout",
  totalPgFault: "total_pgfault",
  totalPgMajFault: "total_pgmajfault",
  totalInactiveAnon: "total_inactive_anon",
  totalActiveAnon: "total_active_anon",
  totalInactiveFile: "total_inactive_file",
  totalActiveFile: "total_active_file",
  totalUnevictable: "total_unevictable",
} as const;

export type MemoryStatV1Name = keyof typeof MEMORY_V1;

const BLKIO_V1 = {
  ioServiceBytesRecursive: "io_service_bytes_recursive",
  ioServicedRecursive: "io_serviced_recursive",
  ioQueuedRecursive: "io_queued_recursive",
  ioServiceTimeRecursive: "io_service_time_recursive",
  ioWaitTimeRecursive: "io_wait_time_recursive",
  ioMergedRecursive: "io_merged_recursive",
  ioTimeRecursive: "time_recursive",
  sectorsRecursive: "sectors_recursive",
} as const;

export type BlkioName = keyof typeof BLKIO_V1;

/** Reads a file of a controller's folder: its text, or undefined when it is not there. */
export type CgroupReader = (controller: string, file: string) => string | undefined;

/** USER_HZ, in which cpuacct.stat counts; fixed at 100 in the kernel's user interface. */
const NANOSECONDS_PER_TICK = 10_000_000n;

/** Page sizes with a hugetlb controller, as the files are named (`2MB`). */
export type PageSizes = readonly string[];

export interface MetricsSources {
  readonly read: CgroupReader;
  readonly pageSizes: PageSizes;
  readonly deviceName: (major: number, minor: number) => string;
}

function pick<Name extends string>(
  table: Readonly<Record<Name, string>>,
  values: ReadonlyMap<string, bigint>,
): Record<Name, bigint> {
  const entries = Object.entries<string>(table).map(([field, key]) => [field, values.get(key) ?? 0n] as const);
  return Object.fromEntries(entries) as Record<Name, bigint>;
}

/** Assembles the v1 metrics from whatever files are there. */
export function metricsV1({ read, pageSizes, deviceName }: MetricsSources): MetricsV1 {
  const ticks = parseKeyed(read("cpuacct", "cpuacct.stat"));
  const throttling = parseKeyed(read("cpu", "cpu.stat"));
  const oom = parseKeyed(read("memory", "memory.oom_control"));
  const pidsMax = read("pids", "pids.max")?.trim();
  const entry = (prefix: string): MemoryEntry => ({
    usage: parseCounter(read("memory", `${prefix}.usage_in_bytes`)),
    max: parseCounter(read("memory", `${prefix}.max_usage_in_bytes`)),
    failcnt: parseCounter(read("memory", `${prefix}.failcnt`)),
    limit: parseCounter(read("memory", `${prefix}.limit_in_bytes`)),
  });
  return {
    hugetlb: pageSizes
      .filter((size) => read("hugetlb", `hugetlb.${size}.usage_in_bytes`) !== undefined)
      .map((pagesize) => ({
        usage: parseCounter(read("hugetlb", `hugetlb.${pagesize}.usage_in_bytes`)),
        max: parseCounter(read("hugetlb", `hugetlb.${pagesize}.max_usage_in_bytes`)),
        failcnt: parseCounter(read("hugetlb", `hugetlb.${pagesize}.failcnt`)),
        pagesize,
      })),
    pids: {
      current: parseCounter(read("pids", "pids.current")),
      // The peer's v1 metrics say 0 for "max".
      limit: pidsMax === "max" ? 0n : parseCounter(pidsMax),
    },
    cpu: {
      usage: {
        total: parseCounter(read("cpuacct", "cpuacct.usage")),
        kernel: (ticks.get("system") ?? 0n) * NANOSECONDS_PER_TICK,
        user: (ticks.get("user") ?? 0n) * NANOSECONDS_PER_TICK,
        perCpu: (read("cpuacct", "cpuacct.usage_percpu") ?? "")
          .split(/\s+/)
          .filter((word) => word !== "")
          .map((word) => BigInt(word)),
      },
      throttling: {
        periods: throttling.get("nr_periods") ?? 0n,
        throttledPeriods: throttling.get("nr_throttled") ?? 0n,
        throttledTime: throttling.get("throttled_time") ?? 0n,
      },
    },
    memory: {
      ...pick(MEMORY_V1, parseKeyed(read("memory", "memory.stat"))),
      usage: entry("memory"),
      swap: entry("memory.memsw"),
      kernel: entry("memory.kmem"),
      kernelTcp: entry("memory.kmem.tcp"),
    },
    blkio: blkioV1(read, deviceName),
    rdma: { current: parseRdma(read("rdma", "rdma.current")), limit: parseRdma(read("rdma", "rdma.max")) },
    memoryOomControl: {
      oomKillDisable: oom.get("oom_kill_disable") ?? 0n,
      underOom: oom.get("under_oom") ?? 0n,
      oomKill: oom.get("oom_kill") ?? 0n,
    },
  };
}

/** Whichever I/O scheduler keeps the counters: CFQ's plain names, then BFQ's if it has counted, then the throttle layer's. */
function blkioV1(read: CgroupReader, deviceName: MetricsSources["deviceName"]): MetricsV1["blkio"] {
  const bfq = read("blkio", "blkio.bfq.io_serviced_recursive");
  const prefix =
    read("blkio", "blkio.io_serviced_recursive") !== undefined
      ? "blkio"
      : parseBlkio(bfq, deviceName).length > 0
        ? "blkio.bfq"
        : "blkio.throttle";
  const entries = Object.entries<string>(BLKIO_V1).map(([field, file]) => {
    const text = read("blkio", `${prefix}.${file}`) ?? read("blkio", `${prefix}.${file.replace(/_recursive$/, "")}`);
    return [field, parseBlkio(text, deviceName)] as const;
  });
  return Object.fromEntries(entries) as Record<BlkioName, BlkioEntry[]>;
}

/** What io.containerd.cgroups.v2.Metrics carries. Times in microseconds, sizes in bytes. */
export interface MetricsV2 {
  readonly pids: { current: bigint; limit: bigint };
  readonly cpu: Readonly<Record<CpuStatV2Name, bigint>> & { readonly psi?: Pressure };
  readonly memory: Readonly<Record<MemoryStatV2Name, bigint>> & {
    readonly usage: bigint;
    readonly usageLimit: bigint;
    readonly swapUsage: bigint;
    readonly swapLimit: bigint;
    readonly maxUsage: bigint;
    readonly swapMaxUsage: bigint;
    readonly psi?: Pressure;
  };
  readonly rdma: { current: readonly RdmaEntry[]; limit: readonly RdmaEntry[] };
  readonly io: { readonly usage: readonly IoEntry[]; readonly psi?: Pressure };
  readonly hugetlb: readonly { current: bigint; max: bigint; pagesize: string; failcnt: bigint }[];
  readonly memoryEvents: Readonly<Record<MemoryEventName, bigint>>;
}

const CPU_V2 = {
  usageUsec: "usage_usec",
  userUsec: "user_usec",
  systemUsec: "system_usec",
  nrPeriods: "nr_periods",
  nrThrottled: "nr_throttled",
  throttledUsec: "throttled_usec",
  nrBursts: "nr_bursts",
  burstUsec: "burst_usec",
} as const;

export type CpuStatV2Name = keyof typeof CPU_V2;

/** Message field → key of memory.stat. */
export const MEMORY_V2 = {
  anon: "anon",
  file: "file",
  kernelStack: "kernel_stack",
  slab: "slab",
  sock: "sock",
  shmem: "shmem",
  fileMapped: "file_mapped",
  fileDirty: "file_dirty",
  fileWriteback: "file_writeback",
  anonThp: "anon_thp",
  inactiveAnon: "inactive_anon",
  activeAnon: "active_anon",
  inactiveFile: "inactive_file",
  activeFile: "active_file",
  unevictable: "unevictable",
  slabReclaimable: "slab_reclaimable",
  slabUnreclaimable: "slab_unreclaimable",
  pgfault: "pgfault",
  pgmajfault: "pgmajfault",
  workingsetRefault: "workingset_refault",
  workingsetActivate: "workingset_activate",
  workingsetNodereclaim: "workingset_nodereclaim",
  pgrefill: "pgrefill",
  pgscan: "pgscan",
  pgsteal: "pgsteal",
  pgactivate: "pgactivate",
  pgdeactivate: "pgdeactivate",
  pglazyfree: "pglazyfree",
  pglazyfreed: "pglazyfreed",
  thpFaultAlloc: "thp_fault_alloc",
  thpCollapseAlloc: "thp_collapse_alloc",
} as const;

export type MemoryStatV2Name = keyof typeof MEMORY_V2;

const EVENTS_V2 = {
  low: "low",
  high: "high",
  max: "max",
  oom: "oom",
  oomKill: "oom_kill",
  oomGroupKill: "oom_group_kill",
} as const;

export type MemoryEventName = keyof typeof EVENTS_V2;

/** Assembles the v2 metrics; every file is in the one folder, so the reader's controller is ignored. */
export function metricsV2({ read, pageSizes }: Omit<MetricsSources, "deviceName">): MetricsV2 {
  const file = (name: string): string | undefined => read("", name);
  const number = (name: string): bigint => parseCounter(file(name));
  const psi = (name: string): { psi?: Pressure } => {
    const pressure = parsePressure(file(name));
    return pressure === undefined ? {} : { psi: pressure };
  };
  return {
    pids: { current: number("pids.current"), limit: number("pids.max") },
    cpu: { ...pick(CPU_V2, parseKeyed(file("cpu.stat"))), ...psi("cpu.pressure") },
    memory: {
      ...pick(MEMORY_V2, withSums(parseKeyed(file("memory.stat")))),
      usage: number("memory.current"),
      usageLimit: number("memory.max"),
      swapUsage: number("memory.swap.current"),
      swapLimit: number("memory.swap.max"),
      maxUsage: number("memory.peak"),
      swapMaxUsage: number("memory.swap.peak"),
      ...psi("memory.pressure"),
    },
    rdma: { current: parseRdma(file("rdma.current")), limit: parseRdma(file("rdma.max")) },
    io: { usage: parseIoStat(file("io.stat")), ...psi("io.pressure") },
    hugetlb: pageSizes
      .filter((size) => file(`hugetlb.${size}.current`) !== undefined)
      .map((pagesize) => ({
        current: number(`hugetlb.${pagesize}.current`),
        max: number(`hugetlb.${pagesize}.max`),
        pagesize,
        failcnt: parseKeyed(file(`hugetlb.${pagesize}.events`)).get("max") ?? 0n,
      })),
    memoryEvents: pick(EVENTS_V2, parseKeyed(file("memory.events"))),
  };
}

/** From Linux 5.9 on the working set counters come split by kind; the messages have their sums. */
function withSums(values: Map<string, bigint>): Map<string, bigint> {
  for (const name of ["workingset_refault", "workingset_activate"]) {
    if (values.has(name)) continue;
    values.set(name, (values.get(`${name}_anon`) ?? 0n) + (values.get(`${name}_file`) ?? 0n));
  }
  return values;
}
