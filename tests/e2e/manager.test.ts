// What a manager of containers adds to the program that runs one: the list of its duties, and dozens of containers looked after.
import { expect } from "bun:test";
import { readFile } from "node:fs/promises";
import { settle, taskLeftovers } from "../crash/leftovers.ts";
import { eachOf } from "../harness/gate.ts";
import { eventually, exec } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

/** Dozens, as one manager has them. */
const CONTAINERS = 24;
/** Started at a time. */
const PARALLEL = 4;

/** What a high-level runtime does beyond running, and the plugins that do it. */
const DUTIES: Readonly<Record<string, readonly string[]>> = {
  "image management": [
    "grpc.v1 images",
    "content.v1 content",
    "grpc.v1 content",
    "metadata.v1 bolt",
    "gc.v1 scheduler",
  ],
  unpack: [
    "differ.v1 walking",
    "grpc.v1 diff",
    "snapshotter.v1 overlayfs",
    "snapshotter.v1 native",
    "grpc.v1 snapshots",
  ],
  running: ["runtime.v2 task", "grpc.v1 containers", "grpc.v1 tasks", "grpc.v1 events"],
  API: ["grpc.v1 namespaces", "grpc.v1 leases", "grpc.v1 version", "grpc.v1 introspection", "grpc.v1 healthcheck"],
};

row(
  "F17",
  "a high-level runtime's duties but transport: images are kept, unpacked, run, and all is asked for over gRPC",
  { casts: ["peer", "ours", "our-daemon", "our-ctr"] },
  async (t) => {
    const plugins = (await t.must("plugins", "ls")).split("\n").map((line) => line.trim().split(/\s+/));
    const ready = plugins
      .filter((columns) => columns.at(-1) === "ok")
      .map(([type = "", id = ""]) => `${type.replace("io.containerd.", "")} ${id}`);
    for (const [duty, parts] of Object.entries(DUTIES))
      expect({ duty, missing: parts.filter((part) => !ready.includes(part)) }).toEqual({ duty, missing: [] });

    // Not only listed: each of them works.
    const image = await t.image();
    expect(await t.must("images", "ls", "-q")).toBe(`${image}\n`);
    expect(await t.must("images", "check")).toMatch(RegExp(`^${image}\\s.*\\bcomplete\\b`, "m"));
    const copy = image.replace(":", ":copy-");
    await t.must("images", "tag", image, copy);
    expect((await t.must("images", "ls", "-q")).trim().split("\n").toSorted()).toEqual([image, copy].toSorted());
    const unpacked = (await t.must("snapshots", "ls")).trim().split("\n").slice(1);
    expect(unpacked.length).toBeGreaterThan(0);
    expect(unpacked.filter((line) => !line.includes("Committed"))).toEqual([]);
    expect(await t.must("run", "--rm", copy, t.id("c"), "echo", "from the image")).toBe("from the image\n");
    await t.must("images", "rm", "--sync", image, copy);
    expect((await t.must("content", "ls", "-q")).trim()).toBe("");
    expect((await t.must("snapshots", "ls")).trim().split("\n").slice(1)).toEqual([]);
  },
);

row(
  "F17",
  "what moves images is listed with containerd's types and ids",
  { casts: ["ours"], source: "shared/surface/plugins-v2.3.4.txt" },
  async (t) => {
    const listed = await t.must("plugins", "ls");
    for (const line of [
      /^io\.containerd\.transfer\.v1\s+local\s/m,
      /^io\.containerd\.streaming\.v1\s+manager\s/m,
      /^io\.containerd\.image-verifier\.v1\s+bindir\s/m,
      /^io\.containerd\.grpc\.v1\s+transfer\s/m,
      /^io\.containerd\.grpc\.v1\s+streaming\s/m,
    ]) {
      expect(listed).toMatch(line);
    }
  },
);

interface Listed {
  readonly pid: number;
  readonly status: string;
}

async function tasks(t: Stage): Promise<Map<string, Listed>> {
  const lines = (await t.must("tasks", "ls")).trim().split("\n").slice(1);
  return new Map(
    lines.map((line) => {
      const [id = "", pid = "0", status = ""] = line.trim().split(/\s+/);
      return [id, { pid: Number(pid), status }];
    }),
  );
}

const statuses = (found: ReadonlyMap<string, Listed>): Record<string, string> =>
  Object.fromEntries([...found].map(([id, { status }]) => [id, status]));

/** Starts many, a few at a time. @returns their ids */
async function startMany(t: Stage, count: number, args: readonly string[]): Promise<string[]> {
  const image = await t.image();
  const ids = Array.from({ length: count }, (_, index) => t.id(`c${index}`));
  await eachOf(count, PARALLEL, async (index) => {
    await t.must("run", "-d", "--null-io", image, ids[index] ?? "", ...args);
  });
  return ids;
}

