import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { backgroundContext, classified, createLogger, encodeText } from "@stevedore/base";
import { peerProgram } from "@stevedore/base/test-peer";
import { optionalDateFromProto } from "@stevedore/convert/timestamps";
import type { AnyValue, Container, Envelope, EventExchange } from "@stevedore/core";
import { isAlive, processIdentity } from "@stevedore/os/process";
import { Server } from "@stevedore/ttrpc";
import { listenUnix } from "@stevedore/ttrpc/socket";
import { TaskExitSchema } from "@stevedore/wire/gen/containerd/events/task_pb";
import { OptionsSchema } from "@stevedore/wire/gen/containerd/runc/v1/options_pb";
import { ForwardRequestSchema } from "@stevedore/wire/gen/containerd/services/events/ttrpc/v1/events_pb";
import { ShimTaskManager } from "./manager.ts";

// These run real containers: root, runc and busybox are needed. Everything is below one temporary folder, the runtime's
// state included; only Debian's shim has its socket below /run/containerd/s, as it cannot be told otherwise.

// Real containers on a machine that may be busy with other tests.
setDefaultTimeout(60_000);

const BUSYBOX = "/usr/bin/busybox";
const usable = process.geteuid?.() === 0 && Bun.which("runc") !== null && (await Bun.file(BUSYBOX).exists());

/** An exchange that keeps what it was told, and hands it on to its one kind of subscriber. */
class Exchange implements Pick<EventExchange, "publish" | "subscribe"> {
  readonly seen: Envelope[] = [];
  readonly #wakers = new Set<() => void>();

  async publish(context: { readonly namespace?: string }, topic: string, event: AnyValue): Promise<void> {
    this.add({ timestamp: new Date(), nanos: 0, namespace: context.namespace ?? "", topic, event });
  }

