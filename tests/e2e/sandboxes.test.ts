// Sandboxes: a shim that is a pod, and the containers that live in it. No live peer in Debian has them.
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { backgroundContext, isErrorClass, messageOf, type RequestContext } from "@stevedore/base";
import { connectClient } from "@stevedore/sdk";
import type { Client } from "@stevedore/sdk/client";
import { deleteSandbox } from "@stevedore/sdk/sandbox";
import { Controller } from "@stevedore/wire/gen/containerd/services/sandbox/v1/sandbox_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createGrpcServer } from "@stevedore/wire/grpc/server";
import { createClient, Router } from "@stevedore/wire/rpc/index";
import { Daemon, processesNaming } from "../harness/daemon.ts";
import { eventually } from "../harness/process.ts";
import { row, type Stage } from "../harness/row.ts";

const CONTROLLER = "containerd 2.3.4, plugins/sandbox/controller.go and plugins/services/sandbox/controller_service.go";
const CTR = "containerd 2.3.4, cmd/ctr/commands/sandboxes/sandboxes.go";
const SHIM_MANAGER = "containerd 2.3.4, core/runtime/v2/shim_manager.go";

/** A sandbox that runs, made by ctr. */
async function sandbox(t: Stage, id = t.id("pod"), config = '{"hostname":"pod"}'): Promise<string> {
  const path = t.path(`${id}.json`);
  await writeFile(path, config);
  expect(await t.ctr("sandboxes", "run", path, id)).toMatchObject({ code: 0, stdout: `${id}\n`, stderr: "" });
  return id;
}

/** A client of the case's daemon in the case's namespace. */
async function withClient<T>(t: Stage, use: (client: Client, context: RequestContext) => Promise<T>): Promise<T> {
  await using client = connectClient({ address: t.daemon.address });
  return await use(client, backgroundContext({ namespace: t.namespace, signal: AbortSignal.timeout(30_000) }));
}

async function stateOf(t: Stage, id: string): Promise<string> {
  return withClient(t, async (client, context) => {
    return (await client.sandboxController("shim").status(context, id, { verbose: false })).state;
  });
}

/** Pids of the shims of a case's namespace. */
async function shims(t: Stage): Promise<number[]> {
  const found = await processesNaming(t.daemon.dir);
  return found
    .filter(
      ({ command }) => command.includes("containerd-shim-runc-v2") && command.includes(`-namespace ${t.namespace} `),
    )
    .map(({ pid }) => pid);
}

/** Ids of running tasks with their pids. */
async function tasks(t: Stage): Promise<Map<string, { pid: number; status: string }>> {
  const lines = (await t.must("tasks", "ls")).trim().split("\n").slice(1);
  return new Map(
    lines.map((line) => {
      const [id = "", pid = "0", status = ""] = line.trim().split(/\s+/);
      return [id, { pid: Number(pid), status }];
    }),
  );
}

async function parentOf(pid: number): Promise<number> {
  return Number(/^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]);
}

const folders = (t: Stage): string[] =>
  [t.daemon.state, t.daemon.root].map((top) => join(top, "io.containerd.sandbox.controller.v1.shim", t.namespace));

/** Nothing of the case's sandboxes is left on disk. */
async function expectNoBundles(t: Stage): Promise<void> {
  for (const folder of folders(t)) expect(existsSync(folder) ? await readdir(folder) : []).toEqual([]);
}

