// A container's whole life beside another one in the same shim: what is done to one is not felt by the other. Our daemon puts the
// containers of a namespace into one shim by itself; the annotation by which the peer's clients ask for it does, in every mix.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { readFile, readlink, writeFile } from "node:fs/promises";
import { eventually, exec } from "../harness/process.ts";
import { type CastName, row, type Stage } from "../harness/row.ts";
import { bundle, frozen, serve, visit } from "../harness/service.ts";

/** Containers with the same value of it share a shim. */
const GROUP = "io.containerd.runc.v2.group";

const WAYS: readonly { readonly what: string; readonly casts: readonly CastName[]; readonly asks: boolean }[] = [
  { what: "a shim that the daemon shares", casts: ["ours", "our-daemon"], asks: false },
  { what: "a shim that an annotation asks for", casts: ["peer", "ours", "our-shim", "their-shim"], asks: true },
];

interface Task {
  readonly pid: number;
  readonly status: string;
}

async function taskOf(t: Stage, id: string): Promise<Task> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid = "0", status = "gone"] = line?.trim().split(/\s+/) ?? [];
  return { pid: Number(pid), status };
}

async function parentOf(pid: number): Promise<string> {
  return /^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
}

for (const { what, casts, asks } of WAYS) {
  const options = {
    casts,
    timeoutMs: 120_000,
    ...(asks ? {} : { source: "Stevedore's own: docs/decisions/0064-shared-shims.md" }),
  };
  const together = asks ? ["--annotation", `${GROUP}=both`] : [];

  /** A neighbour that prints a number every 50 ms to a file, and serves a page. */
  const neighbour = async (t: Stage): Promise<{ unhurt: () => Promise<void>; end: () => Promise<void> }> => {
    const id = t.id("neighbour");
    const log = t.path(t.id("log"));
    const script = "i=0; while [ ! -e /go ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 23";
    const io = ["--log-uri", `file://${log}`];
    await t.must("run", "-d", ...together, ...io, await t.image(), id, "sh", "-c", script);
    const { pid } = await taskOf(t, id);
    const shim = await parentOf(pid);
    let execs = 0;
    const numbers = async (): Promise<number[]> =>
      (await readFile(log, "utf8"))
        .trimEnd()
        .split("\n")
        .filter((line) => line !== "")
        .map(Number);
    return {
      unhurt: async () => {
        expect(await taskOf(t, id)).toEqual({ pid, status: "RUNNING" });
        expect(await parentOf(pid)).toBe(shim);
        const before = (await numbers()).length;
        expect(await t.ctr("tasks", "exec", "--exec-id", `n${++execs}`, id, "sh", "-c", "echo on; exit 5")).toEqual({
          code: 5,
          stdout: "on\n",
          stderr: "",
        });
        await eventually("it to print on", async () => ((await numbers()).length > before ? true : undefined));
      },
      end: async () => {
        // The end of init may end this one before it has ended by itself.
        await t.ctr("tasks", "exec", "--exec-id", "go", id, "touch", "/go");
        await eventually("its end", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
        const seen = await numbers();
        expect(seen).toEqual(seen.map((_, at) => at));
        expect((await t.ctr("tasks", "rm", id)).code).toBeOneOf([0, 23]);
        await t.must("containers", "rm", id);
        await eventually("the shim to end, or to wait for the next container", async () =>
          asks && existsSync(`/proc/${shim}`) ? undefined : true,
        );
      },
    };
  };

  /** Whether a container is served by the neighbour's shim. */
  const sharesWith = async (t: Stage, ...ids: string[]): Promise<void> => {
    const parents = await Promise.all(ids.map(async (id) => parentOf((await taskOf(t, id)).pid)));
    expect(new Set([...parents, await parentOf((await taskOf(t, t.id("neighbour"))).pid)]).size).toBe(1);
    expect(await readFile(`/proc/${parents[0]}/cmdline`, "utf8")).toContain("containerd-shim-runc-v2");
  };

  row("G20 G21 G23 G27 G28 G29", `start, ps, exec, kill, delete in ${what}`, options, async (t) => {
    const near = await neighbour(t);
    const id = t.id("c");
    const image = await t.image();
    await t.must("containers", "create", ...together, image, id, "sleep", "1000");
    expect((await taskOf(t, id)).status).toBe("gone");
    expect(await t.must("tasks", "start", "-d", id)).toBe("");
    const { pid, status } = await taskOf(t, id);
    expect(status).toBe("RUNNING");
    await sharesWith(t, id);
    expect(await t.must("tasks", "ps", id)).toMatch(RegExp(`^${pid}\\s`, "m"));

    const said = await t.ctr("tasks", "exec", "--exec-id", "1", id, "sh", "-c", "echo out; echo err >&2; exit 9");
    expect(said).toEqual({ code: 9, stdout: "out\n", stderr: "err\n" });
    const typed = await t.ctrWith(
      { tty: true },
      "tasks",
      "exec",
      "--exec-id",
      "2",
      "-t",
      id,
      "sh",
      "-c",
      "tty; exit 4",
    );
    expect(typed.stdout).toContain("/dev/pts/0");
    expect(typed.code).toBe(4);
    const held = t.start("tasks", "exec", "--exec-id", "twice", id, "sleep", "500");
    await eventually("the exec to run", async () =>
      (await t.must("tasks", "ps", id)).trim().split("\n").length === 3 ? true : undefined,
    );
    const again = await t.ctr("tasks", "exec", "--exec-id", "twice", id, "true");
    expect(again.stderr).toContain("already exists");
    await near.unhurt();
    await t.must("tasks", "kill", "--exec-id", "twice", "-s", "KILL", id);
    expect(await held.exited).toBe(137);

    const running = await t.ctr("containers", "rm", id);
    expect(running.stderr).toContain("cannot delete a non stopped container");
    await t.must("tasks", "kill", "-s", "KILL", id);
    await eventually("it to stop", async () => ((await taskOf(t, id)).status === "STOPPED" ? true : undefined));
    await near.unhurt();
    expect((await t.ctr("tasks", "rm", id)).code).toBeOneOf([0, 137]);
    expect((await taskOf(t, id)).status).toBe("gone");
    expect((await t.must("containers", "ls", "-q")).split("\n")).toContain(id);
    await t.must("containers", "rm", id);
    expect((await t.must("snapshots", "ls")).split("\n").filter((line) => line.startsWith(`${id} `))).toEqual([]);
    await near.unhurt();
    await near.end();
  });

  row("G22 G24 G25 G26", `two services on the host's network in ${what}: one is paused`, options, async (t) => {
    const near = await neighbour(t);
    const [one, two] = [t.id("one"), t.id("two")];
    const ports = [await serve(t, one, ...together), await serve(t, two, ...together)] as const;
    await sharesWith(t, one, two);
    const { pid } = await taskOf(t, one);
    const other = (await taskOf(t, two)).pid;
    expect(await readlink(`/proc/${pid}/ns/net`)).toBe(await readlink("/proc/self/ns/net"));
    await t.must("tasks", "exec", "--exec-id", "w", one, "sh", "-c", "echo second > /www/index.html");
    expect([await visit(ports[0]), await visit(ports[1])]).toEqual(["second\n", "first\n"]);
    await t.must("tasks", "pause", one);
    expect([(await taskOf(t, one)).status, (await taskOf(t, two)).status]).toEqual(["PAUSED", "RUNNING"]);
    expect([await frozen(pid), await frozen(other)]).toEqual([true, false]);
    expect([await visit(ports[0], 500), await visit(ports[1])]).toEqual([undefined, "first\n"]);
    await near.unhurt();
    await t.must("tasks", "resume", one);
    expect((await taskOf(t, one)).status).toBe("RUNNING");
    expect(await visit(ports[0])).toBe("second\n");
    for (const id of [one, two]) await t.must("tasks", "rm", "--force", id);
    await near.unhurt();
    await near.end();
  });

  row("G30 G31", `a spec of one's own, and a pid namespace of another, in ${what}`, options, async (t) => {
    const near = await neighbour(t);
    const [first, second, own] = [t.id("first"), t.id("second"), t.id("own")];
    const image = await t.image();
    await t.must("run", "-d", ...together, image, first, "sleep", "1111");
    const { pid } = await taskOf(t, first);
    const namespace = ["--with-ns", `pid:/proc/${pid}/ns/pid`];
    await t.must("containers", "create", ...together, ...namespace, image, second, "sleep", "2222");
    await t.must("tasks", "start", "-d", second);
    for (const id of [first, second])
      expect(await t.must("tasks", "exec", "--exec-id", `ps-${id}`, id, "ps")).toMatch(/sleep 1111[^]*sleep 2222/);
    const folder = await bundle(t, "bundle", ["sleep", "3333"]);
    const spec = (await readFile(`${folder}/config.json`, "utf8")).replace(
      '"path": "rootfs"',
      `"path": ${JSON.stringify(`${folder}/rootfs`)}`,
    );
    const grouped = asks ? spec.replace("{", `{"annotations": {"${GROUP}": "both"},`) : spec;
    await writeFile(`${folder}/config.json`, grouped);
    await t.must("run", "-d", "--config", `${folder}/config.json`, own);
    await sharesWith(t, first, second, own);
    // The namespace's first process ends what joined it; who has a namespace of its own goes on.
    process.kill(pid, "SIGKILL");
    await eventually("both to stop", async () =>
      (await taskOf(t, first)).status + (await taskOf(t, second)).status === "STOPPEDSTOPPED" ? true : undefined,
    );
    expect((await taskOf(t, own)).status).toBe("RUNNING");
    await near.unhurt();
    for (const id of [second, first, own]) await t.must("tasks", "rm", "--force", id);
    expect((await exec(["test", "-e", `/run/containerd/runc/${t.namespace}/${own}`])).code).toBe(1);
    await near.unhurt();
    await near.end();
  });
}
