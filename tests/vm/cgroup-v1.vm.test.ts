// Debian 12's kernel with the hierarchies of cgroup v1: limits, updates, stats, freezing and out-of-memory events as on older machines.
import { expect } from "bun:test";
import { decodeMessage, encodeMessage, makeMessage } from "@stevedore/wire/codec";
import {
  MetricsResponseSchema,
  UpdateTaskRequestSchema,
} from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { MetricsSchema } from "@stevedore/wire/gen/io/containerd/cgroups/v1/metrics_pb";
import { type GuestStage, guestWorld } from "../harness/vm/row.ts";
import { oomTopics } from "./oom.ts";

const world = guestWorld({ kind: "v1" });

const MEMORY = 67_108_864;

/** Files of the container's groups, as `controller/file`. */
async function groups(t: GuestStage, ...files: readonly string[]): Promise<readonly string[]> {
  const paths = files.map((file) => {
    const [controller, name] = file.split("/");
    return `"/sys/fs/cgroup/${controller}/$namespace/$id/${name}"`;
  });
  return (await t.must(`cat ${paths.join(" ")}`)).split("\n");
}

world.row(
  "S10 N13",
  "run --memory-limit and --cpus appear in their hierarchies, and Tasks.Update changes them",
  { covers: ["flag:ctr run --memory-limit", "flag:ctr run --cpus", "rpc:containerd.services.tasks.v1.Tasks/Update"] },
  async (t) => {
    await t.must(`ctr run -d --memory-limit ${MEMORY} --cpus 0.5 $image $id sleep 1000`);
    const files = ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "pids/pids.max"];
    expect(await groups(t, ...files)).toEqual([String(MEMORY), "50000", "100000", "max"]);
    const resources = { memory: { limit: 2 * MEMORY }, cpu: { quota: 20_000, period: 50_000 }, pids: { limit: 50 } };
    const any = {
      typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
      value: Buffer.from(JSON.stringify(resources)),
    };
    const request = makeMessage(UpdateTaskRequestSchema, { containerId: t.id, resources: any });
    const answer = await t.call(
      "/containerd.services.tasks.v1.Tasks/Update",
      encodeMessage(UpdateTaskRequestSchema, request),
    );
    expect(answer).toMatchObject({ code: "ok" });
    expect(await groups(t, ...files)).toEqual([String(2 * MEMORY), "20000", "50000", "50"]);
  },
);

world.row(
  "S10 M14 N13",
  "Tasks.Metrics has the message of cgroup v1, and pause freezes by the freezer",
  {
    covers: ["rpc:containerd.services.tasks.v1.Tasks/Metrics", "cmd:ctr tasks metrics", "cmd:ctr tasks pause"],
  },
  async (t) => {
    await t.must(`ctr run -d --memory-limit ${MEMORY} $image $id sleep 1000`);
    const { code, response } = await t.call("/containerd.services.tasks.v1.Tasks/Metrics", new Uint8Array());
    expect(code).toBe("ok");
    const metric = decodeMessage(MetricsResponseSchema, response).metrics.find((one) => one.id === t.id);
    expect(metric?.data?.typeUrl).toBe("io.containerd.cgroups.v1.Metrics");
    const stats = decodeMessage(MetricsSchema, metric?.data?.value ?? new Uint8Array());
    expect(stats.memory?.usage).toMatchObject({ limit: BigInt(MEMORY) });
    expect(stats.pids).toMatchObject({ current: 1n, limit: 0n });
    expect(stats.cpu?.usage?.total).toBeGreaterThan(0n);
    await t.must("ctr tasks pause $id");
    expect(await groups(t, "freezer/freezer.state")).toEqual(["FROZEN"]);
    await t.must("ctr tasks resume $id");
    expect(await groups(t, "freezer/freezer.state")).toEqual(["THAWED"]);
  },
);

world.row("S10 N13", "the out-of-memory killer: a TaskOOM event before the exit, and status 137", {}, async (t) => {
  expect(await oomTopics(t, MEMORY / 4)).toEqual({ code: 137, topics: ["/tasks/oom", "/tasks/exit"] });
});

world.leavesNothing();
