import { expect, test } from "bun:test";
import { cp, mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { peerProgram } from "@stevedore/base/test-peer";
import { Client, connectUnix, listenUnix, Server } from "@stevedore/ttrpc";
import { TaskExitSchema } from "../gen/light/containerd/events/task_pb.ts";
import { Events, type ForwardRequest } from "../gen/light/containerd/services/events/ttrpc/v1/events_pb.ts";
import { Task } from "../gen/light/containerd/task/v2/shim_pb.ts";
import { decodeMessage } from "./codec.ts";
import { createClient } from "./rpc/client.ts";
import { Router } from "./rpc/router.ts";
import { registerRouter, ttrpcTransport } from "./ttrpc.ts";

/**
 * Our ttrpc against the Go one, both ways: our client drives Debian's containerd-shim-runc-v2, which sends its events to
 * our server. The shim keeps its sockets and runc its state below /run, so it gets a /run of its own.
 */

const SHIM = peerProgram("containerd-shim-runc-v2");
const BUSYBOX = Bun.which("busybox");
const able = SHIM !== undefined && BUSYBOX !== null && Bun.which("runc") !== null && process.getuid?.() === 0;

async function makeBundle(folder: string): Promise<string> {
  const bundle = join(folder, "bundle");
  await mkdir(join(bundle, "rootfs/bin"), { recursive: true });
  await mkdir(join(bundle, "rootfs/proc"));
  await cp(BUSYBOX ?? "", join(bundle, "rootfs/bin/busybox"));
  const spec = {
    ociVersion: "1.0.2",
    process: {
      user: { uid: 0, gid: 0 },
      args: ["/bin/busybox", "sh", "-c", "echo out; exit 7"],
      env: ["PATH=/bin"],
      cwd: "/",
    },
    root: { path: "rootfs" },
    mounts: [{ destination: "/proc", type: "proc", source: "proc" }],
    linux: { namespaces: [{ type: "pid" }, { type: "mount" }, { type: "ipc" }, { type: "uts" }] },
  };
  await writeFile(join(bundle, "config.json"), JSON.stringify(spec));
  return bundle;
}

async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of stream) {
    text += new TextDecoder().decode(chunk);
    const end = text.indexOf("\n");
    if (end >= 0) return text.slice(0, end);
  }
  return text;
}

test.skipIf(!able)(
  "our client runs a container on the Go shim, and the shim reports to our server",
  async () => {
    await using cleanup = new AsyncDisposableStack();
    const folder = await mkdtemp(join(tmpdir(), "stevedore-peer-"));
    cleanup.defer(() => rm(folder, { recursive: true, force: true }));
    const bundle = await makeBundle(folder);
    // The shim logs to this FIFO and dies of its absence; opened both ways it never blocks.
    expect(await Bun.spawn(["mkfifo", join(bundle, "log")]).exited).toBe(0);
    const log = await open(join(bundle, "log"), "r+");
    cleanup.defer(() => log.close());

    const received: ForwardRequest[] = [];
    const namespaces: (string | undefined)[] = [];
    const router = new Router().service(Events, {
      async forward(request, context) {
        received.push(request);
        namespaces.push(context.metadata.get("containerd-namespace-ttrpc"));
        return {};
      },
    });
    const server = new Server();
    registerRouter(server, router);
    cleanup.defer(() => server.close());
    const eventsPath = join(folder, "events.sock");
    const listener = listenUnix(eventsPath, { accept: (carrier) => server.serve(carrier) });
    cleanup.defer(() => listener.stop());

    const id = `peer-${process.pid}`;
    // The shell stays, so that its mount namespace can be reached until its stdin ends.
    const script =
      "mount -t tmpfs tmpfs /run && mkdir -p /run/containerd && " +
      '"$0" -namespace stevedore-test -id "$1" -address /none start </dev/null && echo && read line';
    const shell = Bun.spawn(["unshare", "--mount", "sh", "-c", script, SHIM ?? "", id], {
      cwd: bundle,
      env: { PATH: process.env["PATH"] ?? "", TTRPC_ADDRESS: eventsPath },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    cleanup.defer(async () => {
      await shell.stdin.end();
      await shell.exited;
    });
    const address = await firstLine(shell.stdout);
    expect(address).toStartWith("unix:///run/containerd/s/");

    const client = new Client(await connectUnix(`/proc/${shell.pid}/root${address.replace("unix://", "")}`));
    cleanup.defer(() => client.close());
    const task = createClient(Task, ttrpcTransport(client));
    const options = { timeoutMs: 10_000, metadata: { "containerd-namespace-ttrpc": "stevedore-test" } };

    const missing = await task.state({ id }, options).catch((error: unknown) => error);
    expect(missing).toMatchObject({ errorClass: "not-found" });
    const { shimPid } = await task.connect({ id }, options);
    expect(shimPid).toBeGreaterThan(0);
    cleanup.defer(() => {
      try {
        process.kill(shimPid, "SIGKILL");
      } catch {
        // It has shut down, as it should.
      }
    });

    // Debian's shim panics when only one of the two is a file.
    const stdout = join(folder, "stdout");
    const created = await task.create(
      { id, bundle, stdout: `file://${stdout}`, stderr: `file://${stdout}.err` },
      options,
    );
    expect(created.pid).toBeGreaterThan(0);
    const waiting = task.wait({ id }, { metadata: options.metadata });
    expect((await task.start({ id }, options)).pid).toBe(created.pid);
    expect((await waiting).exitStatus).toBe(7);
    expect((await task.delete({ id }, options)).exitStatus).toBe(7);
    expect(await readFile(stdout, "utf8")).toBe("out\n");

    for (let i = 0; i < 500 && received.length < 4; i++) await Bun.sleep(10);
    const topics = received.map(({ envelope }) => envelope?.topic);
    expect(topics).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    expect(new Set(namespaces)).toEqual(new Set(["stevedore-test"]));
    const exit = received[2]?.envelope?.event;
    expect(exit?.typeUrl).toBe("containerd.events.TaskExit");
    const event = decodeMessage(TaskExitSchema, exit?.value ?? new Uint8Array());
    expect(event).toMatchObject({ containerId: id, id, pid: created.pid, exitStatus: 7 });

    // The shim exits before or after it answers.
    await task.shutdown({ id, now: true }, options).catch(() => undefined);
    await client.closed;
  },
  30_000,
);
