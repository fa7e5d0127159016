// runc's own commands beside containerd: bundles made by hand run, and runc sees, stops and removes what a daemon runs.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { chmod, mkdir, readdir, readFile, readlink, writeFile } from "node:fs/promises";
import { eventually, exec, type Result } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";
import { tar } from "../harness/tar.ts";

const PATH = "/usr/sbin:/usr/bin:/sbin:/bin";
const ENDS = { casts: ["peer", "ours"] } as const;

const runcRoot = (t: Stage): string => `/run/containerd/runc/${t.namespace}`;

/** runc on the state folder that containers of the case's namespace have. */
async function runc(t: Stage, ...args: string[]): Promise<Result> {
  return exec(["runc", "--root", runcRoot(t), ...args], { env: { PATH } });
}

async function json(ran: Promise<Result>): Promise<unknown> {
  const { code, stdout, stderr } = await ran;
  if (code !== 0) throw new Error(stderr);
  const parsed: unknown = JSON.parse(stdout);
  return parsed;
}

async function taskOf(t: Stage, id: string): Promise<{ pid: number; status: string }> {
  const line = (await t.must("tasks", "ls")).split("\n").find((one) => one.startsWith(`${id} `));
  const [, pid = "0", status = "gone"] = line?.trim().split(/\s+/) ?? [];
  return { pid: Number(pid), status };
}

async function untilStatus(t: Stage, id: string, status: string): Promise<void> {
  await eventually(`the task to be ${status}`, async () =>
    (await taskOf(t, id)).status === status ? true : undefined,
  );
}

/** Copies an image's files into `<bundle>/rootfs`, as `docker export` piped into tar does. */
async function exported(t: Stage, image: string, bundle: string): Promise<string> {
  const rootfs = `${bundle}/rootfs`;
  const point = `${bundle}.mnt`;
  await mkdir(rootfs, { recursive: true });
  await mkdir(point);
  await t.must("images", "mount", image, point);
  const copied = await exec(["sh", "-c", `tar -C ${point} -cf - . | tar -C ${rootfs} -xf -`], { env: { PATH } });
  await t.must("images", "unmount", "--rm", point);
  if (copied.code !== 0) throw new Error(copied.stderr);
  return rootfs;
}

/** Makes `config.json` by `runc spec` and changes it. */
async function specified(bundle: string, change: (text: string) => string): Promise<void> {
  const made = await exec(["runc", "spec"], { cwd: bundle, env: { PATH } });
  if (made.code !== 0) throw new Error(made.stderr);
  await writeFile(`${bundle}/config.json`, change(await readFile(`${bundle}/config.json`, "utf8")));
}

const withoutTerminal = (text: string): string => text.replace('"terminal": true', '"terminal": false');
const withArgs =
  (...args: string[]) =>
  (text: string): string =>
    text.replace(/"args": \[[^\]]*\]/, () => `"args": ${JSON.stringify(args)}`);

row(
  "F01",
  "another OCI runtime binary is run for create, start and delete",
  { covers: ["flag:ctr run --runc-binary", "flag:ctr run --runtime"] },
  async (t) => {
    const [binary, calls] = [t.path(t.id("runtime")), t.path(t.id("calls"))];
    await writeFile(binary, `#!/bin/sh\necho "$*" >>${calls}\nexec /usr/sbin/runc "$@"\n`);
    await chmod(binary, 0o755);
    const flags = ["--runtime", "io.containerd.runc.v2", "--runc-binary", binary];
    const ran = await t.ctr("run", "--rm", ...flags, await t.image(), t.id("c"), "echo", "by another");
    expect(ran).toEqual({ code: 0, stdout: "by another\n", stderr: "" });
    const verbs = (await readFile(calls, "utf8"))
      .trim()
      .split("\n")
      .map((line) => /\b(create|start|delete)\b/.exec(line)?.[1]);
    // Debian's shim deletes once more when it ends.
    expect([...new Set(verbs.filter((verb) => verb !== undefined))]).toEqual(["create", "start", "delete"]);
  },
);

row("F01", "a runtime binary that is not there is an error that names it", {}, async (t) => {
  const ran = await t.ctr("run", "--rm", "--runc-binary", "/nowhere/crun", await t.image(), t.id("c"), "true");
  expect(ran.code).toBe(1);
  expect(ran.stderr).toContain("/nowhere/crun");
  expect(await t.must("tasks", "ls", "-q")).toBe("");
});

