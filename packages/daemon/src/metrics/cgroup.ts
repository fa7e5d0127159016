/** The figures of containers' cgroups under the names of containerd, for both versions of cgroups. */
import { type DescMessage, fromBinary } from "@bufbuild/protobuf";
import type { AnyValue } from "@stevedore/core";
import {
  type MemoryEntry,
  type Metrics as MetricsV1,
  MetricsSchema as MetricsV1Schema,
} from "@stevedore/wire/gen/io/containerd/cgroups/v1/metrics_pb";
import {
  type Metrics as MetricsV2,
  MetricsSchema as MetricsV2Schema,
} from "@stevedore/wire/gen/io/containerd/cgroups/v2/metrics_pb";
import { typeNameOf } from "@stevedore/wire/typeurl";
import type { MetricLabels, MetricPage } from "./registry.ts";

type Put = (
  name: string,
  help: string,
  of: { readonly value: number | bigint; readonly labels?: MetricLabels },
) => void;

/** Adds what `data` says of a container. A value of another type adds nothing: runtimes may send their own. */
export function addCgroupMetrics(page: MetricPage, labels: MetricLabels, data: AnyValue): void {
  const put: Put = (name, help, of) =>
    page.add({ name: `container_${name}`, help, kind: "gauge" }, { ...labels, ...of.labels }, of.value);
  switch (typeNameOf(data.typeUrl)) {
    case MetricsV1Schema.typeName:
      putV1(put, fromBinary(MetricsV1Schema, data.value));
      break;
    case MetricsV2Schema.typeName:
      putV2(put, fromBinary(MetricsV2Schema, data.value));
      break;
    default:
  }
}

/** Every uint64 field of a message by its name in the proto file. */
function figures(schema: DescMessage, message: object): [name: string, value: bigint][] {
  return schema.fields.flatMap((field): [string, bigint][] => {
    const value: unknown = Reflect.get(message, field.localName);
    return typeof value === "bigint" ? [[field.name, value]] : [];
  });
}

function fieldSchema(schema: DescMessage, name: string): DescMessage | undefined {
  const field = schema.field[name];
  return field?.fieldKind === "message" ? field.message : undefined;
}

function putV1(put: Put, metrics: MetricsV1): void {
  const { pids, cpu, memory, blkio, hugetlb } = metrics;
  if (pids !== undefined) {
    put("pids_current", "The current number of pids", { value: pids.current });
    put("pids_limit", "The limit to the number of pids allowed", { value: pids.limit });
  }
  if (cpu?.usage !== undefined) {
    put("cpu_total_nanoseconds", "The total cpu time", { value: cpu.usage.total });
    put("cpu_kernel_nanoseconds", "The total kernel cpu time", { value: cpu.usage.kernel });
    put("cpu_user_nanoseconds", "The total user cpu time", { value: cpu.usage.user });
    for (const [at, value] of cpu.usage.perCpu.entries()) {
      put("per_cpu_nanoseconds", "The total cpu time per cpu", { value, labels: { cpu: String(at) } });
    }
  }
  if (cpu?.throttling !== undefined) {
    const { periods, throttledPeriods, throttledTime } = cpu.throttling;
    put("cpu_throttle_periods_total", "The total cpu throttle periods", { value: periods });
    put("cpu_throttled_periods_total", "The total cpu throttled periods", { value: throttledPeriods });
    put("cpu_throttled_time_nanoseconds", "The total cpu throttled time", { value: throttledTime });
  }
  const memorySchema = fieldSchema(MetricsV1Schema, "memory");
  if (memory !== undefined && memorySchema !== undefined) {
    for (const [field, value] of figures(memorySchema, memory)) {
      const name = field
        .replace("pg_pg_", "pgpg")
        .replace(/pg_(maj_)?fault/, (_all, major) => `pg${major ? "maj" : ""}fault`);
      put(`memory_${name.replace("_swap_", "_memsw_")}_bytes`, `The ${name} amount`, { value });
    }
    putEntry(put, "usage", memory.usage);
    putEntry(put, "swap", memory.swap);
    putEntry(put, "kernel", memory.kernel);
    putEntry(put, "kerneltcp", memory.kernelTcp);
  }
  for (const { pagesize, usage, max, failcnt } of hugetlb) {
    const labels = { page: pagesize };
    put("hugetlb_usage_bytes", "The hugetlb usage", { value: usage, labels });
    put("hugetlb_max_bytes", "The hugetlb maximum usage", { value: max, labels });
    put("hugetlb_failcnt_total", "The hugetlb failcnt", { value: failcnt, labels });
  }
  const blkioSchema = fieldSchema(MetricsV1Schema, "blkio");
  for (const field of blkio === undefined ? [] : (blkioSchema?.fields ?? [])) {
    const unit = field.name === "io_service_bytes_recursive" ? "bytes" : "total";
    for (const { op, device, major, minor, value } of blkioEntries(blkio, field.localName)) {
      const labels = { op, device, major: String(major), minor: String(minor) };
      put(`blkio_${field.name}_${unit}`, `The blkio ${field.name.replaceAll("_", " ")}`, { value, labels });
    }
  }
}

