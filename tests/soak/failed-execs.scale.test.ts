// 10,000 failed execs, attaches and resizes leave nothing in the daemon and the shim; fewer when the lane's time is too short.
import { expect, test } from "bun:test";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LANE_MS } from "../crash/leftovers.ts";
import { Daemon } from "../harness/daemon.ts";
import { IMAGE, ociArchive } from "../harness/images.ts";
import { failOften, heldBy, quiet } from "./failed-execs.ts";

const MOST = 10_000;
/** The first rounds fill caches and load code: so many, or for two fifths of the time. */
const WARM = 1_000;
const WARMING = 0.4;
/** Rounds between looks at the clock. */
const STEP = 100;
/** A tenth of a KiB a round would be a leak of the smallest object there is... */
const GROWTH_KIB = 0.1;
/** ...but a heap may grow by this much before it is collected: after few rounds only descriptors and threads show a leak. */
const NOISE_KIB = 65_536;

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
    /** Rounds until `most` are done or the time is over. @returns how many it were */
    const failFor = async (most: number, limitMs: number): Promise<number> => {
      const end = performance.now() + limitMs;
      let done = 0;
      do {
        await failOften({ ...of, rounds: STEP });
        done += STEP;
      } while (done < most && performance.now() < end);
      return done;
    };
    const warm = await failFor(WARM, LANE_MS * WARMING);
    const before = { daemon: await heldBy(daemon.pid), shim: await heldBy(shim) };
    const rounds = await failFor(MOST - warm, LANE_MS * (1 - WARMING));
    const after = { daemon: await quiet(daemon.pid, before.daemon), shim: await quiet(shim, before.shim) };
    process.stdout.write(`${warm} and ${rounds} rounds: ${JSON.stringify({ before, after })}\n`);
    for (const who of ["daemon", "shim"] as const)
      expect(after[who].kibibytes - before[who].kibibytes).toBeLessThan(Math.max(NOISE_KIB, rounds * GROWTH_KIB));
    expect(await must("tasks", "exec", "--exec-id", "last", "c", "echo", "still there")).toBe("still there\n");
  },
  LANE_MS + 300_000,
);