  add(envelope: Envelope): void {
    this.seen.push(envelope);
    for (const wake of this.#wakers) wake();
  }

  async *subscribe(context: { readonly signal: AbortSignal }): AsyncIterable<Envelope> {
    let at = this.seen.length;
    while (!context.signal.aborted) {
      for (let next = this.seen[at]; next !== undefined; next = this.seen[++at]) {
        if (next.topic === "/tasks/exit" || next.topic === "/tasks/delete") yield next;
      }
      await new Promise<void>((resolve) => {
        this.#wakers.add(resolve);
        context.signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }

  topics(): string[] {
    return this.seen.map(({ topic }) => topic);
  }
}

let dir = "";
let rootfs = "";
const cleanups: (() => void | Promise<void>)[] = [];

beforeAll(async () => {
  if (!usable) return;
  dir = await mkdtemp("/tmp/shim-manager-");
  rootfs = join(dir, "image");
  for (const folder of ["bin", "proc", "sys", "dev", "tmp"]) await mkdir(join(rootfs, folder), { recursive: true });
  await copyFile(BUSYBOX, join(rootfs, "bin/busybox"));
  await chmod(join(rootfs, "bin/busybox"), 0o755);
  for (const name of ["sh", "sleep", "cat", "true"]) await symlink("busybox", join(rootfs, "bin", name));
  const shim = join(dir, "containerd-shim-ours-v2");
  await writeFile(
    shim,
    `#!/bin/sh\nexec ${process.execPath} ${join(import.meta.dir, "../../../shim/src/bin.ts")} "$@"\n`,
  );
  await chmod(shim, 0o755);
});

afterAll(async () => {
  for (const clean of cleanups.toReversed()) await clean();
  if (dir !== "") await rm(dir, { recursive: true, force: true });
});

const theirShim = peerProgram("containerd-shim-runc-v2");
const RUNTIMES: readonly { readonly name: string; readonly path: string; readonly there: boolean }[] = [
  { name: "our shim", path: "containerd-shim-ours-v2", there: true },
  { name: "Debian's shim", path: theirShim ?? "", there: theirShim !== undefined },
];

function specOf(args: readonly string[]): AnyValue {
  const spec = {
    ociVersion: "1.0.2",
    process: { user: { uid: 0, gid: 0 }, args, env: ["PATH=/bin"], cwd: "/" },
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
    ],
    linux: { namespaces: [{ type: "pid" }, { type: "mount" }, { type: "ipc" }, { type: "uts" }, { type: "network" }] },
  };
  return { typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", value: encodeText(JSON.stringify(spec)) };
}

interface World {
  readonly manager: ShimTaskManager;
  readonly exchange: Exchange;
  readonly containers: Map<string, Container>;
  readonly folders: { readonly root: string; readonly state: string };
  /** A manager over the same folders, as after a restart of the daemon. */
  readonly restart: () => Promise<ShimTaskManager>;
  readonly add: (id: string, args: readonly string[]) => void;
}

async function world(name: string, runtime: string, sharesShims = false): Promise<World> {
  const base = join(dir, name);
  const folders = { root: join(base, "root"), state: join(base, "state") };
  await mkdir(folders.root, { recursive: true });
  await mkdir(folders.state, { recursive: true });
  const exchange = new Exchange();
  const containers = new Map<string, Container>();
  const server = new Server();
  server.register("containerd.services.events.ttrpc.v1.Events", {
    Forward: {
      kind: "unary",
      call: async (payload) => {
        const { envelope } = fromBinary(ForwardRequestSchema, payload);
        if (envelope?.event === undefined) throw classified("invalid-argument", "no envelope");
        const timestamp = optionalDateFromProto(envelope.timestamp) ?? new Date(0);
        const { typeUrl, value } = envelope.event;
        exchange.add({
          timestamp,
          nanos: 0,
          namespace: envelope.namespace,
          topic: envelope.topic,
          event: { typeUrl, value },
        });
        return new Uint8Array();
      },
    },
  });
  const ttrpcAddress = join(base, "ttrpc.sock");
  const listener = listenUnix(ttrpcAddress, { accept: (carrier) => server.serve(carrier) });
  cleanups.push(() => {
    listener.stop();
    server.close();
  });
  const make = (): ShimTaskManager => {
    const manager = new ShimTaskManager({
      ...folders,
      grpcAddress: join(base, "grpc.sock"),
      ttrpcAddress,
      publishBinary: "",
      version: "2.3.4",
      socketDir: join(base, "s"),
      debug: false,
      env: { PATH: process.env["PATH"] ?? "" },
      log: createLogger(),
      searchPath: dir,
      self: process.execPath,
      containers: {
        get: async (_context, id) => {
          const found = containers.get(id);
          if (found === undefined)
            throw classified("not-found", `container ${JSON.stringify(id)} in namespace "test": not found`);
          return found;
        },
      },
      events: exchange,
      shimLog: () => undefined,
      adopt: false,
      sharesShims: () => sharesShims,
    });
    manager.load();
    return manager;
  };
  let manager = make();
  cleanups.push(() => manager.close());
  const options = create(OptionsSchema, { root: join(base, "runc") });
  return {
    manager,
    exchange,
    containers,
    folders,
    async restart() {
      await manager.close();
      manager = make();
      await manager.loaded();
      return manager;
    },
    add(id, args) {
      containers.set(id, {
        id,
        labels: {},
        image: "",
        runtime: {
          name: runtime,
          options: { typeUrl: "containerd.runc.v1.Options", value: toBinary(OptionsSchema, options) },
        },
        spec: specOf(args),
        snapshotter: "",
        snapshotKey: "",
        sandbox: "",
        extensions: {},
        createdAt: new Date(),
        updatedAt: new Date(),
      });
    },
  };
}

const context = backgroundContext({ namespace: "test" });
const NO_IO = { stdin: "", stdout: "", stderr: "", terminal: false };

async function runTask(manager: ShimTaskManager, id: string): Promise<{ readonly pid: number }> {
  await manager.create(context, {
    containerId: id,
    rootfs: [{ type: "bind", source: rootfs, target: "", options: ["rbind"] }],
    io: NO_IO,
    runtimePath: "",
  });
  return manager.start(context, { containerId: id, execId: "" });
}

async function eventually(check: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 800; i++) {
    if (await check()) return;
    await Bun.sleep(25);
  }
  throw new Error("did not come true within 20 s");
}

for (const { name, path, there } of RUNTIMES) {
  describe.skipIf(!usable || !there)(`tasks by ${name} (F21 F25 F27 F28 F29 F30)`, () => {
    const runtime = path.startsWith("/") ? path : "io.containerd.ours.v2";
    const short = path.startsWith("/") ? "d" : "o";

    test("a task runs, is told of and leaves nothing", async () => {
      const { manager, exchange, add, folders } = await world(`${short}-life`, runtime);
      add("a", ["sh", "-c", "sleep 0.2; exit 7"]);
      const { pid } = await runTask(manager, "a");
      expect(await manager.get(context, { containerId: "a", execId: "" })).toMatchObject({
        pid,
        status: "running",
        id: "a",
      });
      expect((await manager.list(context)).map(({ id }) => id)).toEqual(["a"]);
      const files = await readdir(join(folders.state, "test/a"));
      for (const file of ["bootstrap.json", "config.json", "init.pid", "log", "rootfs", "shim-binary-path", "work"]) {
        expect(files).toContain(file);
      }
      expect(await readFile(join(folders.state, "test/a/config.json"), "utf8")).toBe(
        new TextDecoder().decode(specOf(["sh", "-c", "sleep 0.2; exit 7"]).value),
      );
      expect(await manager.wait(context, { containerId: "a", execId: "" })).toMatchObject({
        exitStatus: 7,
        id: "a",
        pid,
      });
      expect(await manager.delete(context, { containerId: "a", execId: "" })).toMatchObject({ exitStatus: 7, pid });
      await eventually(() => exchange.topics().includes("/tasks/delete"));
      expect(exchange.topics()).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
      expect(await readdir(join(folders.state, "test"))).toEqual([]);
      expect(await readdir(join(folders.root, "test"))).toEqual([]);
      await expect(manager.get(context, { containerId: "a", execId: "" })).rejects.toThrow("task a not found");
    });

    test("a create or delete whose caller gives up is carried to its end", async () => {
      const { manager, add, folders } = await world(`${short}-given-up`, runtime);
      const state = join(folders.root, "../runc/test");
      const bound = { type: "bind", source: rootfs, target: "", options: ["rbind"] };
      const request = { rootfs: [bound], io: NO_IO, runtimePath: "" };
      for (const [round, delay] of [0, 20, 60, 100, 150].entries()) {
        const id = `g${round}`;
        add(id, ["sleep", "100"]);
        const caller = new AbortController();
        const given = backgroundContext({ namespace: "test", signal: caller.signal });
        const created = manager.create(given, { containerId: id, ...request }).then(
          () => true,
          () => false,
        );
        await Bun.sleep(delay);
        caller.abort(new Error("gone"));
        if (await created) await manager.delete(context, { containerId: id, execId: "" });
        // Once nothing of it is left, its id is free again.
        await eventually(async () => {
          const bundles = await readdir(join(folders.state, "test")).catch(() => []);
          return bundles.length === 0 && (await readdir(state).catch(() => [])).length === 0;
        });
        await eventually(() =>
          manager.create(context, { containerId: id, ...request }).then(
            () => true,
            () => false,
          ),
        );
        const other = new AbortController();
        const halfway = manager
          .delete(backgroundContext({ namespace: "test", signal: other.signal }), { containerId: id, execId: "" })
          .catch(() => undefined);
        other.abort(new Error("gone"));
        await halfway;
        await eventually(async () => (await manager.list(context)).length === 0);
        await eventually(async () => (await readdir(join(folders.state, "test"))).length === 0);
      }
    });

    test("execs, kill, pause and resume", async () => {
      const { manager, exchange, add } = await world(`${short}-exec`, runtime);
      add("b", ["sleep", "100"]);
      const init = await runTask(manager, "b");
      const value = encodeText(
        JSON.stringify({ user: { uid: 0, gid: 0 }, args: ["sh", "-c", "exit 5"], cwd: "/", env: ["PATH=/bin"] }),
      );
      const spec = { typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", value };
      const exec = { containerId: "b", execId: "e1" };
      await manager.exec(context, { ...exec, io: NO_IO, spec });
      await expect(manager.exec(context, { ...exec, io: NO_IO, spec })).rejects.toThrow("id e1: already exists");
      await expect(manager.exec(context, { ...exec, execId: "a/b", io: NO_IO, spec })).rejects.toThrow(
        "invalid exec id a/b: identifier",
      );
      const waiting = manager.wait(context, exec);
      const { pid } = await manager.start(context, exec);
      expect(await waiting).toMatchObject({ exitStatus: 5, id: "e1" });
      expect(await manager.delete(context, exec)).toMatchObject({ exitStatus: 5, pid });
      await manager.pause(context, "b");
      expect((await manager.list(context))[0]?.status).toBe("paused");
      await manager.resume(context, "b");
      expect((await manager.pids(context, "b")).map((process) => process.pid)).toEqual([init.pid]);
      const [metric] = await manager.metrics(context, ["id==b"]);
      expect(metric?.data.typeUrl).toBe("io.containerd.cgroups.v1.Metrics");
      expect(await manager.metrics(context, ["id==c"])).toEqual([]);
      await expect(manager.delete(context, { containerId: "b", execId: "" })).rejects.toThrow(
        "cannot delete a running process",
      );
      await manager.kill(context, { containerId: "b", execId: "" }, { number: 9, all: false });
      expect(await manager.wait(context, { containerId: "b", execId: "" })).toMatchObject({ exitStatus: 137 });
      await expect(manager.kill(context, { containerId: "b", execId: "" }, { number: 9, all: false })).rejects.toThrow(
        "process already finished: not found",
      );
      await manager.delete(context, { containerId: "b", execId: "" });
      await eventually(() => exchange.topics().includes("/tasks/delete"));
      expect(exchange.topics()).toEqual([
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
      ]);
    });

    test("a create that fails tells why and leaves nothing", async () => {
      const { manager, add, folders } = await world(`${short}-bad`, runtime);
      add("c", ["/no/such"]);
      await expect(runTask(manager, "c")).rejects.toThrow(
        /^failed to create shim task: OCI runtime create failed: .*exec: "\/no\/such": stat \/no\/such: no such file or directory/,
      );
      await eventually(async () => (await readdir(join(folders.state, "test")).catch(() => ["?"])).length === 0);
      expect(await manager.list(context)).toEqual([]);
      // The id is free again.
      add("c", ["true"]);
      await runTask(manager, "c");
      await manager.wait(context, { containerId: "c", execId: "" });
      await manager.delete(context, { containerId: "c", execId: "" });
    });

    test("a restarted daemon finds its tasks (F20)", async () => {
      const { restart, manager, add } = await world(`${short}-again`, runtime);
      add("d", ["sh", "-c", "sleep 0.6; exit 3"]);
      const { pid } = await runTask(manager, "d");
      const again = await restart();
      expect(await again.get(context, { containerId: "d", execId: "" })).toMatchObject({ pid, status: "running" });
      expect(await again.wait(context, { containerId: "d", execId: "" })).toMatchObject({ exitStatus: 3 });
      expect(await again.delete(context, { containerId: "d", execId: "" })).toMatchObject({ exitStatus: 3, pid });
    });

    test("the end of a shim ends its task, and is told (F27 F31)", async () => {
      const { manager, exchange, add, folders } = await world(`${short}-dead`, runtime);
      add("e", ["sleep", "100"]);
      const { pid } = await runTask(manager, "e");
      const identity = processIdentity(pid);
      const waiting = manager.wait(context, { containerId: "e", execId: "" });
      const stat = await readFile(`/proc/${pid}/stat`, "latin1");
      process.kill(Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]), "SIGKILL");
      expect(await waiting).toMatchObject({ exitStatus: 137, pid });
      await eventually(() => exchange.topics().includes("/tasks/delete"));
      const told = exchange.seen.find(({ topic }) => topic === "/tasks/exit");
      expect(fromBinary(TaskExitSchema, told?.event.value ?? new Uint8Array())).toMatchObject({
        containerId: "e",
        exitStatus: 137,
      });
      await eventually(() => identity === undefined || !isAlive(identity));
      await expect(manager.get(context, { containerId: "e", execId: "" })).rejects.toThrow("task e not found");
      expect(await readdir(join(folders.state, "test"))).toEqual([]);
    });
  });
}

describe.skipIf(!usable)("tasks", () => {
  test("what a daemon was removing when it ended is removed by the next one", async () => {
    const { restart, folders } = await world("half", "io.containerd.runc.v2");
    const left = [join(folders.state, "default/.gone"), join(folders.root, "default/.gone/work")];
    for (const path of left) await mkdir(path, { recursive: true });
    const again = await restart();
    expect(await readdir(join(folders.state, "default"))).toEqual([]);
    expect(await readdir(join(folders.root, "default"))).toEqual([]);
    await again.close();
  });

  test("a stopped shim does not hold up lists, and keeps its state", async () => {
    const { manager, add } = await world("stopped", "io.containerd.ours.v2");
    add("f", ["sleep", "100"]);
    const { pid } = await runTask(manager, "f");
    const stat = await readFile(`/proc/${pid}/stat`, "latin1");
    const shim = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    process.kill(shim, "SIGSTOP");
    try {
      const started = performance.now();
      expect(await manager.list(context)).toMatchObject([{ id: "f", pid, status: "running" }]);
      // It does not wait for the limit of a state, which is 2 s.
      expect(performance.now() - started).toBeLessThan(1_900);
    } finally {
      process.kill(shim, "SIGCONT");
    }
    await manager.kill(context, { containerId: "f", execId: "" }, { number: 9, all: false });
    await manager.wait(context, { containerId: "f", execId: "" });
    await manager.delete(context, { containerId: "f", execId: "" });
  });

  test("containers of a namespace share a shim, which none of them ends; a restarted daemon finds them", async () => {
    const { manager, exchange, add, restart } = await world("shared", "io.containerd.ours.v2", true);
    const parentOf = async (pid: number): Promise<number> => {
      const stat = await readFile(`/proc/${pid}/stat`, "latin1");
      return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
    };
    for (const id of ["h1", "h2", "h3"]) add(id, ["sleep", "100"]);
    // Started at once: they wait for one shim.
    const [first, second] = await Promise.all([runTask(manager, "h1"), runTask(manager, "h2")]);
    const shim = await parentOf(first.pid);
    expect(await parentOf(second.pid)).toBe(shim);
    const end = async (by: ShimTaskManager, id: string): Promise<void> => {
      await by.kill(context, { containerId: id, execId: "" }, { number: 9, all: false });
      expect(await by.wait(context, { containerId: id, execId: "" })).toMatchObject({ exitStatus: 137 });
      await by.delete(context, { containerId: id, execId: "" });
    };
    await end(manager, "h1");
    await end(manager, "h2");
    // Nobody is left, but the next one finds it still.
    const third = await runTask(manager, "h3");
    expect(await parentOf(third.pid)).toBe(shim);
    add("h4", ["sleep", "100"]);
    await runTask(manager, "h4");
    const again = await restart();
    expect((await again.list(context)).map(({ id, status }) => `${id} ${status}`)).toEqual([
      "h3 running",
      "h4 running",
    ]);
    await end(again, "h3");
    expect((await again.list(context)).map(({ id, status }) => `${id} ${status}`)).toEqual(["h4 running"]);
    await end(again, "h4");
    await eventually(() => processIdentity(shim) === undefined);
    await eventually(() => exchange.topics().filter((topic) => topic === "/tasks/delete").length === 4);
  });

  test("the end of a shared shim ends all its tasks, each told of once", async () => {
    const { manager, exchange, add } = await world("shared-dead", "io.containerd.ours.v2", true);
    add("i1", ["sleep", "100"]);
    add("i2", ["sleep", "100"]);
    const { pid } = await runTask(manager, "i1");
    await runTask(manager, "i2");
    const stat = await readFile(`/proc/${pid}/stat`, "latin1");
    process.kill(Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]), "SIGKILL");
    await eventually(() => exchange.topics().filter((topic) => topic === "/tasks/delete").length === 2);
    expect(exchange.topics().filter((topic) => topic === "/tasks/exit").length).toBe(2);
    expect(await manager.list(context)).toEqual([]);
    // The next one gets a new shim.
    add("i3", ["sh", "-c", "exit 4"]);
    await runTask(manager, "i3");
    expect(await manager.wait(context, { containerId: "i3", execId: "" })).toMatchObject({ exitStatus: 4 });
    await manager.delete(context, { containerId: "i3", execId: "" });
  });

  test("runtimes that are not there are refused in the peer's words", async () => {
    const { manager, add } = await world("names", "io.containerd.none.v9");
    add("g", ["true"]);
    await expect(runTask(manager, "g")).rejects.toThrow(
      'failed to start shim: failed to resolve runtime path: runtime "io.containerd.none.v9" binary not installed "containerd-shim-none-v9": file does not exist',
    );
    await expect(
      manager.create(context, { containerId: "none", rootfs: [], io: NO_IO, runtimePath: "" }),
    ).rejects.toThrow('container "none" in namespace "test": not found');
  });
});
