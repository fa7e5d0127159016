// Debian 12's kernel with cgroup v2 alone: limits, updates, stats, freezing, out-of-memory events; another OCI runtime; OOM scores.
import { expect } from "bun:test";
import { decodeMessage, encodeMessage, makeMessage } from "@stevedore/wire/codec";
import {
  MetricsResponseSchema,
  UpdateTaskRequestSchema,
} from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { MetricsSchema } from "@stevedore/wire/gen/io/containerd/cgroups/v2/metrics_pb";
import { type GuestStage, guestWorld } from "../harness/vm/row.ts";
import { oomTopics } from "./oom.ts";

const world = guestWorld({ kind: "small" });

/** The container's group, read file by file: `name value`. */
async function group(t: GuestStage, ...files: readonly string[]): Promise<Record<string, string>> {
  const text = await t.must(
    `cd "/sys/fs/cgroup/$namespace/$id" && for file in ${files.join(" ")}; do echo "$file $(cat $file)"; done`,
  );
  return Object.fromEntries(
    text.split("\n").map((line) => [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)]),
  );
}

const MEMORY = 67_108_864;

world.row(
  "S11 G15",
  "run --memory-limit, --cpus: memory.max, cpu.max, and an exec is in the same group",
  { covers: ["flag:ctr run --memory-limit", "flag:ctr run --cpus"] },
  async (t) => {
    await t.must(`ctr run -d --memory-limit ${MEMORY} --cpus 0.5 $image $id sleep 1000`);
    expect(await group(t, "memory.max", "cpu.max", "cgroup.freeze")).toEqual({
      "memory.max": String(MEMORY),
      "cpu.max": "50000 100000",
      "cgroup.freeze": "0",
    });
    expect(await t.must("ctr tasks exec --exec-id e $id cat /proc/self/cgroup")).toBe(`0::/${t.namespace}/${t.id}`);
  },
);

world.row(
  "S11 N13",
  "Tasks.Update of a running container: memory, processor time, processors, weight and processes change at once",
  { covers: ["rpc:containerd.services.tasks.v1.Tasks/Update"] },
  async (t) => {
    await t.must(`ctr run -d --memory-limit ${MEMORY} $image $id sleep 1000`);
    const before = await group(t, "memory.max", "cpu.max", "pids.max");
    expect(before).toEqual({ "memory.max": String(MEMORY), "cpu.max": "max 100000", "pids.max": "max" });
    const update = async (resources: object): Promise<string> => {
      const any = {
        typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        value: Buffer.from(JSON.stringify(resources)),
      };
      const request = makeMessage(UpdateTaskRequestSchema, { containerId: t.id, resources: any });
      const { code, message } = await t.call(
        "/containerd.services.tasks.v1.Tasks/Update",
        encodeMessage(UpdateTaskRequestSchema, request),
      );
      return `${code} ${message}`;
    };
    expect(
      await update({
        memory: { limit: 2 * MEMORY },
        cpu: { quota: 20_000, period: 50_000, shares: 512, cpus: "0" },
        pids: { limit: 50 },
      }),
    ).toBe("ok ");
    expect(await group(t, "memory.max", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max")).toEqual({
      "memory.max": String(2 * MEMORY),
      "cpu.max": "20000 50000",
      "cpu.weight": "20",
      "cpuset.cpus": "0",
      "pids.max": "50",
    });
    // What is not named stays.
    expect(await update({ pids: { limit: 20 } })).toBe("ok ");
    expect(await group(t, "memory.max", "pids.max")).toEqual({ "memory.max": String(2 * MEMORY), "pids.max": "20" });
    // And what cannot be is refused, with the task still there.
    expect(await update({ cpu: { cpus: "77" } })).toMatch(/^UNKNOWN .*cpuset/s);
    expect(await t.must("ctr tasks ls")).toMatch(RegExp(`^${t.id}\\s+\\d+\\s+RUNNING`, "m"));
  },
);

world.row("S11 N13", "pids.max holds: the fork beyond it fails, in the container alone", {}, async (t) => {
  await t.must(`ctr run -d $image $id sleep 1000`);
  // Room for runc's own threads, which come and go in the same group.
  await t.must('echo 25 >"/sys/fs/cgroup/$namespace/$id/pids.max"');
  const ran = await t.sh(
    "ctr tasks exec --exec-id e $id sh -c 'n=0; while [ $n -lt 40 ]; do sleep 1000 </dev/null >/dev/null 2>&1 & n=$((n+1)); done; echo all'",
  );
  expect(ran.stdout).not.toContain("all");
  expect(ran.stdout + ran.stderr).toContain("can't fork");
});