row(
  "F33",
  "the states of dozens of containers are tracked, also over a kill of the daemon, and nothing is left of them",
  { casts: ["peer", "ours", "our-daemon", "their-shim"], ownDaemon: true, timeoutMs: 240_000 },
  async (t) => {
    const ids = await startMany(t, CONTAINERS, ["sleep", "1000"]);
    const started = await tasks(t);
    expect(new Set([...started.values()].map(({ pid }) => pid)).size).toBe(CONTAINERS);
    // A third goes on, a third is paused, a third ends.
    const wanted: Record<string, string> = {};
    for (const [index, id] of ids.entries()) {
      if (index % 3 === 0) await t.must("tasks", "pause", id);
      else if (index % 3 === 1) process.kill(started.get(id)?.pid ?? 0, "SIGKILL");
      wanted[id] = ["PAUSED", "STOPPED", "RUNNING"][index % 3] ?? "";
    }
    const untilAsWanted = async (): Promise<void> => {
      let found = {};
      await eventually("the list to be right", async () => {
        found = statuses(await tasks(t));
        return Bun.deepEquals(found, wanted) ? true : undefined;
      }).catch(() => expect(found).toEqual(wanted));
    };
    await untilAsWanted();
    // The runtime itself sees the same.
    const runc = await exec(["runc", "--root", `/run/containerd/runc/${t.namespace}`, "list"]);
    const seen = runc.stdout.trim().split("\n").slice(1);
    expect(Object.fromEntries(seen.map((line) => [line.split(/\s+/)[0], line.split(/\s+/)[2]?.toUpperCase()]))).toEqual(
      wanted,
    );
    // While nobody is there one more ends, and one goes on from its pause.
    const [paused = "", , running = ""] = ids;
    await t.daemon.stop("SIGKILL");
    process.kill(started.get(running)?.pid ?? 0, "SIGKILL");
    wanted[running] = "STOPPED";
    await t.daemon.launch();
    await untilAsWanted();
    for (const [id, { pid }] of await tasks(t))
      if (wanted[id] !== "STOPPED") expect(pid).toBe(started.get(id)?.pid ?? 0);
    await t.must("tasks", "resume", paused);
    wanted[paused] = "RUNNING";
    await untilAsWanted();
    // Resources are given back at the end.
    for (const id of ids) {
      if (wanted[id] === "PAUSED") await t.must("tasks", "resume", id);
      await t.ctr("tasks", "rm", "--force", id);
      await t.must("containers", "rm", id);
    }
    expect(await t.must("tasks", "ls", "-q")).toBe("");
    expect(await t.must("containers", "ls", "-q")).toBe("");
    expect(await settle(() => taskLeftovers(t.daemon, t.namespace))).toEqual([]);
    expect((await t.must("snapshots", "ls")).split("\n").filter((line) => /\b(Active|View)\b/.test(line))).toEqual([]);
  },
);

const quick = (section: string): string => `[plugins."${section}"]\n  interval = "500ms"\n`;

row(
  "F33",
  "of containers that fail those are started again that ask for it, the others stay as they ended",
  {
    casts: ["peer", "ours", "our-daemon"],
    timeoutMs: 120_000,
    config: {
      ours: quick("io.containerd.monitor.container.v1.restart"),
      debian: quick("io.containerd.internal.v1.restart"),
    },
  },
  async (t) => {
    const ids = await startMany(t, CONTAINERS / 2, ["sleep", "1000"]);
    const asking = ids.filter((_, index) => index % 2 === 0);
    for (const id of asking) await t.must("containers", "label", id, "containerd.io/restart.status=running");
    const before = await tasks(t);
    for (const { pid } of before.values()) process.kill(pid, "SIGKILL");
    const after = await eventually(
      "all that ask to run again",
      async () => {
        const found = await tasks(t);
        const back = asking.filter((id) => {
          const task = found.get(id);
          return task?.status === "RUNNING" && task.pid !== before.get(id)?.pid;
        });
        return back.length === asking.length ? found : undefined;
      },
      40_000,
    );
    for (const id of ids.filter((one) => !asking.includes(one))) expect(after.get(id)?.status).toBe("STOPPED");
    for (const id of asking)
      expect(await readFile(`/proc/${after.get(id)?.pid}/cmdline`, "utf8")).toBe("sleep\x001000\x00");
    for (const id of asking) await t.must("containers", "label", id, "containerd.io/restart.status=");
    for (const id of ids) {
      await t.ctr("tasks", "rm", "--force", id);
      await t.must("containers", "rm", id);
    }
    expect(await settle(() => taskLeftovers(t.daemon, t.namespace))).toEqual([]);
  },
);
