// A shim for no runtime anybody knows, as others write them: it runs the spec's arguments as a plain process on the host, answers the calls
// that `ctr run`, `tasks kill` and `tasks rm` need, and no others. What it is told goes to a log that tests read.
//
// GENERIC_SHIM_FORM is the bootstrap it knows: "params" (containerd 2.3, task API v3) or "older" (plain address, v2). GENERIC_SHIM_LOG is the log's path.
import { appendFile, type FileHandle, open, readFile, rm } from "node:fs/promises";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { classified } from "@stevedore/base";
import { Server } from "@stevedore/ttrpc";
import { listenUnix } from "@stevedore/ttrpc/socket";
import {
  BootstrapParamsSchema,
  BootstrapResultSchema,
} from "@stevedore/wire/gen/containerd/runtime/bootstrap/v1/bootstrap_pb";
import { DeleteResponseSchema, Task as TaskV2 } from "@stevedore/wire/gen/containerd/task/v2/shim_pb";
import { Task as TaskV3 } from "@stevedore/wire/gen/containerd/task/v3/shim_pb";
import { RuntimeInfoSchema } from "@stevedore/wire/gen/containerd/types/introspection_pb";
import { Status } from "@stevedore/wire/gen/containerd/types/task/task_pb";
import { Router } from "@stevedore/wire/rpc/router";
import { registerRouter } from "@stevedore/wire/ttrpc";

const FORM = process.env["GENERIC_SHIM_FORM"] ?? "older";
const LOG = process.env["GENERIC_SHIM_LOG"] ?? "/dev/null";

async function note(what: string, facts: object): Promise<void> {
  await appendFile(LOG, `${JSON.stringify({ what, ...facts })}\n`);
}

/** What tests see of an Any. */
function shown(any: Any | undefined): object {
  return any === undefined ? {} : { typeUrl: any.typeUrl, value: Buffer.from(any.value).toString("base64") };
}

/** The value of a flag with one dash, as Go programs take them. */
function flag(name: string): string {
  return process.argv[process.argv.indexOf(`-${name}`) + 1] ?? "";
}

function socketOf(id: string): string {
  return `/tmp/generic-shim-${process.getuid?.() ?? 0}-${Bun.hash(`${flag("address")}/${flag("namespace")}/${id}`).toString(16)}.sock`;
}

async function start(): Promise<void> {
  const input = await Bun.stdin.bytes();
  const id = flag("id");
  if (FORM === "params") {
    const params = fromBinary(BootstrapParamsSchema, input);
    await note("start", { params: { ...params, extensions: params.extensions.map(({ value }) => shown(value)) } });
  } else {
    const any = input.byteLength === 0 ? undefined : fromBinary(AnySchema, input);
    // A shim that knows this form only can make nothing of the newer one.
    if (any !== undefined && !any.typeUrl.includes("Options")) throw new Error(`no such options: ${any.typeUrl}`);
    await note("start", { options: shown(any), version: process.env["MAX_SHIM_VERSION"] ?? "" });
  }
  const socket = socketOf(id);
  await rm(socket, { force: true });
  const served = Bun.spawn([process.execPath, import.meta.path, ...process.argv.slice(2, -1), "serve"], {
    env: process.env,
    stdin: "ignore",
    stdout: "pipe",
    // Not ours: the daemon reads that to its end.
    stderr: "ignore",
    detached: true,
  });
  served.unref();
  for await (const _ready of served.stdout) break;
  const address = `unix://${socket}`;
  if (FORM === "params") {
    const result = create(BootstrapResultSchema, { version: 3, address, protocol: "ttrpc" });
    await Bun.stdout.write(toBinary(BootstrapResultSchema, result));
  } else await Bun.stdout.write(address);
}

interface Exit {
  readonly status: number;
  readonly at: Date;
}

/** The one process of this shim. */
class Process {
  bundle = "";
  streams: readonly string[] = ["", "", ""];
  child: Bun.Subprocess | undefined;
  exit: Exit | undefined;
  readonly #opened: (FileHandle | undefined)[] = [];
  readonly ended = Promise.withResolvers<Exit>();

  async start(): Promise<number> {
    const spec: unknown = JSON.parse(await readFile(`${this.bundle}/config.json`, "utf8"));
    const args = argumentsOf(spec);
    const [, stdout, stderr] = this.#opened;
    this.child = Bun.spawn(args, {
      stdio: ["ignore", stdout?.fd ?? "ignore", stderr?.fd ?? "ignore"],
      env: { PATH: "/usr/bin:/bin" },
    });
    void this.#follow(this.child);
    return this.child.pid;
  }

