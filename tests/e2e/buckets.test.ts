// What a comparison of engines by threads and iterations does (bucketbench): each thread starts, stops and removes containers one after
// the other through a command line. It prints iterations per second; figures that count come from `make bench` on a quiet machine.
import { expect } from "bun:test";
import { settle, taskLeftovers } from "../crash/leftovers.ts";
import { dockerRow, listed } from "../harness/docker-row.ts";
import { DOCKER_IMAGE } from "../harness/dockerd.ts";
import { eachOf } from "../harness/gate.ts";
import { row, type Stage } from "../harness/row.ts";

const THREADS = [1, 2, 4];
const ITERATIONS = 3;

/** Runs `iteration` for each number of threads, and prints how many of them a second there were. */
async function buckets(what: string, iteration: (id: string) => Promise<void>): Promise<void> {
  const rates: string[] = [];
  for (const threads of THREADS) {
    const began = performance.now();
    await eachOf(threads, threads, async (thread) => {
      for (let round = 0; round < ITERATIONS; round += 1) await iteration(`t${threads}-${thread}-${round}`);
    });
    const rate = (threads * ITERATIONS * 1_000) / (performance.now() - began);
    rates.push(`${threads} threads ${rate.toFixed(2)}/s`);
  }
  process.stdout.write(`${what}: start, stop and remove, ${rates.join(", ")}\n`);
}

const states = async (t: Stage): Promise<string> => t.must("tasks", "ls");

row(
  "R01",
  "threads that start, stop and remove containers through ctr: none fails, nothing is left, and the rate is told",
  { casts: ["peer", "ours", "our-daemon", "their-shim"], ownDaemon: true, timeoutMs: 240_000 },
  async (t) => {
    const image = await t.image();
    await buckets(`ctr [${t.castName}]`, async (name) => {
      const id = t.id(name);
      await t.must("run", "-d", "--null-io", image, id, "sleep", "1000");
      expect(await states(t)).toMatch(RegExp(`^${id}\\s+\\d+\\s+RUNNING`, "m"));
      await t.must("tasks", "kill", "-s", "KILL", id);
      while (!RegExp(`^${id}\\s+\\d+\\s+STOPPED`, "m").test(await states(t))) await Bun.sleep(10);
      expect((await t.ctr("tasks", "rm", id)).code).toBeOneOf([0, 137]);
      await t.must("containers", "rm", id);
    });
    expect(await t.must("tasks", "ls", "-q")).toBe("");
    expect(await t.must("containers", "ls", "-q")).toBe("");
    expect(await settle(() => taskLeftovers(t.daemon, t.namespace))).toEqual([]);
  },
);

dockerRow(
  "R01",
  "threads that start, stop and remove containers through docker: none fails, nothing is left, and the rate is told",
  {},
  async (t, docker) => {
    await buckets(`docker [${t.castName}]`, async (name) => {
      await docker.must("run", "-d", "--name", name, "--network", "none", DOCKER_IMAGE, "sleep", "1000");
      expect(await docker.must("stop", "-t", "0", name)).toBe(name);
      expect(await docker.must("rm", name)).toBe(name);
    });
    expect(await docker.must("ps", "-aq")).toBe("");
    expect(await listed(t, "containers")).toEqual([]);
    expect(await listed(t, "tasks")).toEqual([]);
  },
);