row("F02", "an image's files as the root of a bundle made by hand", ENDS, async (t) => {
  const rootfs = await exported(t, await t.image(), t.path(t.id("mycontainer")));
  expect(existsSync(`${rootfs}/bin/busybox`)).toBe(true);
  expect(await readlink(`${rootfs}/bin/sh`)).toBe("busybox");
});

row("F03", "runc spec's default command is sh; the bundle runs by runc and by ctr alike", ENDS, async (t) => {
  const bundle = t.path(t.id("mycontainer"));
  const rootfs = await exported(t, await t.image(), bundle);
  await specified(bundle, (text) => text);
  const spec: unknown = JSON.parse(await readFile(`${bundle}/config.json`, "utf8"));
  expect(spec).toHaveProperty("process.args", ["sh"]);
  expect(spec).toHaveProperty("root.path", "rootfs");
  const changed = withArgs(
    "sh",
    "-c",
    "echo $0 is $$; hostname",
  )(withoutTerminal(await readFile(`${bundle}/config.json`, "utf8")));
  await writeFile(`${bundle}/config.json`, changed);
  const byRunc = await exec(["runc", "--root", t.path(t.id("state")), "run", "-b", bundle, t.id("by-runc")], {
    env: { PATH },
  });
  expect(byRunc).toEqual({ code: 0, stdout: "sh is 1\nrunc\n", stderr: "" });
  await writeFile(`${bundle}/config.json`, changed.replace('"path": "rootfs"', `"path": ${JSON.stringify(rootfs)}`));
  expect(await t.ctr("run", "--rm", "--config", `${bundle}/config.json`, t.id("by-ctr"))).toEqual(byRunc);
});

row("F05", "runc list shows the daemon's containers", ENDS, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const { pid } = await taskOf(t, id);
  const bundle = `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`;
  const [header = "", line = "", ...more] = (await runc(t, "list")).stdout.trim().split("\n");
  expect(more).toEqual([]);
  expect(header.trim().split(/\s+/)).toEqual(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
  const [shownId, shownPid, status, shownBundle, created, owner] = line.trim().split(/\s+/);
  expect([shownId, shownPid, status, shownBundle, owner]).toEqual([id, String(pid), "running", bundle, "root"]);
  expect(Math.abs(Date.now() - Date.parse(created ?? ""))).toBeLessThan(60_000);
  await t.must("tasks", "pause", id);
  expect((await runc(t, "list")).stdout).toMatch(/\spaused\s/);
  await t.must("tasks", "resume", id);
});

row("F06", "runc kill sends TERM, and the daemon sees how the process ended", ENDS, async (t) => {
  const id = t.id("c");
  const shell = "trap 'exit 21' TERM; touch /ready; while :; do sleep 0.1; done";
  await t.must("run", "-d", await t.image(), id, "sh", "-c", shell);
  await eventually("the trap", async () =>
    (await t.ctr("tasks", "exec", "--exec-id", "r", id, "test", "-e", "/ready")).code === 0 ? true : undefined,
  );
  const attached = t.ctr("tasks", "attach", id);
  await Bun.sleep(300);
  expect(await runc(t, "kill", id)).toMatchObject({ code: 0, stderr: "" });
  expect((await attached).code).toBe(21);
});

row("F06", "a first process without a handler ignores TERM and obeys KILL", ENDS, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sh", "-c", "while :; do sleep 0.1; done");
  expect((await runc(t, "kill", id)).code).toBe(0);
  await Bun.sleep(500);
  expect((await taskOf(t, id)).status).toBe("RUNNING");
  expect((await runc(t, "kill", id, "KILL")).code).toBe(0);
  await untilStatus(t, id, "STOPPED");
});

row("F07", "runc delete refuses what runs; deleting the task takes runc's state away", ENDS, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  const refused = await runc(t, "delete", id);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain("is not stopped");
  expect(await readdir(runcRoot(t))).toEqual([id]);
  await t.must("tasks", "kill", "-s", "KILL", id);
  await untilStatus(t, id, "STOPPED");
  await t.ctr("tasks", "delete", id);
  expect(existsSync(`${runcRoot(t)}/${id}`)).toBe(false);
  expect((await runc(t, "list", "-q")).stdout).toBe("");
});

row("F07", "runc delete -f under a daemon: the task stops and can be deleted", ENDS, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", await t.image(), id, "sleep", "1000");
  expect((await runc(t, "delete", "-f", id)).code).toBe(0);
  expect(existsSync(`${runcRoot(t)}/${id}`)).toBe(false);
  await untilStatus(t, id, "STOPPED");
  const deleted = await t.ctr("tasks", "delete", id);
  expect(deleted.code).toBeOneOf([0, 137]);
  expect(await t.must("tasks", "ls", "-q")).toBe("");
  expect((await t.ctr("containers", "delete", id)).code).toBe(0);
});