world.row(
  "G36 M14 N13",
  "Tasks.Metrics and ctr tasks metrics: what the group's files say, in the message of cgroup v2",
  { covers: ["rpc:containerd.services.tasks.v1.Tasks/Metrics", "cmd:ctr tasks metrics"] },
  async (t) => {
    await t.must(
      `ctr run -d --memory-limit ${MEMORY} $image $id sh -c 'sleep 1000 & n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; exec sleep 1000'`,
    );
    await t.must(
      'busy() { [ "$(awk \'/^user_usec/ {print $2}\' "/sys/fs/cgroup/$namespace/$id/cpu.stat")" -gt 1000 ]; }; until_true busy',
    );
    // Two clients and two formats say the same: names and order are the peer's.
    const rows = (text: string): string[] =>
      text
        .split("\n")
        .filter((line) => /^(pids|cpu|memory)\./.test(line))
        .map((line) => line.split(/\s+/)[0] ?? "");
    const shown = await t.must("ctr tasks metrics $id");
    expect(rows(shown)).toEqual(rows(await t.must("debian_ctr tasks metrics $id")));
    expect(rows(shown)).toContain("memory.usage_limit");
    expect(shown).toMatch(/^pids\.current\s+2\s*$/m);
    expect(shown).toMatch(RegExp(`^memory\\.usage_limit\\s+${MEMORY}\\s*$`, "m"));
    const json = await t.must("debian_ctr tasks metrics --format json $id");
    expect(json).toMatch(/"usage_limit":\s*67108864/);

    const { code, response } = await t.call("/containerd.services.tasks.v1.Tasks/Metrics", new Uint8Array());
    expect(code).toBe("ok");
    const metric = decodeMessage(MetricsResponseSchema, response).metrics.find((one) => one.id === t.id);
    expect(metric?.data?.typeUrl).toBe("io.containerd.cgroups.v2.Metrics");
    const stats = decodeMessage(MetricsSchema, metric?.data?.value ?? new Uint8Array());
    expect(stats.pids).toMatchObject({ current: 2n });
    expect(stats.memory).toMatchObject({ usageLimit: BigInt(MEMORY) });
    expect(stats.cpu?.usageUsec).toBeGreaterThan(1000n);
    expect(stats.memory?.usage).toBeGreaterThan(0n);
    expect(stats.memoryEvents).toMatchObject({ oom: 0n, oomKill: 0n });
  },
);

world.row(
  "G25 S11",
  "pause writes cgroup.freeze, and every process of the container stands still until resume",
  { covers: ["cmd:ctr tasks pause", "cmd:ctr tasks resume"] },
  async (t) => {
    await t.must(`ctr run -d $image $id sh -c 'while :; do echo . >>/count; done'`);
    await t.must("ctr tasks pause $id");
    expect(await t.must("ctr tasks ls")).toMatch(RegExp(`^${t.id}\\s+\\d+\\s+PAUSED`, "m"));
    expect((await group(t, "cgroup.freeze"))["cgroup.freeze"]).toBe("1");
    const [first, second] = (
      await t.must('f="/sys/fs/cgroup/$namespace/$id/cpu.stat"; head -n 1 $f; sleep 0.5; head -n 1 $f')
    ).split("\n");
    expect(second).toBe(first ?? "");
    await t.must("ctr tasks resume $id");
    expect(await t.must("ctr tasks ls")).toMatch(RegExp(`^${t.id}\\s+\\d+\\s+RUNNING`, "m"));
    await t.must(
      `moved() { [ "$(head -n 1 "/sys/fs/cgroup/$namespace/$id/cpu.stat")" != "${second}" ]; }; until_true moved`,
    );
  },
);

world.row("S11 N13", "the out-of-memory killer: a TaskOOM event before the exit, and status 137", {}, async (t) => {
  expect(await oomTopics(t, MEMORY / 4)).toEqual({ code: 137, topics: ["/tasks/oom", "/tasks/exit"] });
});

