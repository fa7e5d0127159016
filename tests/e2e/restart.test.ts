// The restart monitor: containers whose labels ask for it come back, within limits, also over a kill of the daemon. The labels are
// set as clients set them; ctr has no flag for it. The peer of Debian knows the status and the log, later ones the policies.
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import { eventually, exec } from "../harness/process.ts";
import { type RowOptions, row, type Stage } from "../harness/row.ts";

/** Short, so that the peer, which only looks, is quick too. */
const interval = (time: string): NonNullable<RowOptions["config"]> => ({
  ours: `[plugins."io.containerd.monitor.container.v1.restart"]\n  interval = "${time}"\n`,
  debian: `[plugins."io.containerd.internal.v1.restart"]\n  interval = "${time}"\n`,
});

const SOURCE = "core/runtime/restart/restart.go and plugins/restart/monitor.go of containerd 2.3.4";

async function pidOf(t: Stage, id: string): Promise<number | undefined> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid, status] = line?.split(/\s+/) ?? [];
  return status === "RUNNING" ? Number(pid) : undefined;
}

/** How often the monitor says it has started it; "" for never. */
async function countOf(t: Stage, id: string): Promise<string> {
  return /"containerd.io\/restart.count": "(\d+)"/.exec(await t.must("containers", "info", id))?.[1] ?? "";
}

const label = async (t: Stage, id: string, ...pairs: string[]): Promise<string> =>
  t.must("containers", "label", id, ...pairs.map((pair) => `containerd.io/restart.${pair}`));

/** Nothing is restarted behind the case's back while it is cleared. */
async function forget(t: Stage, ...ids: string[]): Promise<void> {
  for (const id of ids) await t.ctr("containers", "label", id, "containerd.io/restart.status=");
}

row(
  "A30",
  "a container that is to run comes back when it is killed, and goes when it is to stop",
  {
    casts: ["peer", "ours", "our-daemon", "their-shim"],
    config: interval("500ms"),
    covers: ["config:plugins.io.containerd.monitor.container.v1.restart.interval"],
  },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    const first = await eventually("it to run", () => pidOf(t, id));
    await label(t, id, "status=running");
    process.kill(first, "SIGKILL");
    const second = await eventually("it to run again", async () => {
      const pid = await pidOf(t, id);
      return pid === first ? undefined : pid;
    });
    expect(second).not.toBe(first);
    await label(t, id, "status=stopped");
    await eventually("it to end", async () => ((await t.must("tasks", "ls", "-q")).includes(id) ? undefined : true));
    // Without the label nobody looks after it.
    await forget(t, id);
  },
);

row(
  "A30",
  "what is to run is started when it has no task, with its output where the label says; a broken one does not stop the others",
  { casts: ["peer", "ours"], config: interval("500ms") },
  async (t) => {
    const image = await t.image();
    const [good, broken] = [t.id("good"), t.id("broken")];
    const log = t.path(t.id("log"));
    await t.must("containers", "create", image, broken, "no-such-command");
    await t.must("containers", "create", image, good, "echo", "hello");
    await label(t, broken, "status=running");
    await label(t, good, "status=running", `loguri=file://${log}`);
    // It ends at once, and is started again.
    await eventually("its output", async () =>
      (await readFile(log, "utf8").catch(() => "")).startsWith("hello\nhello\n") ? true : undefined,
    );
    expect(await pidOf(t, broken)).toBeUndefined();
    await forget(t, broken, good);
  },
);

row(
  "A30",
  "policies: on-failure counts, unless-stopped heeds the stop, no and success are left alone",
  { casts: ["ours"], source: SOURCE, config: interval("300ms") },
  async (t) => {
    const image = await t.image();
    const make = async (name: string, script: string, ...pairs: string[]): Promise<string> => {
      const id = t.id(name);
      await t.must("run", "-d", "--null-io", image, id, "sh", "-c", script);
      await label(t, id, ...pairs, "status=running");
      return id;
    };
    const never = await make("never", "sleep 1; exit 1", "policy=no");
    const fine = await make("fine", "sleep 1; exit 0", "policy=on-failure");
    const limited = await make("limited", "sleep 1; exit 5", "policy=on-failure:2");
    const unless = await make("unless", "sleep 1; exit 0", "policy=unless-stopped");
    const wrong = await make("wrong", "sleep 1; exit 0", "policy=sometimes");
    const count = async (id: string): Promise<string> => countOf(t, id);
    await eventually("two restarts", async () => ((await count(limited)) === "2" ? true : undefined), 20_000);
    await eventually("its last end", async () => ((await pidOf(t, limited)) === undefined ? true : undefined));
    await eventually("some restarts", async () => (Number(await count(unless)) >= 2 ? true : undefined), 20_000);
    await label(t, unless, "explicitly-stopped=true");
    await eventually("the end of the last", async () => ((await pidOf(t, unless)) === undefined ? true : undefined));
    const before = await count(unless);
    // Several intervals in which nothing may happen.
    await Bun.sleep(1_500);
    expect(await count(unless)).toBe(before);
    expect([await count(limited), await count(never), await count(fine), await count(wrong)]).toEqual([
      "2",
      "",
      "",
      "",
    ]);
    expect((await t.must("tasks", "ls")).match(/STOPPED/g)).toHaveLength(5);
    const said = (await t.daemon.log).split("\n").filter((line) => line.includes('restart policy \\"sometimes\\"'));
    expect(said).toHaveLength(1);
    await forget(t, never, fine, limited, unless, wrong);
  },
);

row(
  "A30",
  "an end is answered at once though the interval is long, later and later when it keeps ending, and its events are told",
  { casts: ["ours"], source: "Stevedore's own: docs/decisions/0142-restart-monitor.md", config: interval("1h") },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    await label(t, id, "status=running");
    const first = await eventually("it to run", () => pidOf(t, id));
    process.kill(first, "SIGKILL");
    await eventually("it to run again", async () => {
      const pid = await pidOf(t, id);
      return pid === first ? undefined : pid;
    });
    const events = await t.must("events", "--since", "1h", "--no-follow", `namespace=="${t.namespace}"`);
    const topics = events
      .split("\n")
      .map((line) => line.split(" ")[5])
      .filter((topic) => topic?.startsWith("/tasks/"));
    expect(topics).toEqual([
      "/tasks/create",
      "/tasks/start",
      "/tasks/exit",
      "/tasks/delete",
      "/tasks/create",
      "/tasks/start",
    ]);
    expect(await countOf(t, id)).toBe("1");
    await forget(t, id);
  },
);

row(
  "A30",
  "what ended while the daemon was dead is started by the next one",
  { casts: ["peer", "ours", "their-shim"], config: interval("500ms") },
  async (t) => {
    const id = t.id("c");
    await t.must("run", "-d", "--null-io", await t.image(), id, "sleep", "1000");
    await label(t, id, "status=running");
    const first = await eventually("it to run", () => pidOf(t, id));
    await t.daemon.stop("SIGKILL");
    process.kill(first, "SIGKILL");
    await eventually("its end", async () =>
      (await exec(["kill", "-0", String(first)])).code === 0 ? undefined : true,
    );
    await t.daemon.launch();
    await eventually("it to run again", async () => {
      const pid = await pidOf(t, id);
      return pid === first ? undefined : pid;
    });
    await forget(t, id);
  },
);
