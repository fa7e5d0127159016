// 10,000 failed execs, attaches and resizes leave nothing in the daemon and the shim.
import { expect, test } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Daemon } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { failOften, heldBy, quiet } from "./failed-execs.ts";

const ROUNDS = 10_000;
/** The first rounds fill caches and load code. */
const WARM = 1_000;
/** A tenth of a KiB a round would be a leak of the smallest object there is. */
const GROWTH_KIB = (ROUNDS - WARM) / 10;
/** Four processes a round on a machine that has other things to do. */
const LIMIT_MS = 3_600_000;

test(
  "F34: ten thousand failed execs, attaches and resizes leave no descriptor, thread or memory",
  async () => {
    await using daemon = await Daemon.start({ maker: "ours" });
    const namespace = `stvscale${process.pid}`;
    const archive = join(daemon.dir, "image.tar");
    await writeFile(archive, await ociArchive());
    const must = async (...args: string[]): Promise<string> => {
      const ran = await daemon.ctr("ours", namespace, args, { timeoutMs: 60_000 });
      if (ran.code !== 0) throw new Error(`ctr ${args.join(" ")}: status ${ran.code}\n${ran.stderr}`);
      return ran.stdout;
    };
    await must("images", "import", archive);
    await must("run", "-d", "--null-io", IMAGE, "c", "sleep", "100000");
    const init = /^c\s+(\d+)/m.exec(await must("tasks", "ls"))?.[1] ?? "";
    const shim = Number(/^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${init}/status`, "utf8"))?.[1]);
    const of = { address: daemon.address, namespace, containerId: "c" };
    await failOften({ ...of, rounds: WARM });
    const before = { daemon: await heldBy(daemon.pid), shim: await heldBy(shim) };
    await failOften({ ...of, rounds: ROUNDS - WARM });
    const after = { daemon: await quiet(daemon.pid, before.daemon), shim: await quiet(shim, before.shim) };
    process.stdout.write(`${JSON.stringify({ before, after })}\n`);
    for (const who of ["daemon", "shim"] as const)
      expect(after[who].kibibytes - before[who].kibibytes).toBeLessThan(GROWTH_KIB);
    expect(await must("tasks", "exec", "--exec-id", "last", "c", "echo", "still there")).toBe("still there\n");
  },
  LIMIT_MS,
);