function blkioEntries(blkio: MetricsV1["blkio"], name: string) {
  switch (name) {
    case "ioServiceBytesRecursive":
      return blkio?.ioServiceBytesRecursive ?? [];
    case "ioServicedRecursive":
      return blkio?.ioServicedRecursive ?? [];
    case "ioQueuedRecursive":
      return blkio?.ioQueuedRecursive ?? [];
    case "ioServiceTimeRecursive":
      return blkio?.ioServiceTimeRecursive ?? [];
    case "ioWaitTimeRecursive":
      return blkio?.ioWaitTimeRecursive ?? [];
    case "ioMergedRecursive":
      return blkio?.ioMergedRecursive ?? [];
    case "ioTimeRecursive":
      return blkio?.ioTimeRecursive ?? [];
    case "sectorsRecursive":
      return blkio?.sectorsRecursive ?? [];
    default:
      return [];
  }
}

function putEntry(put: Put, name: string, entry: MemoryEntry | undefined): void {
  if (entry === undefined) return;
  put(`memory_${name}_usage_bytes`, `The ${name} usage`, { value: entry.usage });
  put(`memory_${name}_limit_bytes`, `The ${name} limit`, { value: entry.limit });
  put(`memory_${name}_max_bytes`, `The ${name} maximum usage`, { value: entry.max });
  put(`memory_${name}_failcnt_total`, `The ${name} failcnt`, { value: entry.failcnt });
}

/** Memory fields that containerd shows for cgroup v2 are all but these. */
const HIDDEN_V2: ReadonlySet<string> = new Set(["max_usage", "swap_max_usage"]);

function putV2(put: Put, metrics: MetricsV2): void {
  const { pids, cpu, memory, memoryEvents, io, hugetlb } = metrics;
  if (pids !== undefined) {
    put("pids_current", "The current number of pids (cgroup v2)", { value: pids.current });
    put("pids_limit", "The limit to the number of pids allowed (cgroup v2)", { value: pids.limit });
  }
  if (cpu !== undefined) {
    put("cpu_usage_usec_microseconds", "Total cpu usage (cgroup v2)", { value: cpu.usageUsec });
    put("cpu_user_usec_microseconds", "Current cpu usage in user space (cgroup v2)", { value: cpu.userUsec });
    put("cpu_system_usec_microseconds", "Current cpu usage in kernel space (cgroup v2)", { value: cpu.systemUsec });
    put("cpu_nr_periods_total", "Current cpu number of periods", { value: cpu.nrPeriods });
    put("cpu_nr_throttled_total", "Total number of times tasks have been throttled", { value: cpu.nrThrottled });
    put("cpu_throttled_usec_microseconds", "Total time for which tasks have been throttled", {
      value: cpu.throttledUsec,
    });
  }
  const memorySchema = fieldSchema(MetricsV2Schema, "memory");
  if (memory !== undefined && memorySchema !== undefined) {
    for (const [field, value] of figures(memorySchema, memory)) {
      if (!HIDDEN_V2.has(field)) put(`memory_${field}_bytes`, `The ${field} amount`, { value });
    }
  }
  if (memoryEvents !== undefined) {
    const help = "The number of times a container has received an oom event";
    put("memory_oom_total", help, { value: memoryEvents.oom });
  }
  for (const { major, minor, rbytes, wbytes, rios, wios } of io?.usage ?? []) {
    const labels = { major: String(major), minor: String(minor) };
    put("io_rbytes_bytes", "IO bytes read", { value: rbytes, labels });
    put("io_wbytes_bytes", "IO bytes written", { value: wbytes, labels });
    put("io_rios_total", "Number of read IOs", { value: rios, labels });
    put("io_wios_total", "Number of write IOs", { value: wios, labels });
  }
  for (const { pagesize, current, max } of hugetlb) {
    put("hugetlb_usage_bytes", "The hugetlb usage", { value: current, labels: { page: pagesize } });
    put("hugetlb_max_bytes", "The hugetlb maximum usage", { value: max, labels: { page: pagesize } });
  }
}
