// The tasks service from create to destroy: each verb through the API, with the state after it.
import { expect } from "bun:test";
import { constants, existsSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { Snapshots } from "@stevedore/wire/gen/containerd/services/snapshots/v1/snapshots_pb";
import { Tasks } from "@stevedore/wire/gen/containerd/services/tasks/v1/tasks_pb";
import { Status } from "@stevedore/wire/gen/containerd/types/task/task_pb";
import { createGrpcTransport } from "@stevedore/wire/grpc/client";
import { createClient } from "@stevedore/wire/rpc/index";
import { eventually, exec, start } from "../harness/process.ts";
import { type CastName, row } from "../harness/row.ts";

const ENDS: readonly CastName[] = ["peer", "ours", "our-shim", "their-shim"];

const PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

const jsonAny = (typeUrl: string, value: unknown) => ({ typeUrl, value: Buffer.from(JSON.stringify(value)) });
const processOf = (args: readonly string[], terminal = false) =>
  jsonAny(PROCESS, { args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 }, terminal });

row(
  "F34",
  "each verb of the API, from create to destroy, with the state after it",
  {
    casts: ENDS,
    covers: [
      "rpc:containerd.services.tasks.v1.Tasks/Create",
      "rpc:containerd.services.tasks.v1.Tasks/Start",
      "rpc:containerd.services.tasks.v1.Tasks/Get",
      "rpc:containerd.services.tasks.v1.Tasks/List",
      "rpc:containerd.services.tasks.v1.Tasks/Exec",
      "rpc:containerd.services.tasks.v1.Tasks/ListPids",
      "rpc:containerd.services.tasks.v1.Tasks/Metrics",
      "rpc:containerd.services.tasks.v1.Tasks/Pause",
      "rpc:containerd.services.tasks.v1.Tasks/Resume",
      "rpc:containerd.services.tasks.v1.Tasks/Update",
      "rpc:containerd.services.tasks.v1.Tasks/ResizePty",
      "rpc:containerd.services.tasks.v1.Tasks/CloseIO",
      "rpc:containerd.services.tasks.v1.Tasks/Kill",
      "rpc:containerd.services.tasks.v1.Tasks/Wait",
      "rpc:containerd.services.tasks.v1.Tasks/Delete",
      "rpc:containerd.services.tasks.v1.Tasks/DeleteProcess",
    ],
  },
  async (t) => {
    const containerId = t.id("c");
    await t.must("containers", "create", await t.image(), containerId, "sleep", "1000");
    const transport = createGrpcTransport({ address: t.daemon.address });
    try {
      const tasks = createClient(Tasks, transport);
      const call = { timeoutMs: 15_000, metadata: { "containerd-namespace": t.namespace } };
      const status = async (execId = ""): Promise<Status | undefined> =>
        (await tasks.get({ containerId, execId }, call)).process?.status;
      const fifo = async (name: string): Promise<string> => {
        const path = t.path(t.id(name));
        const made = await exec(["mkfifo", path]);
        if (made.code !== 0) throw new Error(made.stderr);
        return path;
      };

      // Create, and nothing runs yet.
      const snapshots = createClient(Snapshots, transport);
      const { mounts: rootfs } = await snapshots.mounts({ snapshotter: "overlayfs", key: containerId }, call);
      const { pid } = await tasks.create({ containerId, rootfs }, call);
      expect(pid).toBeGreaterThan(1);
      expect(await status()).toBe(Status.CREATED);
      expect(await readFile(`/proc/${pid}/cmdline`, "utf8")).not.toStartWith("sleep");
      await expect(tasks.create({ containerId, rootfs }, call)).rejects.toMatchObject({ errorClass: "already-exists" });

      // Start: the same process becomes the container's.
      expect((await tasks.start({ containerId }, call)).pid).toBe(pid);
      expect(await status()).toBe(Status.RUNNING);
      await eventually("the command", async () =>
        (await readFile(`/proc/${pid}/cmdline`, "utf8")) === "sleep\u00001000\0" ? true : undefined,
      );
      const listed = (await tasks.list({}, call)).tasks;
      expect(listed).toMatchObject([{ id: containerId, pid, status: Status.RUNNING }]);
      const ended = tasks.wait({ containerId }, { metadata: call.metadata });
      // When an earlier step fails, nobody asks for it.
      ended.catch(() => undefined);

      // Exec, with its own life.
      await tasks.exec({ containerId, execId: "e", spec: processOf(["sh", "-c", "exit 9"]) }, call);
      expect(await status("e")).toBe(Status.CREATED);
      const waited = tasks.wait({ containerId, execId: "e" }, call);
      const { pid: execPid } = await tasks.start({ containerId, execId: "e" }, call);
      expect(execPid).not.toBe(pid);
      expect(await waited).toMatchObject({ exitStatus: 9 });
      expect(await status("e")).toBe(Status.STOPPED);
      expect(await tasks.deleteProcess({ containerId, execId: "e" }, call)).toMatchObject({
        id: "e",
        pid: execPid,
        exitStatus: 9,
      });
      await expect(status("e")).rejects.toMatchObject({ errorClass: "not-found" });

      // ResizePty: the terminal of an exec tells its new size.
      const out = await fifo("out");
      const reader = start(["cat", out]);
      await tasks.exec(
        {
          containerId,
          execId: "tty",
          stdout: out,
          terminal: true,
          spec: processOf(["sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done"], true),
        },
        call,
      );
      await tasks.start({ containerId, execId: "tty" }, call);
      await eventually("the terminal", () => (reader.stdout().includes("ready") ? true : undefined));
      await tasks.resizePty({ containerId, execId: "tty", width: 100, height: 40 }, call);
      await eventually("its size", () => (reader.stdout().includes("40 100") ? true : undefined));
      await tasks.wait({ containerId, execId: "tty" }, call);
      await tasks.deleteProcess({ containerId, execId: "tty" }, call);
      await reader.stop();

      // CloseIO: until then the shim keeps the input open, whoever opens the FIFO and closes it again.
      const [stdin, stdout, stderr] = [await fifo("in"), await fifo("echoed"), await fifo("err")];
      const readers = [start(["cat", stdout]), start(["cat", stderr])];
      await tasks.exec({ containerId, execId: "in", stdin, stdout, stderr, spec: processOf(["cat"]) }, call);
      {
        // Whoever opens both ends waits for nobody.
        await using input = await open(stdin, constants.O_RDWR);
        await tasks.start({ containerId, execId: "in" }, call);
        await input.write("words");
        await eventually("the words", () => (readers[0]?.stdout() === "words" ? true : undefined));
      }
      await Bun.sleep(300);
      expect(await status("in")).toBe(Status.RUNNING);
      await tasks.closeIO({ containerId, execId: "in", stdin: true }, call);
      expect(await tasks.wait({ containerId, execId: "in" }, call)).toMatchObject({ exitStatus: 0 });
      await tasks.deleteProcess({ containerId, execId: "in" }, call);
      for (const one of readers) await one.stop();

      // Reports: processes and figures.
      expect((await tasks.listPids({ containerId }, call)).processes.map((one) => one.pid)).toEqual([pid]);
      expect((await tasks.metrics({ filters: [`id==${containerId}`] }, call)).metrics).toMatchObject([
        { id: containerId },
      ]);

      await tasks.pause({ containerId }, call);
      expect(await status()).toBe(Status.PAUSED);
      await tasks.resume({ containerId }, call);
      expect(await status()).toBe(Status.RUNNING);

      const limit = 64 << 20;
      await tasks.update({ containerId, resources: jsonAny(RESOURCES, { memory: { limit } }) }, call);
      const group = `/sys/fs/cgroup/memory/${t.namespace}/${containerId}`;
      if (existsSync(group))
        expect((await readFile(`${group}/memory.limit_in_bytes`, "utf8")).trim()).toBe(String(limit));

      // Stop and destroy: what runs is not deleted; what is stopped waits for it.
      await expect(tasks.delete({ containerId }, call)).rejects.toThrow("cannot delete a running process");
      await tasks.kill({ containerId, signal: 15 }, call);
      await Bun.sleep(200);
      expect(await status()).toBe(Status.RUNNING);
      await tasks.kill({ containerId, signal: 9, all: true }, call);
      expect(await ended).toMatchObject({ exitStatus: 137 });
      await eventually("it to be reported as stopped", async () =>
        (await status()) === Status.STOPPED ? true : undefined,
      );
      expect(await tasks.delete({ containerId }, call)).toMatchObject({ exitStatus: 137, pid });
      await expect(status()).rejects.toMatchObject({ errorClass: "not-found" });
      expect((await tasks.list({}, call)).tasks).toEqual([]);
    } finally {
      await transport.close();
    }
    expect(await t.must("containers", "ls", "-q")).toBe(`${containerId}\n`);
    await t.must("containers", "delete", containerId);
  },
);
