import { expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { MetricsSchema } from "@stevedore/wire/gen/io/containerd/cgroups/v2/metrics_pb";
import { messageToGoJson } from "@stevedore/wire/go-json";
import { readStats } from "./stats.ts";

/** A group of cgroup v2 as Linux 6.1 shows it, cut to what is read. */
const FILES: Readonly<Record<string, string>> = {
  "cgroup.procs": "1\n",
  "pids.current": "2\n",
  "pids.max": "100\n",
  "cpu.stat":
    "usage_usec 300\nuser_usec 200\nsystem_usec 100\nnr_periods 5\nnr_throttled 1\nthrottled_usec 7\nnr_bursts 2\nburst_usec 3\n",
  "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
  "memory.stat":
    "anon 1\nfile 2\nkernel_stack 3\nsock 4\nshmem 5\nfile_mapped 6\nslab_reclaimable 7\nslab 8\npgfault 9\nworkingset_refault_anon 10\nworkingset_refault_file 1\nthp_fault_alloc 12\n",
  "memory.current": "4096\n",
  "memory.max": "max\n",
  "memory.peak": "8192\n",
  "memory.swap.current": "1\n",
  "memory.swap.max": "2\n",
  "memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n",
  "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
  "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
};

test("Stats of cgroup v2: every file arrives in its field", async () => {
  const folder = await mkdtemp(join(tmpdir(), "stats-test-"));
  try {
    for (const [name, text] of Object.entries(FILES)) await writeFile(join(folder, name), text);
    const { typeUrl, value } = await readStats({ version: 2, folder });
    expect(typeUrl).toBe("io.containerd.cgroups.v2.Metrics");
    const shown: unknown = JSON.parse(messageToGoJson(MetricsSchema, fromBinary(MetricsSchema, value)));
    expect(shown).toMatchObject({
      pids: { current: 2, limit: 100 },
      cpu: {
        usage_usec: 300,
        user_usec: 200,
        system_usec: 100,
        nr_periods: 5,
        nr_throttled: 1,
        throttled_usec: 7,
        psi: { some: { avg10: 1.5, total: 9 } },
      },
      memory: {
        anon: 1,
        file: 2,
        kernel_stack: 3,
        sock: 4,
        shmem: 5,
        file_mapped: 6,
        slab_reclaimable: 7,
        slab: 8,
        pgfault: 9,
        workingset_refault: 11,
        thp_fault_alloc: 12,
        usage: 4096,
        max_usage: 8192,
        swap_usage: 1,
        swap_limit: 2,
      },
      memory_events: { high: 1, max: 2, oom: 3, oom_kill: 4, oom_group_kill: 5 },
      io: { usage: [{ major: 8, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }] },
      rdma: { current: [{ device: "mlx4_0", hca_handles: 2, hca_objects: 2000 }] },
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});
