import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { MNT, unmountRecursive } from "@stevedore/os/mount";
import { isAlive, processIdentity, sendSignal } from "@stevedore/os/process";
import { SIGKILL } from "@stevedore/os/signals";
import { MetricsSchema as MetricsV1 } from "@stevedore/wire/gen/io/containerd/cgroups/v1/metrics_pb";
import { MetricsSchema as MetricsV2 } from "@stevedore/wire/gen/io/containerd/cgroups/v2/metrics_pb";
import { add } from "./sandbox-stats.ts";
import { canRunContainers, eventually, OUR_SHIM, SHIMS, ShimBench, type TestContainer } from "./test-shim.ts";

// Real containers on a machine that may be busy with other tests.
setDefaultTimeout(60_000);

const SLEEP = { args: ["sleep", "1000"] };

async function open(bench: ShimBench, id = "pod"): Promise<TestContainer> {
  const host = await bench.shim(id, SLEEP);
  await host.sandbox.createSandbox({ sandboxId: id, bundlePath: host.bundle });
  return host;
}

/** What a call fails with. */
async function refusal(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "no error",
    (error: unknown) => String(error),
  );
}

// @covers rpc:containerd.runtime.sandbox.v1.Sandbox/CreateSandbox, rpc:containerd.runtime.sandbox.v1.Sandbox/StartSandbox
// @covers rpc:containerd.runtime.sandbox.v1.Sandbox/Platform, rpc:containerd.runtime.sandbox.v1.Sandbox/StopSandbox
// @covers rpc:containerd.runtime.sandbox.v1.Sandbox/WaitSandbox, rpc:containerd.runtime.sandbox.v1.Sandbox/SandboxStatus
// @covers rpc:containerd.runtime.sandbox.v1.Sandbox/PingSandbox, rpc:containerd.runtime.sandbox.v1.Sandbox/ShutdownSandbox
// @covers rpc:containerd.runtime.sandbox.v1.Sandbox/SandboxMetrics
describe.skipIf(!canRunContainers)("our shim as a sandbox (N10)", () => {
  test("a life from create to shutdown, with containers that come and go", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await open(bench);
    const { sandbox, task } = host;
    const pod = { sandboxId: "pod" };
    expect(await sandbox.sandboxStatus(pod)).toMatchObject({ sandboxId: "pod", pid: 0, state: "SANDBOX_NOTREADY" });
    expect(await sandbox.startSandbox(pod)).toMatchObject({ pid: host.shimPid });
    const { createdAt } = await sandbox.sandboxStatus(pod);
    expect(await sandbox.startSandbox(pod)).toMatchObject({ pid: host.shimPid, createdAt });
    expect(await sandbox.platform(pod)).toMatchObject({ platform: { os: "linux" } });
    await sandbox.pingSandbox(pod);
    const first = await bench.add(host, "a", SLEEP);
    await task.start({ id: first.id });
    const second = await bench.add(host, "b", { args: ["sh", "-c", "exit 3"] });
    await task.start({ id: second.id });
    expect(await task.wait({ id: second.id })).toMatchObject({ exitStatus: 3 });
    await task.delete({ id: second.id });
    // As containerd's task manager does after a delete; the sandbox stays.
    await task.shutdown({ id: second.id });
    expect(await sandbox.sandboxStatus({ ...pod, verbose: true })).toMatchObject({
      state: "SANDBOX_READY",
      pid: host.shimPid,
      info: { bundle: host.bundle, containers: JSON.stringify([{ id: "a", pid: first.pid, status: "running" }]) },
    });
    const waiting = sandbox.waitSandbox(pod);
    await sandbox.stopSandbox(pod);
    const { exitStatus, exitedAt } = await waiting;
    expect(exitStatus).toBe(0);
    expect(await sandbox.sandboxStatus(pod)).toMatchObject({ state: "SANDBOX_NOTREADY", pid: 0, createdAt, exitedAt });
    expect(await task.wait({ id: first.id })).toMatchObject({ exitStatus: 137 });
    expect(await refusal(bench.add(host, "late", SLEEP))).toContain("sandbox pod: it has been stopped");
    await sandbox.stopSandbox(pod);
    expect(await sandbox.waitSandbox(pod)).toMatchObject({ exitStatus: 0, exitedAt });
    const identity = processIdentity(host.shimPid);
    await sandbox.shutdownSandbox(pod);
    await eventually(() => identity === undefined || !isAlive(identity));
    // What ran is told of and removed, in the order of its life.
    expect(bench.exits()).toEqual(["b:3", "a:137"]);
    expect(bench.topics().filter((topic) => topic === "/tasks/delete")).toHaveLength(2);
    expect(await readdir(join(bench.dir, "runc/test"))).toEqual([]);
  });

  test("stop asks before it kills when it is given time, thaws what is frozen, and ends what was never started", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await open(bench);
    const { sandbox, task } = host;
    await sandbox.startSandbox({ sandboxId: "pod" });
    const polite = { args: ["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"] };
    for (const [id, spec] of [
      ["polite", polite],
      ["deaf", { args: ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"] }],
      ["frozen", SLEEP],
    ] as const) {
      await bench.add(host, id, spec);
      await task.start({ id });
    }
    await bench.add(host, "created", SLEEP);
    await task.pause({ id: "frozen" });
    await Bun.sleep(200); // for the traps to be set
    const before = performance.now();
    await sandbox.stopSandbox({ sandboxId: "pod", timeoutSecs: 1 });
    expect(performance.now() - before).toBeGreaterThan(900);
    const ends = await Promise.all(
      ["polite", "deaf", "frozen", "created"].map(async (id) => (await task.wait({ id })).exitStatus),
    );
    // The last one never ran: what a killed runtime process tells is the runtime's business.
    expect(ends.slice(0, 3)).toEqual([9, 137, 137]);
    expect(ends).toHaveLength(4);
    await sandbox.shutdownSandbox({ sandboxId: "pod" });
  });

  test("metrics are the sum of the containers'", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await open(bench);
    const { sandbox, task } = host;
    expect((await sandbox.sandboxMetrics({ sandboxId: "pod" })).metrics).toMatchObject({ id: "pod" });
    for (const id of ["a", "b", "c"]) {
      await bench.add(host, id, SLEEP);
      await task.start({ id });
    }
    const { metrics } = await sandbox.sandboxMetrics({ sandboxId: "pod" });
    const value = metrics?.data?.value ?? new Uint8Array();
    const { pids } =
      metrics?.data?.typeUrl === MetricsV2.typeName ? fromBinary(MetricsV2, value) : fromBinary(MetricsV1, value);
    expect(pids?.current).toBe(3n);
    await sandbox.shutdownSandbox({ sandboxId: "pod" });
  });

  test("a rootfs is mounted in the bundle until the shutdown", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await bench.shim("pod", SLEEP);
    const rootfs = join(host.bundle, "rootfs");
    await writeFile(join(bench.dir, "image/mark"), "");
    const source = join(bench.dir, "image");
    const failed = host.sandbox.createSandbox({
      sandboxId: "pod",
      bundlePath: host.bundle,
      rootfs: [{ type: "bind", source: join(bench.dir, "none"), options: ["rbind", "ro"] }],
    });
    expect(await refusal(failed)).toContain("make sandbox pod: ");
    await host.sandbox.createSandbox({
      sandboxId: "pod",
      bundlePath: host.bundle,
      rootfs: [{ type: "bind", source, options: ["rbind", "ro"] }],
    });
    expect(existsSync(join(rootfs, "mark"))).toBe(true);
    await host.sandbox.shutdownSandbox({ sandboxId: "pod" });
    expect(existsSync(join(rootfs, "mark"))).toBe(false);
    unmountRecursive(rootfs, { flags: MNT.DETACH });
  });

  test("a shim that is started in the bundle of one that died has its sandbox, as it was", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const first = await bench.shim("pod", SLEEP);
    await writeFile(join(bench.dir, "image/mark"), "");
    await first.sandbox.createSandbox({
      sandboxId: "pod",
      bundlePath: first.bundle,
      netnsPath: "/run/netns/x",
      annotations: { note: "kept" },
      rootfs: [{ type: "bind", source: join(bench.dir, "image"), options: ["rbind", "ro"] }],
    });
    await first.sandbox.startSandbox({ sandboxId: "pod" });
    const before = await first.sandbox.sandboxStatus({ sandboxId: "pod" });
    const again = async (old: TestContainer): Promise<TestContainer> => {
      const identity = processIdentity(old.shimPid);
      sendSignal(old.shimPid, SIGKILL);
      await eventually(() => identity === undefined || !isAlive(identity));
      return bench.again(old);
    };
    const second = await again(first);
    // Only its name and place are told: the rest is remembered, and nothing is mounted twice.
    await second.sandbox.createSandbox({ sandboxId: "pod", bundlePath: second.bundle });
    expect(await second.sandbox.sandboxStatus({ sandboxId: "pod", verbose: true })).toMatchObject({
      state: "SANDBOX_READY",
      pid: second.shimPid,
      createdAt: before.createdAt,
      info: { netnsPath: "/run/netns/x", annotations: JSON.stringify({ note: "kept" }) },
    });
    await second.sandbox.stopSandbox({ sandboxId: "pod" });
    const { exitedAt } = await second.sandbox.waitSandbox({ sandboxId: "pod" });
    const third = await again(second);
    await third.sandbox.createSandbox({ sandboxId: "pod", bundlePath: third.bundle });
    expect(await third.sandbox.waitSandbox({ sandboxId: "pod" })).toMatchObject({ exitStatus: 0, exitedAt });
    expect(await refusal(third.sandbox.startSandbox({ sandboxId: "pod" }))).toContain("it has been stopped");
    await third.sandbox.shutdownSandbox({ sandboxId: "pod" });
    expect(existsSync(join(third.bundle, "rootfs/mark"))).toBe(false);
  });

  test("calls out of turn and about others are refused, and harm nothing", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await open(bench);
    const { sandbox, task } = host;
    expect(await refusal(sandbox.createSandbox({ sandboxId: "pod", bundlePath: host.bundle }))).toContain(
      "already exists",
    );
    expect(await refusal(sandbox.createSandbox({ sandboxId: "other", bundlePath: host.bundle }))).toContain(
      "this shim is sandbox pod",
    );
    await sandbox.startSandbox({ sandboxId: "pod" });
    const other = { sandboxId: "other" };
    for (const call of [
      sandbox.startSandbox(other),
      sandbox.platform(other),
      sandbox.stopSandbox(other),
      sandbox.waitSandbox(other),
      sandbox.sandboxStatus(other),
      sandbox.pingSandbox(other),
      sandbox.shutdownSandbox(other),
      sandbox.sandboxMetrics(other),
    ]) {
      expect(await refusal(call)).toContain("sandbox other: not found");
    }
    await bench.add(host, "a", SLEEP);
    expect(await sandbox.sandboxStatus({ sandboxId: "pod" })).toMatchObject({ state: "SANDBOX_READY" });
    // Two at once are one.
    await Promise.all([1, 2].map(async () => sandbox.stopSandbox({ sandboxId: "pod" })));
    expect(await refusal(sandbox.startSandbox({ sandboxId: "pod" }))).toContain("it has been stopped");
    await Promise.allSettled([1, 2].map(async () => sandbox.shutdownSandbox({ sandboxId: "pod" })));
    expect(
      await task.wait({ id: "a" }).then(
        () => true,
        () => true,
      ),
    ).toBe(true);
  });

  test("a container being made when the sandbox is shut down is gone as well", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await open(bench);
    await host.sandbox.startSandbox({ sandboxId: "pod" });
    const adding = refusal(bench.add(host, "a", SLEEP));
    await Bun.sleep(20);
    await host.sandbox.shutdownSandbox({ sandboxId: "pod" });
    await adding;
    expect(await readdir(join(bench.dir, "runc/test")).catch(() => [])).toEqual([]);
  });

  test("the shim of a container is no sandbox: a word about one does not end it", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await bench.create("a", SLEEP);
    expect(await refusal(host.sandbox.shutdownSandbox({ sandboxId: "a" }))).toContain("sandbox a: not found");
    expect(await host.task.state({ id: "a" })).toMatchObject({ pid: host.pid });
  });
});

for (const { name, command, version } of SHIMS.filter((shim) => shim.command !== OUR_SHIM)) {
  test.skipIf(!canRunContainers)(`${name} has no sandbox service`, async () => {
    await using bench = await ShimBench.open(command, version);
    const { sandbox } = await bench.shim("pod", SLEEP);
    expect(await refusal(sandbox.createSandbox({ sandboxId: "pod" }))).toContain(
      "service containerd.runtime.sandbox.v1.Sandbox: not implemented",
    );
  });
}

test("sums of counters: fields add up, limits stay limits, lists per device are left out", () => {
  const NONE = 2n ** 64n - 1n;
  const one = { pids: { current: 2n, limit: NONE }, cpu: { perCpu: [1n, 2n] }, blkio: { io: [{ major: 8n }] } };
  const two = { pids: { current: 3n, limit: 10n }, cpu: { perCpu: [5n] }, blkio: { io: [] } };
  expect(add(add(undefined, one), two)).toEqual({
    pids: { current: 5n, limit: NONE },
    cpu: { perCpu: [6n, 2n] },
    blkio: { io: [] },
  });
});
