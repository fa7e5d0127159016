import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { canRunContainers, eventually, execSpec, OUR_SHIM, ShimBench } from "./test-shim.ts";

// Calls that come at the same time. Each must have the outcome of some order of them: no answer is lost, no event told twice.
setDefaultTimeout(90_000);

const SLEEP = { args: ["sleep", "1000"] };
const KILL = { signal: 9, all: true };

/** Outcomes as text, sorted: "ok", or what a call was refused with. */
async function outcomes(calls: readonly Promise<unknown>[]): Promise<string[]> {
  const settled = await Promise.allSettled(calls);
  return settled.map((one) => (one.status === "fulfilled" ? "ok" : String(one.reason))).toSorted();
}

function count<T>(items: readonly T[], wanted: T): number {
  return items.filter((item) => item === wanted).length;
}

describe.skipIf(!canRunContainers)("calls at the same time", () => {
  test("of several deletes one deletes, of several creates one creates", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const { id, task } = await bench.create("a", SLEEP);
    expect((await outcomes([1, 2, 3].map(async () => bench.make(task, "a"))))[0]).toContain("already exists");
    await task.start({ id });
    await task.kill({ id, ...KILL });
    await task.wait({ id });
    const deletes = await outcomes([1, 2, 3].map(async () => task.delete({ id })));
    expect(count(deletes, "ok")).toBe(1);
    expect(deletes.filter((one) => one.includes("not found"))).toHaveLength(2);
    await eventually(() => bench.topics().includes("/tasks/delete"));
    expect(count(bench.topics(), "/tasks/delete")).toBe(1);
    expect(bench.exits()).toEqual(["a:137"]);
  });

  test("calls about a container that is being made wait for it", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await bench.create("host", SLEEP);
    const { task } = host;
    const making = bench.add(host, "a", SLEEP);
    await eventually(async () => bench.begun("a"));
    const [state, killed] = [task.state({ id: "a" }), task.kill({ id: "a", ...KILL })];
    await making;
    expect(await state).toMatchObject({ id: "a" });
    await killed;
    await task.wait({ id: "a" });
    const again = bench.add(host, "b", SLEEP);
    await eventually(async () => bench.begun("b"));
    // A shutdown that comes meanwhile ends nothing, a delete takes what has come.
    const [shut, deleted] = [task.shutdown({ id: "b" }), task.delete({ id: "b" })];
    await again;
    await Promise.all([shut, deleted]);
    expect((await outcomes([task.state({ id: "b" })]))[0]).toContain("not found");
    await task.delete({ id: "a" });
    expect(await task.state({ id: "host" })).toMatchObject({ id: "host" });
  });

  test("execs that start while init is killed end before it is told, and nothing hangs", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await bench.create("host", SLEEP);
    const { task } = host;
    for (let round = 0; round < 6; round++) {
      const id = `c${round}`;
      await bench.add(host, id, round % 2 === 0 ? SLEEP : { ...SLEEP, namespaces: ["mount", "ipc", "uts", "network"] });
      await task.start({ id });
      const execs = ["x", "y", "z"].map((name) => `${name}${round}`);
      for (const execId of execs) await task.exec({ id, execId, spec: execSpec(["sleep", "1000"]) });
      const starts = execs.map(async (execId, at) => {
        await Bun.sleep(at * 15);
        return task.start({ id, execId });
      });
      await Bun.sleep(round * 12);
      const calls = [...starts, task.kill({ id, ...KILL }), task.wait({ id })];
      await outcomes(calls);
      await eventually(() => bench.exits().some((exit) => exit.startsWith(`${id}:`)));
      const told = bench.exits().map((exit) => exit.split(":")[0] ?? "");
      expect(count(told, id)).toBe(1);
      // Of those that ran, all were told of before init.
      const ran = execs.filter((execId) => told.includes(execId));
      for (const execId of ran) expect(told.indexOf(execId)).toBeLessThan(told.indexOf(id));
      const deletes = [...execs, ...execs].map(async (execId) => task.delete({ id, execId }));
      expect(count(await outcomes(deletes), "ok")).toBe(execs.length);
      await task.delete({ id });
    }
  });

  test("an exec id is one exec's, whoever asks first", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const { id, task } = await bench.create("a", SLEEP);
    await task.start({ id });
    const spec = execSpec(["sleep", "1000"]);
    const adds = await outcomes([1, 2, 3].map(async () => task.exec({ id, execId: "e", spec })));
    expect(count(adds, "ok")).toBe(1);
    const starts = await outcomes([1, 2, 3].map(async () => task.start({ id, execId: "e" })));
    expect(count(starts, "ok")).toBe(1);
    const kills = await outcomes([1, 2].map(async () => task.kill({ id, execId: "e", signal: 9 })));
    expect(count(kills, "ok")).toBeGreaterThan(0);
    await task.wait({ id, execId: "e" });
    await eventually(() => bench.exits().length > 0);
    expect(bench.exits()).toEqual(["e:137"]);
    // The id is free again with the delete, not before.
    const both = await Promise.allSettled([task.delete({ id, execId: "e" }), task.exec({ id, execId: "e", spec })]);
    expect(both[0].status).toBe("fulfilled");
    if (both[1].status === "rejected") expect(await outcomes([task.exec({ id, execId: "e", spec })])).toEqual(["ok"]);
    await task.delete({ id, execId: "e" });
  });

  test("execs that nobody deletes leave nothing open when their container goes", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await bench.create("host", SLEEP);
    const { task, shimPid } = host;
    const open = (): number => readdirSync(`/proc/${shimPid}/fd`).length;
    const life = async (id: string): Promise<void> => {
      await bench.add(host, id, SLEEP);
      await task.start({ id });
      for (const execId of ["x", "y"]) {
        await task.exec({ id, execId, spec: execSpec(["true"]) });
        await task.start({ id, execId });
        await task.wait({ id, execId });
      }
      await task.kill({ id, ...KILL });
      await task.wait({ id });
      await task.delete({ id });
    };
    await life("first"); // what is opened once and for all
    const before = open();
    for (const id of ["a", "b", "c"]) await life(id);
    await eventually(() => open() <= before);
  });

  test("pause, resume, kill and delete at once leave a container that can be deleted", async () => {
    await using bench = await ShimBench.open(OUR_SHIM, 3);
    const host = await bench.create("host", SLEEP);
    const { task } = host;
    for (let round = 0; round < 4; round++) {
      const id = `c${round}`;
      await bench.add(host, id, SLEEP);
      await task.start({ id });
      await outcomes([
        task.pause({ id }),
        task.resume({ id }),
        task.kill({ id, ...KILL }),
        task.delete({ id }),
        task.pause({ id }),
      ]);
      await outcomes([task.resume({ id })]);
      await outcomes([task.kill({ id, ...KILL })]);
      await outcomes([task.wait({ id })]);
      await outcomes([task.delete({ id })]);
      expect((await outcomes([task.state({ id })]))[0]).toContain("not found");
      await eventually(() => bench.exits().includes(`${id}:137`));
      expect(count(bench.exits(), `${id}:137`)).toBe(1);
    }
  });
});
