import { expect, test } from "bun:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { createLogger } from "@stevedore/base";
import type { Container, KnownTask, TaskMetric } from "@stevedore/core";
import { addProcess, type Cgroup, cgroupAt, createCgroup, deleteCgroup, processCgroup } from "@stevedore/os/cgroup";
import { spawnChild } from "@stevedore/os/spawn";
import { MetricsSchema } from "@stevedore/wire/gen/io/containerd/cgroups/v1/metrics_pb";
import { containerCollector } from "./containers.ts";
import { MetricPage } from "./family.ts";
import { textOf } from "./text.ts";

const RUNC = "/usr/bin/containerd-shim-runc-v2";
const ASKED = ['id=="b"', 'id=="elsewhere"'];
const NEVER = new AbortController().signal;

function container(id: string, runtime: string): Container {
  const now = new Date();
  return {
    id,
    labels: {},
    image: "",
    runtime: { name: runtime },
    snapshotter: "",
    snapshotKey: "",
    createdAt: now,
    updatedAt: now,
    extensions: {},
    sandbox: "",
  };
}

function collectorOf(
  tasks: readonly KnownTask[],
  more: { readonly asked?: string[][]; readonly cgroupOf?: (pid: number) => Cgroup },
) {
  const data = {
    typeUrl: MetricsSchema.typeName,
    value: toBinary(MetricsSchema, create(MetricsSchema, { pids: { current: 77n } })),
  };
  return containerCollector({
    containers: { list: async () => tasks.map(({ id }) => container(id, `runtime-${id}`)) },
    tasks: {
      known: () => tasks,
      metrics: async (_context, filters): Promise<TaskMetric[]> => {
        more.asked?.push([...filters]);
        return tasks.map(({ id }) => ({ id, timestamp: new Date(), data }));
      },
    },
    log: createLogger(),
    ...(more.cgroupOf === undefined ? {} : { cgroupOf: more.cgroupOf }),
  });
}

test("runc's containers are read from their cgroups, others' shims are asked, ended ones have no figures", async () => {
  const cgroup = cgroupAt(`/metrics-test-${process.pid}-alpha`);
  createCgroup(cgroup);
  try {
    await using child = spawnChild(["sleep", "1000"]);
    addProcess(cgroup, child.pid);
    const asked: string[][] = [];
    const lookups: number[] = [];
    const collect = collectorOf(
      [
        { namespace: "n", id: "alpha", pid: child.pid, status: "running", shim: RUNC },
        { namespace: "n", id: "b", pid: child.pid, status: "running", shim: "/usr/bin/containerd-shim-kata-v2" },
        { namespace: "n", id: "c", pid: child.pid, status: "stopped", shim: RUNC },
        { namespace: "n", id: "d", pid: 2 ** 30, status: "running", shim: RUNC },
        // As after a restart, when the pid may be another's by now.
        { namespace: "n", id: "elsewhere", pid: child.pid, status: "unknown", shim: RUNC },
      ],
      {
        asked,
        cgroupOf: (pid) => {
          lookups.push(pid);
          return processCgroup(pid);
        },
      },
    );
    for (let scrape = 0; scrape < 2; scrape++) {
      const page = new MetricPage();
      await collect(page, NEVER);
      const current = textOf(page.families())
        .split("\n")
        .filter((line) => line.startsWith("container_pids_current"));
      expect(current).toEqual([
        'container_pids_current{container_id="alpha",namespace="n",runtime="runtime-alpha"} 1',
        'container_pids_current{container_id="b",namespace="n",runtime="runtime-b"} 77',
        'container_pids_current{container_id="elsewhere",namespace="n",runtime="runtime-elsewhere"} 77',
      ]);
    }
    expect(asked).toEqual([ASKED, ASKED]);
    // Where a container's group is was looked up once.
    expect(lookups).toEqual([child.pid, 2 ** 30, child.pid, 2 ** 30, child.pid]);
  } finally {
    await deleteCgroup(cgroup);
  }
});