const SERVER = tar([
  { path: "usr/bin/", type: "dir" },
  { path: "usr/bin/redis-server", data: "#!/bin/sh\necho PONG\n", mode: 0o755 },
]);

row("F08", "a bundle from the image of a server", ENDS, async (t) => {
  const image = await t.image({
    name: "docker.io/library/redis:test",
    layers: [SERVER],
    config: { Cmd: ["redis-server"] },
  });
  const bundle = t.path(t.id("redis"));
  await exported(t, image, bundle);
  await specified(bundle, (text) => withArgs("redis-server")(withoutTerminal(text)));
  expect((await readdir(bundle)).toSorted()).toEqual(["config.json", "rootfs"]);
  const ran = await exec(["runc", "--root", t.path(t.id("state")), "run", "-b", bundle, t.id("r")], { env: { PATH } });
  expect(ran).toEqual({ code: 0, stdout: "PONG\n", stderr: "" });
  // The image itself says the same.
  expect(await t.must("run", "--rm", image, t.id("c"))).toBe("PONG\n");
});

row("F09", "config.json edited: another command, and the host's network", ENDS, async (t) => {
  const bundle = t.path(t.id("edited"));
  const rootfs = await exported(t, await t.image(), bundle);
  await specified(bundle, (text) =>
    withArgs(
      "sleep",
      "1000",
    )(withoutTerminal(text))
      .replace(/\{\s*"type": "network"\s*\},\s*/, "")
      .replace('"path": "rootfs"', `"path": ${JSON.stringify(rootfs)}`),
  );
  const id = t.id("c");
  await t.must("run", "-d", "--config", `${bundle}/config.json`, id);
  const { pid } = await taskOf(t, id);
  expect((await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0")).toEqual(["sleep", "1000", ""]);
  expect(await readlink(`/proc/${pid}/ns/net`)).toBe(await readlink("/proc/self/ns/net"));
  expect(await readlink(`/proc/${pid}/ns/pid`)).not.toBe(await readlink("/proc/self/ns/pid"));
});

row("F11", "the runtime's commands, each with its effect on the state", ENDS, async (t) => {
  const bundle = t.path(t.id("bundle"));
  await exported(t, await t.image(), bundle);
  await specified(bundle, (text) => withArgs("sleep", "1000")(withoutTerminal(text)));
  const id = t.id("c");
  const state = t.path(t.id("state"));
  const own = async (...args: string[]): Promise<Result> => exec(["runc", "--root", state, ...args], { env: { PATH } });
  // create holds its streams open as long as the container lives.
  const created = await exec(
    ["sh", "-c", `runc --root ${state} create -b ${bundle} ${id} </dev/null >/dev/null 2>&1`],
    {
      env: { PATH },
    },
  );
  expect(created.code).toBe(0);
  expect(await json(own("state", id))).toMatchObject({ id, status: "created", bundle, rootfs: `${bundle}/rootfs` });
  expect((await own("start", id)).code).toBe(0);
  expect(await json(own("state", id))).toMatchObject({ id, status: "running", owner: "" });
  expect((await own("kill", id, "KILL")).code).toBe(0);
  await eventually("it to stop", async () => {
    const found = await json(own("state", id));
    return JSON.stringify(found).includes('"stopped"') ? true : undefined;
  });
  expect((await own("delete", id)).code).toBe(0);
  expect((await own("state", id)).stderr).toContain("does not exist");
});

row("F11", "runc state of a daemon's container: id, pid, status, bundle, rootfs, annotations", ENDS, async (t) => {
  const id = t.id("c");
  await t.must("run", "-d", "--annotation", "a=b", await t.image(), id, "sleep", "1000");
  const { pid } = await taskOf(t, id);
  const bundle = `${t.daemon.state}/io.containerd.runtime.v2.task/${t.namespace}/${id}`;
  const found = await json(runc(t, "state", id));
  expect(found).toMatchObject({ id, pid, status: "running", bundle, rootfs: `${bundle}/rootfs`, owner: "" });
  expect(found).toHaveProperty("ociVersion");
  expect(found).toHaveProperty("created");
  await t.must("tasks", "kill", "-s", "KILL", id);
  await untilStatus(t, id, "STOPPED");
  expect(await json(runc(t, "state", id))).toMatchObject({ id, status: "stopped", pid: 0 });
});
