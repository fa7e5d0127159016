/** The usual figures of a process and the daemon's version, under the names of Prometheus' Go client. */
import { readdir, readFile } from "node:fs/promises";
import type { MetricPage } from "./family.ts";
import type { Collector } from "./registry.ts";

const MICROS_PER_SECOND = 1e6;
const KIB = 1024;
/** What the client shows for a limit that is none: the largest uint64. */
const NO_LIMIT = 2 ** 64;
/** Decimals of the start time: the kernel counts it in hundredths. */
const TICKS_PER_SECOND = 100;

export function processCollector(version: { readonly version: string; readonly revision: string }): Collector {
  return async (page) => {
    const build = {
      name: "containerd_build_info_total",
      help: "containerd build information",
      kind: "counter",
    } as const;
    page.add(build, { ...version }, 1);
    const [stat, status, limits, netstat, descriptors, uptime] = await Promise.all([
      readFile("/proc/self/stat", "utf8"),
      readFile("/proc/self/status", "utf8"),
      readFile("/proc/self/limits", "utf8"),
      readFile("/proc/self/net/netstat", "utf8").catch(() => ""),
      readdir("/proc/self/fd"),
      readFile("/proc/stat", "utf8"),
    ]);
    putCpu(page);
    const gauge = gaugeOf(page);
    gauge("open_fds", "Number of open file descriptors.", descriptors.length);
    gauge("max_fds", "Maximum number of open file descriptors.", limitOf(limits, "Max open files"));
    gauge("virtual_memory_bytes", "Virtual memory size in bytes.", kibOf(status, "VmSize") * KIB);
    gauge(
      "virtual_memory_max_bytes",
      "Maximum amount of virtual memory available in bytes.",
      limitOf(limits, "Max address space"),
    );
    gauge("resident_memory_bytes", "Resident memory size in bytes.", kibOf(status, "VmRSS") * KIB);
    const started = startTime(stat, uptime);
    if (started !== undefined) {
      gauge("start_time_seconds", "Start time of the process since unix epoch in seconds.", started);
    }
    putNetwork(page, netstat);
  };
}

function gaugeOf(page: MetricPage): (name: string, help: string, value: number) => void {
  return (name, help, value) => page.add({ name: `process_${name}`, help, kind: "gauge" }, undefined, value);
}

function putCpu(page: MetricPage): void {
  const { userCPUTime, systemCPUTime } = process.resourceUsage();
  // In hundredths, as the kernel's own file has it.
  const seconds = Math.round(((userCPUTime + systemCPUTime) / MICROS_PER_SECOND) * TICKS_PER_SECOND) / TICKS_PER_SECOND;
  const help = "Total user and system CPU time spent in seconds.";
  page.add({ name: "process_cpu_seconds_total", help, kind: "counter" }, undefined, seconds);
}

/** Bytes over the network in the daemon's network namespace, which is what the peer shows under these names. */
function putNetwork(page: MetricPage, netstat: string): void {
  const lines = netstat.split("\n").filter((line) => line.startsWith("IpExt:"));
  const [names = [], values = []] = lines.map((line) => line.split(" ").slice(1));
  const at = (name: string): number | undefined => {
    const place = names.indexOf(name);
    return place < 0 ? undefined : Number(values[place]);
  };
  const put = (name: string, help: string, value: number | undefined): void => {
    if (value !== undefined) page.add({ name: `process_network_${name}`, help, kind: "counter" }, undefined, value);
  };
  put("receive_bytes_total", "Number of bytes received by the process over the network.", at("InOctets"));
  put("transmit_bytes_total", "Number of bytes sent by the process over the network.", at("OutOctets"));
}

/** Soft limit of a line of /proc/self/limits. */
function limitOf(limits: string, name: string): number {
  const soft = limits
    .split("\n")
    .find((line) => line.startsWith(`${name} `))
    ?.slice(name.length)
    .trim()
    .split(/\s+/)[0];
  return soft === undefined || soft === "unlimited" ? NO_LIMIT : Number(soft);
}

function kibOf(status: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0);
}

/** When the process was started, in seconds since 1970: boot time plus field 22 of its stat, which counts hundredths. */
function startTime(stat: string, systemStat: string): number | undefined {
  const boot = /^btime (\d+)/m.exec(systemStat)?.[1];
  const ticks = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  if (boot === undefined || ticks === undefined) return undefined;
  return Number(boot) + Number(ticks) / TICKS_PER_SECOND;
}
