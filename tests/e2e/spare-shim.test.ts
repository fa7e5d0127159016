// A shim is kept ahead: the first container of a namespace gets it, and nothing of it outlives its daemon.
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import { processesNaming } from "../harness/daemon.ts";
import { eventually } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const LIMIT_MS = 20_000;

async function spares({ daemon }: Stage): Promise<number[]> {
  const found = await processesNaming(daemon.dir);
  return found.filter(({ command }) => / -id spare-\S+ .* -socket /.test(command)).map(({ pid }) => pid);
}

function untilSpare(t: Stage, other: readonly number[] = []): Promise<number> {
  return eventually("a spare shim", async () => (await spares(t)).find((pid) => !other.includes(pid)), LIMIT_MS);
}

async function parentOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
}

async function pidOf(t: Stage, id: string): Promise<number> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  return Number(line?.trim().split(/\s+/)[1]);
}

const ALONE = { casts: ["ours"], ownDaemon: true } as const;

row("R01", "the first container of a namespace gets the shim that was started ahead", ALONE, async (t) => {
  const image = await t.image();
  const first = await untilSpare(t);
  const [a, b] = [t.id("a"), t.id("b")];
  await t.must("run", "-d", image, a, "sleep", "1000");
  expect(await parentOf(await pidOf(t, a))).toBe(first);
  await t.must("run", "-d", image, b, "sleep", "1000");
  expect(await parentOf(await pidOf(t, b))).toBe(first);
  const second = await untilSpare(t, [first]);
  expect((await t.ctr("tasks", "exec", "--exec-id", "e", a, "echo", "hi")).stdout).toBe("hi\n");
  // One that was stopped or killed while it waited is no loss.
  process.kill(second, "SIGKILL");
  const other = `${t.namespace}-b`;
  t.daemon.use(other);
  const ran = await t.daemon.ctr("ours", other, ["run", "--rm", "--null-io", image, t.id("c"), "true"]);
  expect(ran.stderr).toContain("not found"); // the image is not in that namespace, and the answer comes at once
  for (const id of [a, b]) await t.must("tasks", "rm", "--force", id);
});

row("F31", "a spare shim ends with its daemon, and soon after one that was killed", ALONE, async (t) => {
  await untilSpare(t);
  await t.daemon.stop("SIGTERM");
  await eventually("the spare to end", async () => ((await spares(t)).length === 0 ? true : undefined), 3_000);
  await t.daemon.launch();
  const spare = await untilSpare(t);
  await t.daemon.stop("SIGKILL");
  await eventually("the spare to end", async () => ((await spares(t)).includes(spare) ? undefined : true), LIMIT_MS);
  await t.daemon.launch();
});

row(
  "F19",
  "spare = false keeps no shim ahead",
  {
    ...ALONE,
    config: { ours: '[plugins."io.containerd.shim.v1.manager".stevedore]\n  spare = false\n' },
  },
  async (t) => {
    await t.must("run", "--rm", await t.image(), t.id("a"), "true");
    await Bun.sleep(2_500);
    expect(await spares(t)).toEqual([]);
  },
);
