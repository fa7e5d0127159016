// Moments of objects as clients see them: finer than a millisecond, and exits as the shim told them.
import { expect } from "bun:test";
import { Daemon } from "../harness/daemon.ts";
import { row } from "../harness/row.ts";

const CAP_SYS_RESOURCE = 1n << 24n;

/** Digits after the second of the times a JSON text has for a key. */
function digits(text: string, key: string): number {
  return /\.(\d+)Z$/.exec(RegExp(`"${key}": "([^"]+)"`).exec(text)?.[1] ?? "")?.[1]?.length ?? 0;
}

row("E12", "times of containers and snapshots are finer than a millisecond", {}, async (t) => {
  const image = await t.image();
  // A time may end in zeros; three in a row do not.
  let [container, snapshot] = [0, 0];
  for (const name of ["a", "b", "c"]) {
    await t.must("containers", "create", image, t.id(name), "true");
    container = Math.max(container, digits(await t.must("containers", "info", t.id(name)), "CreatedAt"));
    snapshot = Math.max(snapshot, digits(await t.must("snapshots", "info", t.id(name)), "Created"));
  }
  expect(container).toBeGreaterThan(3);
  expect(snapshot).toBeGreaterThan(3);
});

row("A23", "oom_score lowers the daemon's score, or the log says why not", { casts: ["peer", "ours"] }, async (t) => {
  const own = (await Bun.file("/proc/self/oom_score_adj").text()).trim();
  const wholeConfig = `version = 2
oom_score = -500
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
`;
  await using daemon = await Daemon.start({ maker: t.cast.daemon, wholeConfig });
  // Lowering needs CAP_SYS_RESOURCE, which not every machine's root has.
  const status = await Bun.file("/proc/self/status").text();
  const able = (BigInt(`0x${/CapEff:\s+(\w+)/.exec(status)?.[1] ?? "0"}`) & CAP_SYS_RESOURCE) !== 0n;
  expect((await Bun.file(`/proc/${daemon.pid}/oom_score_adj`).text()).trim()).toBe(able ? "-500" : own);
  if (able) expect(await daemon.log).not.toContain("failed to change OOM score");
  else expect(await daemon.log).toMatch(/failed to change OOM score to -500.*permission denied/);
});
