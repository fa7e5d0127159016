import { expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import {
  addProcess,
  cgroupAt,
  cgroupExists,
  cgroupProcesses,
  createCgroup,
  deleteCgroup,
  freezerState,
  killCgroup,
  OomWatch,
  processCgroup,
  readCgroupMetrics,
  setFreezer,
} from "./cgroup.ts";
import {
  metricsV1,
  metricsV2,
  NO_LIMIT,
  parseBlkio,
  parseCounter,
  parseIoStat,
  parsePressure,
  parseProcessCgroups,
  parseRdma,
} from "./cgroup-parse.ts";
import { processStat } from "./process.ts";
import { spawnChild } from "./spawn.ts";

const files = (table: Readonly<Record<string, string>>) => (_: string, file: string) => table[file];
const noName = (): string => "";

test("parseProcessCgroups() reads hybrid and unified files", () => {
  const hybrid = parseProcessCgroups("9:name=systemd:/\n4:memory:/a:b/c\n2:cpu,cpuacct:/x\n0::/u\n");
  expect(hybrid.unified).toBe("/u");
  expect([...hybrid.controllers]).toEqual([
    ["name=systemd", "/"],
    ["memory", "/a:b/c"],
    ["cpu", "/x"],
    ["cpuacct", "/x"],
  ]);
  expect(parseProcessCgroups("0::/system.slice/x.service\n").controllers.size).toBe(0);
  expect(() => parseProcessCgroups("garbage")).toThrow("malformed");
});

test("counters, devices, pressure, rdma", () => {
  expect([parseCounter("12\n"), parseCounter("max"), parseCounter("-1"), parseCounter(undefined)]).toEqual([
    12n,
    NO_LIMIT,
    NO_LIMIT,
    0n,
  ]);
  expect(() => parseCounter("12 34")).toThrow("no number");
  expect(parseBlkio("8:0 Read 5\n8:0 Write 6\n7:1 9\nTotal 11\n", (a, b) => `/dev/${a}-${b}`)).toEqual([
    { op: "Read", device: "/dev/8-0", major: 8n, minor: 0n, value: 5n },
    { op: "Write", device: "/dev/8-0", major: 8n, minor: 0n, value: 6n },
    { op: "", device: "/dev/7-1", major: 7n, minor: 1n, value: 9n },
  ]);
  expect(parseIoStat("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:1 \n")).toEqual([
    { major: 254n, minor: 0n, rbytes: 1n, wbytes: 2n, rios: 3n, wios: 4n },
    { major: 254n, minor: 1n, rbytes: 0n, wbytes: 0n, rios: 0n, wios: 0n },
  ]);
  const pressure = parsePressure(
    "some avg10=0.12 avg60=1.00 avg300=2.50 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
  );
  expect(pressure).toEqual({
    some: { avg10: 0.12, avg60: 1, avg300: 2.5, total: 42n },
    full: { avg10: 0, avg60: 0, avg300: 0, total: 7n },
  });
  expect(parsePressure("")).toBeUndefined();
  expect(parseRdma("mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n")).toEqual([
    { device: "mlx4_0", hcaHandles: 2, hcaObjects: 2000 },
    { device: "ocrdma1", hcaHandles: 3, hcaObjects: 4_294_967_295 },
  ]);
});

test("v1 metrics take ticks as nanoseconds and the throttle layer when nothing else counts", () => {
  const metrics = metricsV1({
    read: files({
      "cpuacct.usage": "1234567890\n",
      "cpuacct.stat": "user 3\nsystem 4\n",
      "cpuacct.usage_percpu": "1 2 3 \n",
      "cpu.stat": "nr_periods 5\nnr_throttled 6\nthrottled_time 7\n",
      "memory.stat": "cache 9330688\nrss_huge 1\nhierarchical_memsw_limit 9223372036854771712\ntotal_pgpgin 15078367\n",
      "memory.usage_in_bytes": "100\n",
      "memory.limit_in_bytes": "9223372036854771712\n",
      "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
      "pids.current": "3\n",
      "pids.max": "max\n",
      "hugetlb.2MB.usage_in_bytes": "4096\n",
      "blkio.bfq.io_serviced_recursive": "Total 0\n",
      "blkio.throttle.io_serviced_recursive": "254:0 Read 8\nTotal 8\n",
      "blkio.throttle.io_service_bytes": "254:0 Read 4096\nTotal 4096\n",
    }),
    pageSizes: ["2MB", "1GB"],
    deviceName: noName,
  });
  expect(metrics.cpu.usage).toEqual({
    total: 1234567890n,
    kernel: 40_000_000n,
    user: 30_000_000n,
    perCpu: [1n, 2n, 3n],
  });
  expect(metrics.cpu.throttling).toEqual({ periods: 5n, throttledPeriods: 6n, throttledTime: 7n });
  expect(metrics.memory).toMatchObject({ cache: 9330688n, rssHuge: 1n, totalPgPgIn: 15078367n, dirty: 0n });
  expect(metrics.memory.usage).toEqual({ usage: 100n, max: 0n, failcnt: 0n, limit: 9223372036854771712n });
  expect(metrics.memoryOomControl.oomKill).toBe(2n);
  expect(metrics.pids).toEqual({ current: 3n, limit: 0n });
  expect(metrics.hugetlb).toEqual([{ usage: 4096n, max: 0n, failcnt: 0n, pagesize: "2MB" }]);
  expect(metrics.blkio.ioServicedRecursive.map((entry) => entry.value)).toEqual([8n]);
  expect(metrics.blkio.ioServiceBytesRecursive.map((entry) => entry.value)).toEqual([4096n]);
});

test("v2 metrics sum split counters and read limits", () => {
  const metrics = metricsV2({
    read: files({
      "cpu.stat":
        "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\nnr_bursts 4\nburst_usec 5\n",
      "memory.stat": "anon 1\nfile 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\nthp_collapse_alloc 9\n",
      "memory.current": "4096\n",
      "memory.max": "max\n",
      "memory.swap.max": "0\n",
      "memory.peak": "8192\n",
      "memory.events": "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
      "memory.pressure":
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
      "pids.current": "2\n",
      "pids.max": "max\n",
      "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
      "hugetlb.2MB.current": "1\n",
      "hugetlb.2MB.max": "max\n",
      "hugetlb.2MB.events": "max 3\n",
    }),
    pageSizes: ["2MB"],
  });
  expect(metrics.cpu).toEqual({
    usageUsec: 100n,
    userUsec: 60n,
    systemUsec: 40n,
    nrPeriods: 1n,
    nrThrottled: 2n,
    throttledUsec: 3n,
    nrBursts: 4n,
    burstUsec: 5n,
  });
  expect(metrics.memory).toMatchObject({
    anon: 1n,
    workingsetRefault: 7n,
    thpCollapseAlloc: 9n,
    usage: 4096n,
    usageLimit: NO_LIMIT,
    swapLimit: 0n,
    maxUsage: 8192n,
  });
  expect(metrics.memory.psi?.some.total).toBe(1n);
  expect(metrics.memoryEvents).toEqual({ low: 1n, high: 2n, max: 3n, oom: 4n, oomKill: 5n, oomGroupKill: 6n });
  expect(metrics.pids).toEqual({ current: 2n, limit: NO_LIMIT });
  expect(metrics.hugetlb).toEqual([{ current: 1n, max: NO_LIMIT, pagesize: "2MB", failcnt: 3n }]);
});

test("a group of this machine: created, filled, measured, frozen, killed, deleted", async () => {
  const cgroup = cgroupAt(`/os-cgroup-test-${process.pid}`);
  createCgroup(cgroup);
  try {
    await using child = spawnChild(["sh", "-c", "while :; do :; done"]);
    addProcess(cgroup, child.pid);
    expect(cgroupProcesses(cgroup)).toEqual([child.pid]);
    // All but the folder in the unified tree beside v1, where no process is.
    const { version } = cgroup;
    expect(processCgroup(child.pid)).toEqual(version === 1 ? { version, folders: cgroup.folders } : cgroup);
    await Bun.sleep(100);
    const read = readCgroupMetrics(cgroup);
    if (read.version === 1) {
      expect(read.metrics.cpu.usage.total).toBeGreaterThan(10_000_000n);
      expect(read.metrics.memory.usage.limit).toBeGreaterThan(0n);
      expect(read.metrics.pids.current).toBe(1n);
    } else {
      expect(read.metrics.cpu.usageUsec).toBeGreaterThan(10_000n);
    }
    expect(freezerState(cgroup)).toBe("thawed");
    setFreezer(cgroup, true);
    for (let tries = 0; freezerState(cgroup) !== "frozen" && tries < 100; tries++) await Bun.sleep(5);
    expect(freezerState(cgroup)).toBe("frozen");
    setFreezer(cgroup, false);
    killCgroup(cgroup);
    expect((await child.exited).signal).toBe(9);
  } finally {
    await deleteCgroup(cgroup);
  }
  expect(cgroupExists(cgroup)).toBe(false);
  expect(() => readCgroupMetrics(cgroup)).toThrow("cgroup deleted");
  expect(() => cgroupAt("/../x")).toThrow('".." in it');
});

test("an out-of-memory kill is told", async () => {
  const cgroup = cgroupAt(`/os-cgroup-oom-${process.pid}`);
  createCgroup(cgroup);
  try {
    const folder = cgroup.version === 2 ? cgroup.folder : cgroup.folders.get("memory");
    const limit = `${folder}/${cgroup.version === 2 ? "memory.max" : "memory.limit_in_bytes"}`;
    if (!existsSync(limit)) return; // no memory controller on this machine
    writeFileSync(limit, String(8 << 20));
    const told: bigint[] = [];
    using watch = new OomWatch(cgroup, (kills) => told.push(kills));
    await using child = spawnChild(["sh", "-c", "read x; head -c 200000000 /dev/zero | tail"], { stdin: "pipe" });
    addProcess(cgroup, child.pid);
    await child.stdin?.write(new Uint8Array([10]));
    for (let tries = 0; told.length === 0 && tries < 100; tries++) await Bun.sleep(20);
    watch.check();
    expect(told[0]).toBeGreaterThan(0n);
    child.kill(9);
    await child.exited;
    expect(processStat(child.pid)).toBeUndefined();
  } finally {
    killCgroup(cgroup);
    await deleteCgroup(cgroup);
  }
});