  /** Opens the streams, as clients expect of a task that is created. Both ways, which never waits for the other end. */
  async open(): Promise<void> {
    for (const path of this.streams) this.#opened.push(path === "" ? undefined : await open(path, "r+"));
  }

  async #follow(child: Bun.Subprocess): Promise<void> {
    const status = await child.exited;
    for (const file of this.#opened) await file?.close();
    this.exit = { status, at: new Date() };
    this.ended.resolve(this.exit);
  }

  get pid(): number {
    return this.child?.pid ?? process.pid;
  }
}

function argumentsOf(spec: unknown): string[] {
  if (typeof spec !== "object" || spec === null || !("process" in spec)) throw new Error("no process in the spec");
  const { process: of } = spec;
  if (typeof of !== "object" || of === null || !("args" in of) || !Array.isArray(of.args))
    throw new Error("no arguments");
  return of.args.map(String);
}

interface CreateFields {
  readonly bundle: string;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly rootfs: readonly object[];
  readonly options?: Any | undefined;
}

async function serve(): Promise<void> {
  const one = new Process();
  const socket = socketOf(flag("id"));
  const implementation = {
    create: async (request: CreateFields) => {
      one.bundle = request.bundle;
      one.streams = [request.stdin, request.stdout, request.stderr];
      await one.open();
      await note("create", { rootfs: request.rootfs.length, options: shown(request.options) });
      return { pid: process.pid };
    },
    start: async () => ({ pid: await one.start() }),
    state: async (request: { id: string }) => ({
      id: request.id,
      bundle: one.bundle,
      pid: one.pid,
      status: one.child === undefined ? Status.CREATED : one.exit === undefined ? Status.RUNNING : Status.STOPPED,
      stdin: one.streams[0] ?? "",
      stdout: one.streams[1] ?? "",
      stderr: one.streams[2] ?? "",
      ...(one.exit === undefined ? {} : { exitStatus: one.exit.status, exitedAt: timestampFromDate(one.exit.at) }),
    }),
    wait: async () => {
      const { status, at } = await one.ended.promise;
      return { exitStatus: status, exitedAt: timestampFromDate(at) };
    },
    kill: async (request: { signal: number }) => {
      await note("kill", { signal: request.signal });
      if (one.exit !== undefined) throw classified("not-found", "process already finished: not found");
      one.child?.kill(request.signal);
      return {};
    },
    pids: async () => ({ processes: one.exit === undefined ? [{ pid: one.pid }] : [] }),
    connect: async () => ({ shimPid: process.pid, taskPid: one.pid, version: "generic" }),
    delete: async () => ({
      pid: one.pid,
      exitStatus: one.exit?.status ?? 0,
      exitedAt: timestampFromDate(one.exit?.at ?? new Date(0)),
    }),
    shutdown: async () => {
      await note("shutdown", {});
      setTimeout(() => {
        void rm(socket, { force: true }).then(() => process.exit(0));
      }, 20);
      return {};
    },
  };
  const router = new Router();
  if (FORM === "params") router.service(TaskV3, implementation);
  else router.service(TaskV2, implementation);
  const server = new Server();
  registerRouter(server, router);
  listenUnix(socket, { accept: (carrier) => server.serve(carrier) });
  await Bun.stdout.write("ready\n");
}

async function main(): Promise<void> {
  const verb = process.argv.at(-1) ?? "";
  if (verb === "start") return start();
  if (verb === "serve") return serve();
  if (verb === "-info") {
    const input = await Bun.stdin.bytes();
    const options = input.byteLength === 0 ? undefined : fromBinary(AnySchema, input);
    await note("info", { options: shown(options) });
    const info = create(RuntimeInfoSchema, {
      name: "io.containerd.generic.v1",
      version: { version: "7.1", revision: "abc" },
      annotations: { "org.example.kind": "plain processes" },
      ...(options === undefined ? {} : { options }),
    });
    await Bun.stdout.write(toBinary(RuntimeInfoSchema, info));
    return;
  }
  if (verb !== "delete") throw new Error(`unknown action ${verb}`);
  await note("delete", {});
  const gone = create(DeleteResponseSchema, { pid: 0, exitStatus: 137, exitedAt: timestampFromDate(new Date()) });
  await Bun.stdout.write(toBinary(DeleteResponseSchema, gone));
}

await main().catch((error: unknown) => {
  process.stderr.write(`${String(error)}\n`);
  process.exit(1);
});