row(
  "N10",
  "ctr sandboxes run, list, info and remove",
  {
    casts: ["ours"],
    source: CTR,
    covers: [
      "cmd:ctr sandboxes",
      "cmd:ctr sandboxes run",
      "cmd:ctr sandboxes list",
      "cmd:ctr sandboxes info",
      "cmd:ctr sandboxes remove",
      "flag:ctr sandboxes list --filters",
      "flag:ctr sandboxes remove --force",
      "flag:ctr sandboxes run --runtime",
    ],
  },
  async (t) => {
    const [a, b] = [await sandbox(t), await sandbox(t, t.id("other"))];
    const listed = (await t.must("sandboxes", "ls")).split("\n");
    expect(listed[0]).toMatch(/^ID +CREATED +RUNTIME +$/);
    const line = listed.find((one) => one.startsWith(`${a} `));
    expect(line).toMatch(/^\S+ +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? +\+0000 UTC +io\.containerd\.runc\.v2 +$/);
    const filtered = await t.must("sandboxes", "list", "--filters", `id==${b}`);
    expect(filtered).toContain(b);
    expect(filtered).not.toContain(`${a} `);
    expect(JSON.parse(await t.must("sandboxes", "info", a))).toMatchObject({
      ID: a,
      Labels: null,
      Runtime: { Name: "io.containerd.runc.v2", Options: { type_url: "google.protobuf.Empty" } },
      Spec: {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec",
        value: Buffer.from('{"ociVersion":"","hostname":"pod"}').toString("base64"),
      },
      Sandboxer: "shim",
      Extensions: {},
    });
    expect(await stateOf(t, a)).toBe("SANDBOX_READY");
    // The id is taken, and stays the first one's.
    const again = await t.ctr("sandboxes", "run", t.path(`${a}.json`), a);
    expect(again).toMatchObject({ code: 1, stdout: "" });
    expect(again.stderr).toContain(`failed to create new sandbox: write error: sandbox bucket "${a}" already exists`);
    expect(await stateOf(t, a)).toBe("SANDBOX_READY");
    const removed = await t.ctr("sandboxes", "rm", "--force", a, "nobody", b);
    expect(removed).toMatchObject({ code: 0, stdout: "" });
    expect(removed.stderr).toContain(`deleted: ${a}`);
    expect(removed.stderr).toContain(`deleted: ${b}`);
    expect(removed.stderr).toContain("failed to load sandbox nobody");
    expect((await t.must("sandboxes", "ls")).trim().split("\n")).toHaveLength(1);
    const runtime = await t.ctr("sandboxes", "run", "--runtime", "io.containerd.none.v9", t.path(`${a}.json`), a);
    expect(runtime.code).toBe(1);
    expect(runtime.stderr).toContain(
      `failed to create sandbox with shim sandboxer: failed to start new shim for sandbox ${a}`,
    );
    // What failed has left no record.
    expect((await t.must("sandboxes", "ls")).trim().split("\n")).toHaveLength(1);
    expect((await t.ctr("sandboxes", "run", t.path("no.json"), a)).stderr).toContain(
      "failed to read sandbox config: open ",
    );
    await eventually("the shims to end", async () => ((await shims(t)).length === 0 ? true : undefined));
    await expectNoBundles(t);
  },
);

