// Moments of objects as clients see them: finer than a millisecond, and exits as the shim told them.
import { expect } from "bun:test";
import { Daemon } from "../harness/daemon.ts";
import { row } from "../harness/row.ts";

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

row("A23", "oom_score lowers the daemon's score, or its start says why not", { casts: ["peer", "ours"] }, async (t) => {
  const attempt = async (score: number): Promise<string> => {
    const config = `oom_score = ${score}\n`;
    const daemon = await Daemon.prepare({ maker: t.cast.daemon, config });
    try {
      await daemon.launch();
      return (await Bun.file(`/proc/${daemon.pid}/oom_score_adj`).text()).trim();
    } catch {
      return /permission denied/.test(await daemon.log) ? "permission denied" : await daemon.log;
    } finally {
      await daemon.close();
    }
  };
  // Lowering needs CAP_SYS_RESOURCE, which not every machine's root has.
  const capabilities = BigInt(`0x${/CapEff:\s+(\w+)/.exec(await Bun.file("/proc/self/status").text())?.[1] ?? "0"}`);
  const CAP_SYS_RESOURCE = 1n << 24n;
  expect(await attempt(-500)).toBe((capabilities & CAP_SYS_RESOURCE) === 0n ? "permission denied" : "-500");
});
