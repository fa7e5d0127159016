/** What the daemon shows of itself and of its containers. */
import { readdir, readFile } from "node:fs/promises";
import type { ContainerStore, NamespaceStore, RuntimeTasks } from "@stevedore/core";
import { addCgroupMetrics } from "./cgroup.ts";
import type { Collector } from "./registry.ts";

/** The figures of every running container, in every namespace. */
export function containerCollector(of: {
  readonly namespaces: NamespaceStore;
  readonly containers: ContainerStore;
  readonly tasks: RuntimeTasks;
}): Collector {
  return async (page, signal) => {
    for (const { name: namespace } of await of.namespaces.list({ signal })) {
      const context = { signal, namespace };
      const metrics = await of.tasks.metrics(context, []);
      if (metrics.length === 0) continue;
      const known = await of.containers.list(context, []);
      const runtimes = new Map(known.map(({ id, runtime }) => [id, runtime.name]));
      for (const { id, data } of metrics) {
        addCgroupMetrics(page, { container_id: id, namespace, runtime: runtimes.get(id) ?? "" }, data);
      }
    }
  };
}

const MS_PER_SECOND = 1000;
const MICROS_PER_SECOND = 1e6;

/** The version, and the usual figures of a process. */
export function daemonCollector(version: { readonly version: string; readonly revision: string }): Collector {
  return async (page) => {
    const help = "containerd build information";
    page.add({ name: "containerd_build_info_total", help, kind: "counter" }, { ...version }, 1);
    const gauge = (name: string, what: string, value: number): void =>
      page.add({ name: `process_${name}`, help: what, kind: "gauge" }, {}, value);
    const { userCPUTime, systemCPUTime } = process.resourceUsage();
    const seconds = (userCPUTime + systemCPUTime) / MICROS_PER_SECOND;
    const cpu = {
      name: "process_cpu_seconds_total",
      help: "Total user and system CPU time spent in seconds.",
    } as const;
    page.add({ ...cpu, kind: "counter" }, {}, seconds);
    gauge("resident_memory_bytes", "Resident memory size in bytes.", process.memoryUsage.rss());
    gauge("open_fds", "Number of open file descriptors.", (await readdir("/proc/self/fd")).length);
    const started = Date.now() / MS_PER_SECOND - process.uptime();
    gauge(
      "start_time_seconds",
      "Start time of the process since unix epoch in seconds.",
      Math.round(started * 100) / 100,
    );
    const limits = await readFile("/proc/self/limits", "utf8");
    const max = /^Max open files +(\d+)/m.exec(limits)?.[1];
    if (max !== undefined) gauge("max_fds", "Maximum number of open file descriptors.", Number(max));
  };
}