row(
  "N10",
  "containers of a sandbox live in its shim, and end with it",
  {
    casts: ["ours"],
    source: SHIM_MANAGER,
    covers: ["flag:ctr run --sandbox", "flag:ctr containers create --sandbox"],
  },
  async (t) => {
    const pod = await sandbox(t);
    const [shim] = await shims(t);
    const image = await t.image();
    const [a, b] = [t.id("a"), t.id("b")];
    await t.must("run", "-d", "--null-io", "--sandbox", pod, image, a, "sleep", "1000");
    await t.must("containers", "create", "--sandbox", pod, image, b, "sh", "-c", "exit 5");
    expect(JSON.parse(await t.must("containers", "info", b))).toMatchObject({ SandboxID: pod });
    expect((await t.ctr("tasks", "start", b)).code).toBe(5);
    const { pid = 0 } = (await tasks(t)).get(a) ?? {};
    expect(await parentOf(pid)).toBe(shim ?? 0);
    expect(await shims(t)).toHaveLength(1);
    const bundle = join(t.daemon.state, "io.containerd.runtime.v2.task", t.namespace, a);
    expect(await readFile(join(bundle, "sandbox"), "utf8")).toBe(pod);
    const record = await readFile(join(bundle, "bootstrap.json"), "utf8");
    const [, podBundle = ""] = [folders(t)[1], folders(t)[0]];
    expect(record).toBe(await readFile(join(podBundle, pod, "bootstrap.json"), "utf8"));
    // The end of a container, the first one included, is not the sandbox's.
    await t.must("tasks", "kill", "-s", "KILL", a);
    await eventually("the task to stop", async () =>
      (await tasks(t)).get(a)?.status === "STOPPED" ? true : undefined,
    );
    await t.ctr("tasks", "rm", a);
    expect(await stateOf(t, pod)).toBe("SANDBOX_READY");
    await t.must("tasks", "start", "-d", "--null-io", a);
    // No task may have the sandbox's id: its shim would have the same socket.
    await t.must("containers", "create", image, pod, "true");
    expect((await t.ctr("tasks", "start", pod)).stderr).toContain(`task ${pod}: already exists`);
    const none = await t.ctr("run", "-d", "--sandbox", pod, image, a, "true");
    expect(none.code).toBe(1);
    const events = t.start("events");
    await Bun.sleep(400);
    await t.must("sandboxes", "rm", pod);
    expect([...(await tasks(t)).keys()]).toEqual([]);
    await eventually("the shim to end", async () => ((await shims(t)).length === 0 ? true : undefined));
    await expectNoBundles(t);
    const topics = await eventually("the events", () => {
      const seen = [...events.stdout().matchAll(/ (\/\S+) \{/g)].map(([, topic]) => topic);
      return seen.includes("/sandboxes/exit") && seen.includes("/tasks/delete") ? seen : undefined;
    });
    expect(topics).toEqual(["/tasks/exit", "/sandboxes/exit", "/tasks/delete"]);
    await events.stop();
  },
);

row(
  "N10",
  "a container of a sandbox that does not run is refused",
  { casts: ["ours"], source: SHIM_MANAGER },
  async (t) => {
    const image = await t.image();
    const [pod, id, free] = [t.id("pod"), t.id("a"), t.id("b")];
    await withClient(t, async (client, context) => {
      await client.sandboxes.create(context, {
        id: pod,
        sandboxer: "shim",
        runtime: { name: "io.containerd.runc.v2" },
        labels: {},
        extensions: {},
      });
      const refused = await t.ctr("run", "-d", "--sandbox", pod, image, id, "true");
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain(`can't find shim for sandbox ${pod}`);
      await client.sandboxes.delete(context, pod);
    });
    // One without a record is an ordinary container: what containerd 1.x made has none.
    expect(await t.ctr("run", "--rm", "--sandbox", pod, image, free, "sh", "-c", "exit 3")).toMatchObject({ code: 3 });
    expect(await shims(t)).not.toBe([]);
  },
);

row(
  "N10",
  "the controller's calls, by the SDK",
  {
    casts: ["ours"],
    source: CONTROLLER,
    covers: [
      "rpc:containerd.services.sandbox.v1.Controller/Create",
      "rpc:containerd.services.sandbox.v1.Controller/Start",
      "rpc:containerd.services.sandbox.v1.Controller/Platform",
      "rpc:containerd.services.sandbox.v1.Controller/Stop",
      "rpc:containerd.services.sandbox.v1.Controller/Wait",
      "rpc:containerd.services.sandbox.v1.Controller/Status",
      "rpc:containerd.services.sandbox.v1.Controller/Shutdown",
      "rpc:containerd.services.sandbox.v1.Controller/Metrics",
      "rpc:containerd.services.sandbox.v1.Controller/Update",
      "rpc:containerd.services.sandbox.v1.Store/Create",
      "rpc:containerd.services.sandbox.v1.Store/Update",
      "rpc:containerd.services.sandbox.v1.Store/Delete",
      "rpc:containerd.services.sandbox.v1.Store/List",
      "rpc:containerd.services.sandbox.v1.Store/Get",
    ],
  },
  async (t) => {
    const image = await t.image();
    await withClient(t, async (client, context) => {
      const id = t.id("pod");
      const extra = { typeUrl: "example/Extra", value: new Uint8Array([0, 255, 7]) };
      const record = {
        id,
        sandboxer: "shim",
        runtime: { name: "io.containerd.runc.v2" },
        labels: { tier: "web", gone: "soon" },
        extensions: { extra },
      };
      const made = await client.sandboxes.create(context, record);
      const updated = await client.sandboxes.update(context, { ...record, labels: { tier: "db" } }, [
        "labels.tier",
        "labels.gone",
      ]);
      expect(updated.labels).toEqual({ tier: "db" });
      expect(updated.extensions).toEqual({ extra });
      expect(updated.createdAt).toEqual(made.createdAt);
      expect(await client.sandboxes.get(context, id)).toEqual(updated);
      expect((await client.sandboxes.list(context, ["labels.tier==db"])).map((one) => one.id)).toEqual([id]);
      expect(await client.sandboxes.list(context, ["labels.tier==web"])).toEqual([]);

      const controller = client.sandboxController("shim");
      const annotations = { "example.org/note": "kept" };
      await controller.create(context, { sandbox: updated, rootfs: [], netnsPath: "/run/netns/x", annotations });
      expect(await controller.status(context, id, { verbose: true })).toMatchObject({
        state: "SANDBOX_NOTREADY",
        info: { netnsPath: "/run/netns/x", annotations: JSON.stringify(annotations) },
      });
      const { pid, address, version, createdAt } = await controller.start(context, id);
      expect(await readFile(`/proc/${pid}/comm`, "utf8")).toStartWith("containerd-shim");
      expect(version).toBe(3);
      expect(address).toMatch(/^ttrpc\+unix:\/\/\//);
      expect(await controller.platform(context, id)).toEqual({ os: "linux", architecture: "amd64", variant: "" });
      // The same answer again: whoever lost it asks again.
      expect(await controller.start(context, id)).toMatchObject({ pid, address });
      await controller.update(context, id, updated, ["labels"]);
      expect(await controller.metrics(context, id)).toMatchObject({ id });

      const [one, two] = [t.id("a"), t.id("b")];
      await t.must("run", "-d", "--null-io", "--sandbox", id, image, one, "sleep", "1000");
      const stubborn = "trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done";
      await t.must("run", "-d", "--null-io", "--sandbox", id, image, two, "sh", "-c", stubborn);
      const { data } = (await controller.metrics(context, id)) ?? {};
      expect(data?.typeUrl).toMatch(/^io\.containerd\.cgroups\.v[12]\.Metrics$/);
      expect(data?.value.byteLength).toBeGreaterThan(10);
      const { info } = await controller.status(context, id, { verbose: true });
      expect(JSON.parse(info["containers"] ?? "")).toHaveLength(2);

      const waiting = controller.wait(context, id);
      // Asked first, killed after its second.
      await controller.stop(context, id, { timeoutSecs: 1 });
      const { exitStatus, exitedAt } = await waiting;
      expect(exitStatus).toBe(0);
      const stopped = await controller.status(context, id, { verbose: false });
      expect(stopped).toMatchObject({ state: "SANDBOX_NOTREADY", pid: 0, createdAt });
      expect(stopped.exitedAt).toEqual(exitedAt ?? new Date(0));
      expect([...(await tasks(t)).values()].map(({ status }) => status)).toEqual(["STOPPED", "STOPPED"]);
      expect(await t.ctr("run", "-d", "--sandbox", id, image, t.id("late"), "true")).toMatchObject({ code: 1 });
      await expect(controller.start(context, id)).rejects.toThrow("it has been stopped");
      await controller.stop(context, id, { timeoutSecs: 0 });
      expect(await controller.wait(context, id)).toMatchObject({ exitStatus: 0 });
      await deleteSandbox(client, context, { id, sandboxer: "shim" });
      await expect(controller.wait(context, id)).rejects.toThrow("not found");
      await expect(controller.shutdown(context, id)).rejects.toThrow("not found");
      await controller.stop(context, id, { timeoutSecs: 0 });
      expect(await controller.status(context, id, { verbose: false })).toMatchObject({ id, state: "" });
    });
    expect([...(await tasks(t)).keys()]).toEqual([]);
    await eventually("the shim to end", async () => ((await shims(t)).length === 0 ? true : undefined));
    await expectNoBundles(t);
  },
);

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  row(
    "N10",
    `sandboxes and what waits for them survive a daemon that ends by ${signal}`,
    { casts: ["ours"], source: CONTROLLER, ownDaemon: true },
    async (t) => {
      const pod = await sandbox(t);
      const id = t.id("a");
      await t.must("run", "-d", "--null-io", "--sandbox", pod, await t.image(), id, "sleep", "1000");
      const before = await shims(t);
      const { pid = 0 } = (await tasks(t)).get(id) ?? {};
      await t.daemon.stop(signal);
      await t.daemon.launch();
      expect(await stateOf(t, pod)).toBe("SANDBOX_READY");
      expect((await tasks(t)).get(id)).toEqual({ pid, status: "RUNNING" });
      expect(await shims(t)).toEqual(before);
      await withClient(t, async (client, context) => {
        const waiting = client.sandboxController("shim").wait(context, pod);
        await t.must("run", "--rm", "--sandbox", pod, await t.image(), t.id("b"), "true");
        await client.sandboxController("shim").stop(context, pod, { timeoutSecs: 0 });
        expect((await waiting).exitStatus).toBe(0);
      });
      await t.must("sandboxes", "rm", pod);
      expect([...(await tasks(t)).keys()]).toEqual([]);
      await eventually("the shim to end", async () => ((await shims(t)).length === 0 ? true : undefined));
      await expectNoBundles(t);
    },
  );
}

/** Shims that died are not replaced, as in containerd. */
const NO_ADOPTION = { ours: '[plugins."io.containerd.shim.v1.manager".stevedore]\n  adopt = false\n' };

row(
  "N10",
  "a sandbox whose shim is killed goes on in another one, with its containers",
  { casts: ["ours"], source: CONTROLLER, covers: ["rpc:stevedore.shim.v1.Adoption/Adopt"] },
  async (t) => {
    const pod = await sandbox(t);
    const [a, b] = [t.id("a"), t.id("b")];
    await t.must(
      "run",
      "-d",
      "--null-io",
      "--sandbox",
      pod,
      await t.image(),
      a,
      "sh",
      "-c",
      "while [ ! -e /go ]; do sleep 0.05; done; sleep 1; exit 17",
    );
    await t.must("run", "-d", "--null-io", "--sandbox", pod, await t.image(), b, "sleep", "1000");
    const before = await tasks(t);
    const events = t.start("events");
    await Bun.sleep(400);
    await withClient(t, async (client, context) => {
      const controller = client.sandboxController("shim");
      const { createdAt, pid: oldPid } = await controller.status(context, pod, { verbose: false });
      let ended = false;
      const waiting = controller.wait(context, pod).finally(() => {
        ended = true;
      });
      const exit = client.tasks.wait(context, { containerId: a, execId: "" });
      exit.catch(() => undefined);
      await Bun.sleep(100);
      process.kill(oldPid, "SIGKILL");
      await eventually("another shim", async () => {
        const { pid } = await controller.status(context, pod, { verbose: false });
        return pid !== oldPid ? true : undefined;
      });
      expect(await controller.status(context, pod, { verbose: false })).toMatchObject({
        state: "SANDBOX_READY",
        createdAt,
      });
      expect(await tasks(t)).toEqual(before);
      expect(await shims(t)).toHaveLength(1);
      // They are its containers: new ones join, what ran is reached, exits are exact.
      expect((await t.ctr("tasks", "exec", "--exec-id", "e", a, "touch", "/go")).code).toBe(0);
      expect((await exit).exitStatus).toBe(17);
      expect(
        await t.ctr("run", "--rm", "--sandbox", pod, await t.image(), t.id("c"), "sh", "-c", "exit 4"),
      ).toMatchObject({ code: 4 });
      expect(ended).toBe(false);
      await controller.stop(context, pod, { timeoutSecs: 0 });
      expect((await waiting).exitStatus).toBe(0);
    });
    await t.must("sandboxes", "rm", pod);
    expect([...(await tasks(t)).keys()]).toEqual([]);
    const exits = events
      .stdout()
      .split("\n")
      .filter((line) => line.includes(" /tasks/exit ") && line.includes(`"id":"${a}"`));
    expect(exits).toHaveLength(1);
    expect(events.stdout().split("/sandboxes/exit")).toHaveLength(2);
    await events.stop();
    await eventually("the shim to end", async () => ((await shims(t)).length === 0 ? true : undefined));
    await expectNoBundles(t);
  },
);

row(
  "N10",
  "daemon and shim of a sandbox are killed together, and the sandbox goes on",
  { casts: ["ours"], source: CONTROLLER, ownDaemon: true },
  async (t) => {
    const pod = await sandbox(t);
    const stopped = await sandbox(t, t.id("stopped"));
    await withClient(t, (client, context) =>
      client.sandboxController("shim").stop(context, stopped, { timeoutSecs: 0 }),
    );
    const id = t.id("a");
    await t.must("run", "-d", "--null-io", "--sandbox", pod, await t.image(), id, "sleep", "1000");
    const before = await tasks(t);
    const old = await shims(t);
    await t.daemon.stop("SIGKILL");
    for (const shim of old) process.kill(shim, "SIGKILL");
    await t.daemon.launch();
    expect(await tasks(t)).toEqual(before);
    expect(await stateOf(t, pod)).toBe("SANDBOX_READY");
    // One that had been stopped still has been, and tells when.
    expect(await stateOf(t, stopped)).toBe("SANDBOX_NOTREADY");
    await withClient(t, async (client, context) => {
      expect(await client.sandboxController("shim").wait(context, stopped)).toMatchObject({ exitStatus: 0 });
    });
    const now = await shims(t);
    expect(now.filter((shim) => old.includes(shim))).toEqual([]);
    expect(now).toHaveLength(2);
    expect((await t.ctr("tasks", "exec", "--exec-id", "e", id, "true")).code).toBe(0);
    await t.must("sandboxes", "rm", pod, stopped);
    expect([...(await tasks(t)).keys()]).toEqual([]);
    await eventually("the shims to end", async () => ((await shims(t)).length === 0 ? true : undefined));
    await expectNoBundles(t);
  },
);

row(
  "N10",
  "without adoption a sandbox whose shim is killed has ended, and so have its containers",
  { casts: ["ours"], source: CONTROLLER, config: NO_ADOPTION },
  async (t) => {
    const pod = await sandbox(t);
    const id = t.id("a");
    await t.must("run", "-d", "--null-io", "--sandbox", pod, await t.image(), id, "sleep", "1000");
    const { pid = 0 } = (await tasks(t)).get(id) ?? {};
    const events = t.start("events");
    await Bun.sleep(400);
    await withClient(t, async (client, context) => {
      const controller = client.sandboxController("shim");
      const waiting = controller.wait(context, pod);
      const [shim = 0] = await shims(t);
      await Bun.sleep(100);
      process.kill(shim, "SIGKILL");
      expect((await waiting).exitStatus).toBe(137);
      expect(await controller.status(context, pod, { verbose: false })).toMatchObject({ state: "SANDBOX_NOTREADY" });
      await eventually("the task to be gone", async () => ((await tasks(t)).size === 0 ? true : undefined));
      await eventually("its process to be gone", () => (existsSync(`/proc/${pid}`) ? undefined : true));
      await eventually("the events", () =>
        ["/sandboxes/exit", "/tasks/exit", "/tasks/delete"].every((topic) => events.stdout().includes(topic))
          ? true
          : undefined,
      );
      expect(events.stdout().split("/sandboxes/exit")).toHaveLength(2);
      await expect(controller.shutdown(context, pod)).rejects.toThrow("not found");
    });
    await events.stop();
    await expectNoBundles(t);
    // Its record goes, and the id is free again.
    await t.must("sandboxes", "rm", pod);
    await sandbox(t, pod);
    await t.must("sandboxes", "rm", pod);
    // The same while there is no daemon.
    await sandbox(t, pod);
    await t.must("tasks", "start", "-d", "--null-io", id);
    await t.daemon.stop("SIGKILL");
    for (const shim of await shims(t)) process.kill(shim, "SIGKILL");
    await t.daemon.launch();
    expect((await tasks(t)).size).toBe(0);
    expect(await stateOf(t, pod)).toBe("SANDBOX_NOTREADY");
    await expectNoBundles(t);
    await t.must("sandboxes", "rm", pod);
  },
);

row(
  "N10",
  "a shim without the sandbox service is no sandbox, and says so",
  { casts: ["their-shim"], source: CONTROLLER },
  async (t) => {
    await withClient(t, async (client, context) => {
      const id = t.id("pod");
      // A spec is what Debian's shim does not start without.
      const spec = {
        typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec",
        value: Buffer.from("{}"),
      };
      const wanted = {
        id,
        sandboxer: "shim",
        runtime: { name: "io.containerd.runc.v2" },
        labels: {},
        extensions: {},
        spec,
      };
      const request = { sandbox: wanted, rootfs: [], netnsPath: "", annotations: {} };
      const path = join(t.daemon.dir, "bin/containerd-shim-runc-v2");
      const error: unknown = await client
        .sandboxController("shim")
        .create(context, request)
        .catch((caught: unknown) => caught);
      expect(isErrorClass(error, "not-implemented")).toBe(true);
      expect(messageOf(error)).toContain(`failed to create sandbox ${id}: shim ${path} has no sandbox service`);
    });
    await eventually("the shim to end", async () => ((await shims(t)).length === 0 ? true : undefined));
    await expectNoBundles(t);
  },
);

row(
  "N10",
  "a proxy plugin: a sandbox controller that another process serves",
  { casts: ["ours"], source: "containerd 2.3.4, cmd/containerd/server/server.go and core/sandbox/proxy/controller.go" },
  async (t) => {
    // The other process hands its calls on to the case's daemon, and there is no other controller of its name.
    const far = createClient(Controller, createGrpcTransport({ address: t.daemon.address }));
    const asked: string[] = [];
    const given = (request: { readonly sandboxer: string; readonly sandboxId: string }) => {
      asked.push(request.sandboxer);
      return { ...request, sandboxer: "shim" };
    };
    const options = { metadata: { "containerd-namespace": t.namespace } };
    const router = new Router().service(Controller, {
      create: async (request) => far.create({ ...request, ...given(request) }, options),
      start: async (request) => far.start({ ...request, ...given(request) }, options),
      stop: async (request) => far.stop({ ...request, ...given(request) }, options),
      wait: async (request) => far.wait({ ...request, ...given(request) }, options),
      status: async (request) => far.status({ ...request, ...given(request) }, options),
      shutdown: async (request) => far.shutdown({ ...request, ...given(request) }, options),
    });
    const address = t.path("far.sock");
    const server = createGrpcServer({ router });
    await server.serveUnix(address);
    try {
      await using near = await Daemon.start({
        maker: "ours",
        config: `[proxy_plugins.far]\n  type = "sandbox"\n  address = "${address}"\n  [proxy_plugins.far.exports]\n    place = "elsewhere"\n`,
      });
      const ctr = async (...args: string[]) => near.ctr("ours", t.namespace, args);
      expect((await ctr("plugins", "ls")).stdout).toMatch(/^io\.containerd\.sandbox\.controller\.v1\s+far\s.*\sok/m);
      const detailed = (await ctr("plugins", "ls", "-d", "id==far")).stdout;
      expect(detailed).toMatch(new RegExp(`address\\s+${address}`));
      expect(detailed).toMatch(/place\s+elsewhere/);
      await ctr("namespaces", "create", t.namespace, "containerd.io/defaults/sandboxer=far");
      const id = t.id("pod");
      const path = t.path(`${id}.json`);
      await writeFile(path, "{}");
      const events = near.startCtr("ours", t.namespace, ["events"]);
      await Bun.sleep(400);
      expect(await ctr("sandboxes", "run", path, id)).toMatchObject({ code: 0, stdout: `${id}\n`, stderr: "" });
      // It runs there, its record is here.
      expect(await stateOf(t, id)).toBe("SANDBOX_READY");
      expect(await t.must("sandboxes", "ls")).not.toContain(id);
      expect(JSON.parse((await ctr("sandboxes", "info", id)).stdout)).toMatchObject({ ID: id, Sandboxer: "far" });
      await using client = connectClient({ address: near.address });
      const context = backgroundContext({ namespace: t.namespace, signal: AbortSignal.timeout(30_000) });
      const waiting = client.sandboxController("far").wait(context, id);
      expect(await client.sandboxController("far").status(context, id, { verbose: false })).toMatchObject({
        state: "SANDBOX_READY",
      });
      expect((await ctr("sandboxes", "rm", id)).stderr).toContain(`deleted: ${id}`);
      expect((await waiting).exitStatus).toBe(0);
      await eventually("the exit", () => (events.stdout().includes("/sandboxes/exit") ? true : undefined));
      await events.stop();
      expect(await stateOf(t, id)).toBe("");
      expect(new Set(asked)).toEqual(new Set(["far"]));
    } finally {
      await server.stop();
    }
    await expectNoBundles(t);
  },
);