/**
 * Writes `$dir/crun.json`: what Debian's ctr makes for a container, with a root of busybox alone. crun before 1.14.3 answers "unknown version specified" to an
 * ociVersion beyond 1.1, and containerd 2.3.4 (and so ours) writes 1.3.0: Debian 12's crun 1.8.1 runs neither's own.
 */
const OLD_SPEC = `
root=$dir/crun-root
mkdir -p $root/bin $root/proc $root/sys $root/dev
cp /bin/busybox $root/bin/; for name in sh sleep cat echo; do ln -sf busybox $root/bin/$name; done
debian_ctr oci spec | NAMESPACE=$namespace ID=$id ROOT=$root python3 -c '
import json, os, sys
spec = json.load(sys.stdin)
assert spec["ociVersion"].startswith("1.0"), spec["ociVersion"]
spec["root"] = {"path": os.environ["ROOT"]}
spec["process"]["env"] = ["PATH=/bin"]
spec["process"]["args"] = ["/bin/sh", "-c", "trap \\"exit 7\\" TERM; while :; do sleep 0.1; done"]
spec["linux"]["cgroupsPath"] = "/" + os.environ["NAMESPACE"] + "/" + os.environ["ID"]
spec["linux"]["resources"]["memory"] = {"limit": ${MEMORY}}
json.dump(spec, sys.stdout)
' >$dir/crun.json
`;

world.row(
  "F01",
  "run --runc-binary crun: crun makes the container, and exec, stats, pause, kill and delete go through it",
  { covers: ["flag:ctr run --runc-binary", "flag:ctr run --config"], seconds: 12 },
  async (t) => {
    await t.must(`${OLD_SPEC} ctr run -d --runc-binary /usr/bin/crun --config $dir/crun.json $id`);
    // crun keeps its state under the root the shim gives it, in a file that names it no other runtime writes.
    expect(await t.must("cat /run/containerd/runc/$namespace/$id/status")).toContain('"cgroup-path"');
    expect((await group(t, "memory.max"))["memory.max"]).toBe(String(MEMORY));
    expect(await t.must("ctr tasks exec --exec-id e $id sh -c 'echo from inside; exit 3' || echo $?")).toBe(
      "from inside\n3",
    );
    expect(await t.must("ctr tasks metrics $id")).toContain(String(MEMORY));
    await t.must("ctr tasks pause $id");
    expect(await t.must("ctr tasks ls")).toContain("PAUSED");
    await t.must("ctr tasks resume $id");
    await t.must("ctr tasks kill $id");
    await t.must("gone() { ctr tasks ls | grep -q STOPPED; }; until_true gone");
    expect(await t.must("ctr tasks delete $id 2>&1")).toContain("non-zero exit code 7");
    expect(await t.must("ls /run/containerd/runc/$namespace")).toBe("");
  },
);

world.row(
  "A08",
  "oom_score = -999: the daemon's own, its shim one above, and a container whose specification has none inherits that",
  {
    covers: ["config:oom_score"],
    config: { ours: "oom_score = -999\n", debian: "oom_score = -999\n" },
  },
  async (t) => {
    await t.must("ctr run -d $image $id sleep 1000");
    const scores = await t.must(
      'cat /proc/$daemon/oom_score_adj; cat "/proc/$(awk \'/^PPid/ {print $2}\' "/proc/$(pid "$id")/status")/oom_score_adj"; cat "/proc/$(pid "$id")/oom_score_adj"',
    );
    expect(scores.split("\n")).toEqual(["-999", "-998", "-998"]);
  },
);

world.row(
  "B07 F21",
  "kill -9 of the daemon on a kernel without PIDFD_INFO_EXIT: what ends in the meantime is told with its exact status",
  {},
  async (t) => {
    expect((await t.must("uname -r")).startsWith("6.1.")).toBe(true);
    await t.must(`ctr run -d $image $id sh -c 'until [ -e /go ]; do sleep 0.05; done; exit 42'`);
    // By the process: without the daemon nobody can be asked for it.
    await t.must(
      'p=$(pid "$id"); kill -9 "$daemon"; touch "/proc/$p/root/go"; ended() { ! [ -e "/proc/$p/root/go" ]; }; until_true ended',
    );
    await t.restart();
    expect(await t.must("ctr tasks ls")).toMatch(RegExp(`^${t.id}\\s+\\d+\\s+STOPPED`, "m"));
    expect(await t.must("ctr tasks delete $id 2>&1")).toContain("non-zero exit code 42");
  },
);

world.leavesNothing();
