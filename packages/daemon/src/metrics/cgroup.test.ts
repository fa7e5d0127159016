import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { metricsV1, metricsV2 } from "@stevedore/os/cgroup-parse";
import { addCgroupV1, addCgroupV2, type ContainerLabels } from "./cgroup.ts";
import { LabelSet, MetricPage } from "./family.ts";
import { textOf } from "./text.ts";

const short = new LabelSet({ container_id: "c", namespace: "n" });
const labels: ContainerLabels = { short, full: short.with({ runtime: "r" }) };

/** Names and types that containerd 2.3.4 shows on a machine with cgroup v1, without huge pages and block devices. */
const PEER = readFileSync(join(import.meta.dir, "../../../../tests/coverage/surface-metrics.txt"), "utf8")
  .split("\n")
  .filter((line) => line.startsWith("container_"));

const files =
  (table: Readonly<Record<string, string>>) =>
  (_controller: string, file: string): string | undefined =>
    table[file];

test("cgroup v1: exactly the peer's families, under its labels", () => {
  const page = new MetricPage();
  const read = files({ "cpuacct.usage_percpu": "5 6", "memory.oom_control": "oom_kill 3", "memory.stat": "cache 7" });
  addCgroupV1(page, labels, metricsV1({ read, pageSizes: [], deviceName: () => "" }));
  const families = page.families();
  const shown = families.map(({ meta }) => `${meta.name} ${meta.kind}`);
  // The peer has the count too, and shows it only for runtimes it has no shim for any more.
  expect(shown.filter((line) => line !== "container_memory_oom_total gauge")).toEqual(PEER);
  const text = textOf(families);
  for (const line of [
    'container_memory_cache_bytes{container_id="c",namespace="n",runtime="r"} 7',
    'container_per_cpu_nanoseconds{container_id="c",cpu="1",namespace="n",runtime="r"} 6',
    'container_memory_oom_total{container_id="c",namespace="n"} 3',
    "# HELP container_memory_cache_bytes The cache amount used",
    "# HELP container_memory_total_dirty_bytes The total_dirty amount",
    "# HELP container_memory_usage_usage_bytes The memory usage",
  ]) {
    expect(text).toContain(`${line}\n`);
  }
});

test("cgroup v1: huge pages and block devices", () => {
  const page = new MetricPage();
  const read = files({
    "hugetlb.2MB.usage_in_bytes": "4096",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 9\nTotal 9",
    "blkio.throttle.io_serviced_recursive": "8:0 Write 2\nTotal 2",
  });
  addCgroupV1(page, labels, metricsV1({ read, pageSizes: ["2MB"], deviceName: () => "/dev/sda" }));
  const text = textOf(page.families());
  const its = 'container_id="c",';
  for (const line of [
    `container_hugetlb_usage_bytes{${its}namespace="n",page="2MB",runtime="r"} 4096`,
    `container_blkio_io_service_bytes_recursive_bytes{${its}device="/dev/sda",major="8",minor="0",namespace="n",op="Read",runtime="r"} 9`,
    `container_blkio_io_serviced_recursive_total{${its}device="/dev/sda",major="8",minor="0",namespace="n",op="Write",runtime="r"} 2`,
  ]) {
    expect(text).toContain(`${line}\n`);
  }
});

test("cgroup v2: the peer's families by source (containerd 2.3.4, core/metrics/cgroups/v2)", () => {
  const page = new MetricPage();
  const read = files({
    "pids.current": "2",
    "cpu.stat": "usage_usec 100\nnr_throttled 2",
    "memory.stat": "anon 1\nworkingset_refault_anon 3\nworkingset_refault_file 4",
    "memory.current": "4096",
    "memory.max": "max",
    "memory.events": "oom 4\noom_kill 5",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4",
  });
  addCgroupV2(page, labels, metricsV2({ read, pageSizes: ["2MB"] }));
  const families = page.families();
  expect(families).toHaveLength(48);
  const text = textOf(families);
  const its = '{container_id="c",namespace="n",runtime="r"}';
  for (const line of [
    `container_pids_current${its} 2`,
    `container_cpu_usage_usec_microseconds${its} 100`,
    `container_cpu_nr_throttled_total${its} 2`,
    `container_memory_usage_bytes${its} 4096`,
    `container_memory_usage_limit_bytes${its} 1.8446744073709552e+19`,
    `container_memory_anon_bytes${its} 1`,
    `container_memory_workingset_refault_bytes${its} 7`,
    `container_memory_oom_total${its} 4`,
    'container_io_wios_total{container_id="c",major="8",minor="0",namespace="n",runtime="r"} 4',
    "# HELP container_memory_swap_limit_bytes Current swap usage limit (cgroup v2)",
    "# HELP container_memory_file_mapped_bytes The file_mapped amount",
  ]) {
    expect(text).toContain(`${line}\n`);
  }
});
