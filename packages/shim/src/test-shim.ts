import { access, chmod, copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { decodeText, encodeText } from "@stevedore/base/bytes";
import { classified } from "@stevedore/base/errors";
import { peerProgram } from "@stevedore/base/test-peer";
import { makeFifo, openFifoBoth } from "@stevedore/os/fifo";
import { MNT, unmountRecursive } from "@stevedore/os/mount";
import { isAlive, processIdentity, sendSignal } from "@stevedore/os/process";
import { SIGKILL } from "@stevedore/os/signals";
import { runCommand } from "@stevedore/os/spawn";
import { Server, Client as TtrpcClient } from "@stevedore/ttrpc";
import { connectUnix, listenUnix } from "@stevedore/ttrpc/socket";
import { TaskExitSchema } from "@stevedore/wire/gen/containerd/events/task_pb";
import { OptionsSchema } from "@stevedore/wire/gen/containerd/runc/v1/options_pb";
import { Sandbox } from "@stevedore/wire/gen/containerd/runtime/sandbox/v1/sandbox_pb";
import { ForwardRequestSchema } from "@stevedore/wire/gen/containerd/services/events/ttrpc/v1/events_pb";
import { Task as TaskV2 } from "@stevedore/wire/gen/containerd/task/v2/shim_pb";
import { Task as TaskV3 } from "@stevedore/wire/gen/containerd/task/v3/shim_pb";
import { type Client, createClient } from "@stevedore/wire/rpc/index";
import { ttrpcTransport } from "@stevedore/wire/ttrpc";

/** For tests: a shim, ours or Debian's, driven directly over ttrpc in a private folder, with runc and busybox. */

const BUSYBOX = "/usr/bin/busybox";
const APPLETS = ["sh", "sleep", "cat", "true", "seq", "echo", "stty", "tr", "head"];

/** Whether this machine can run containers for a test. */
export const canRunContainers: boolean =
  process.geteuid?.() === 0 && Bun.which("runc") !== null && Bun.which("busybox") === BUSYBOX;

export const OUR_SHIM: readonly string[] = [process.execPath, join(import.meta.dir, "bin.ts")];

/** A shim and the version of the task API it is spoken to with. */
export interface ShimUnderTest {
  readonly name: string;
  readonly command: readonly string[];
  readonly version: 2 | 3;
}

const theirShim = peerProgram("containerd-shim-runc-v2");

/** The programs under test: the peer judges the test. */
export const SHIMS: readonly ShimUnderTest[] = [
  { name: "our shim, Task v2", command: OUR_SHIM, version: 2 },
  { name: "our shim, Task v3", command: OUR_SHIM, version: 3 },
  ...(theirShim === undefined ? [] : [{ name: "Debian's shim", command: [theirShim], version: 2 as const }]),
];

export interface SeenEvent {
  readonly topic: string;
  readonly value: Uint8Array;
}

export interface TestContainer {
  readonly id: string;
  readonly bundle: string;
  readonly task: Client<typeof TaskV2> | Client<typeof TaskV3>;
  readonly sandbox: Client<typeof Sandbox>;
  readonly shimPid: number;
}

export interface SpecChanges {
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly terminal?: boolean;
  readonly process?: Readonly<Record<string, unknown>>;
  readonly namespaces?: readonly string[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly hooks?: Readonly<Record<string, unknown>>;
  /** The runtime's binary; default runc. */
  readonly binaryName?: string;
}

/** A folder with a root file system, a socket for events, and the shims started in it. Close it to remove everything. */
export class ShimBench implements AsyncDisposable {
  readonly dir: string;
  readonly events: SeenEvent[] = [];
  readonly #command: readonly string[];
  readonly #version: 2 | 3;
  readonly #undo = new AsyncDisposableStack();

  private constructor(dir: string, command: readonly string[], version: 2 | 3) {
    this.dir = dir;
    this.#command = command;
    this.#version = version;
  }

  static async open(command: readonly string[], version: 2 | 3 = 2): Promise<ShimBench> {
    const bench = new ShimBench(await mkdtemp("/tmp/shim-bench-"), command, version);
    const { dir } = bench;
    bench.#undo.defer(() => rm(dir, { recursive: true, force: true }));
    const root = join(dir, "image");
    for (const folder of ["bin", "proc", "dev", "tmp"]) await mkdir(join(root, folder), { recursive: true });
    await copyFile(BUSYBOX, join(root, "bin/busybox"));
    await chmod(join(root, "bin/busybox"), 0o755);
    for (const name of APPLETS) await symlink("busybox", join(root, "bin", name));
    const server = new Server();
    server.register("containerd.services.events.ttrpc.v1.Events", {
      Forward: {
        kind: "unary",
        call: async (payload) => {
          const { envelope } = fromBinary(ForwardRequestSchema, payload);
          bench.events.push({ topic: envelope?.topic ?? "", value: envelope?.event?.value ?? new Uint8Array() });
          return new Uint8Array();
        },
      },
    });
    const listener = listenUnix(join(dir, "ttrpc.sock"), { accept: (carrier) => server.serve(carrier) });
    bench.#undo.defer(() => {
      listener.stop();
      server.close();
    });
    return bench;
  }

  /** Starts a shim and connects to it; the container is still to be created. */
  async shim(id: string, spec: SpecChanges): Promise<TestContainer> {
    const { dir } = this;
    const bundle = join(dir, "state", id);
    await mkdir(join(bundle, "rootfs"), { recursive: true });
    await writeFile(join(bundle, "config.json"), JSON.stringify(specOf(spec)));
    // The daemon makes this FIFO and reads it; Debian's shim does not start without.
    makeFifo(join(bundle, "log"));
    const log = openFifoBoth(join(bundle, "log"));
    this.#undo.defer(() => log.close());
    return this.#connect(id, bundle);
  }

  /** Starts another shim for a container, or a sandbox, whose shim has died. */
  async again({ id, bundle }: TestContainer): Promise<TestContainer> {
    return this.#connect(id, bundle);
  }

  async #connect(id: string, bundle: string): Promise<TestContainer> {
    const { dir } = this;
    const started = await runCommand(
      [
        ...this.#command,
        "-namespace",
        "test",
        "-address",
        join(dir, "c.sock"),
        "-publish-binary",
        "",
        "-id",
        id,
        "start",
      ],
      { cwd: bundle, env: { PATH: process.env["PATH"] ?? "", TTRPC_ADDRESS: join(dir, "ttrpc.sock") } },
    );
    const address = decodeText(started.stdout).trim();
    if (started.code !== 0) throw classified("unknown", `start shim: ${started.text()}`);
    const client = new TtrpcClient(await connectUnix(address.slice("unix://".length)));
    const transport = ttrpcTransport(client);
    const task = this.#version === 2 ? createClient(TaskV2, transport) : createClient(TaskV3, transport);
    const { shimPid } = await task.connect({ id });
    const identity = processIdentity(shimPid);
    this.#undo.defer(async () => {
      // Debian's shim may still wait for its logger; one that has just ended is fine.
      if (identity !== undefined && isAlive(identity)) sendSignal(shimPid, SIGKILL);
      client.close();
      // A killed shim leaves its socket, outside of our folder.
      await rm(address.slice("unix://".length), { force: true });
      await runCommand(["runc", "--root", join(dir, "runc/test"), "delete", "--force", id], {
        searchPath: process.env["PATH"] ?? "",
      });
      unmountRecursive(join(bundle, "rootfs"), { flags: MNT.DETACH });
    });
    return { id, bundle, task, sandbox: createClient(Sandbox, transport), shimPid };
  }

  /** Starts a shim and creates its container. */
  async create(
    id: string,
    spec: SpecChanges,
    io: Partial<Record<"stdin" | "stdout" | "stderr", string>> = {},
  ): Promise<TestContainer & { readonly pid: number }> {
    const container = await this.shim(id, spec);
    const pid = await this.#make(container.task, container, {
      terminal: spec.terminal ?? false,
      ...io,
      ...(spec.binaryName === undefined ? {} : { binaryName: spec.binaryName }),
    });
    return { ...container, pid };
  }

  /** Creates another container in a shim that is there. */
  async add(host: TestContainer, id: string, spec: SpecChanges): Promise<TestContainer & { readonly pid: number }> {
    const bundle = join(this.dir, "state", id);
    await mkdir(join(bundle, "rootfs"), { recursive: true });
    await writeFile(join(bundle, "config.json"), JSON.stringify(specOf(spec)));
    this.#undo.defer(async () => {
      await runCommand(["runc", "--root", join(this.dir, "runc/test"), "delete", "--force", id], {
        searchPath: process.env["PATH"] ?? "",
      });
      unmountRecursive(join(bundle, "rootfs"), { flags: MNT.DETACH });
    });
    const pid = await this.#make(host.task, { id, bundle }, { terminal: false });
    return { ...host, id, bundle, pid };
  }

  /** Asks a shim for a container whose bundle is there. */
  async make(task: TestContainer["task"], id: string): Promise<number> {
    return this.#make(task, { id, bundle: join(this.dir, "state", id) }, { terminal: false });
  }

  /** True once a shim has begun to make a container. */
  async begun(id: string): Promise<boolean> {
    return access(join(this.dir, "state", id, "options.json")).then(
      () => true,
      () => false,
    );
  }

  async #make(
    task: TestContainer["task"],
    { id, bundle }: Pick<TestContainer, "id" | "bundle">,
    {
      binaryName = "",
      ...io
    }: Partial<Record<"stdin" | "stdout" | "stderr" | "binaryName", string>> & { readonly terminal: boolean },
  ): Promise<number> {
    const { pid } = await task.create({
      id,
      bundle,
      rootfs: [{ type: "bind", source: join(this.dir, "image"), options: ["rbind"] }],
      ...io,
      options: {
        typeUrl: OptionsSchema.typeName,
        value: toBinary(OptionsSchema, create(OptionsSchema, { root: join(this.dir, "runc"), binaryName })),
      },
    });
    return pid;
  }

  topics(): string[] {
    return this.events.map(({ topic }) => topic);
  }

  /** The exits told so far, as `id:status`. */
  exits(): string[] {
    return this.events
      .filter(({ topic }) => topic === "/tasks/exit")
      .map(({ value }) => fromBinary(TaskExitSchema, value))
      .map(({ id, exitStatus }) => `${id}:${exitStatus}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo[Symbol.asyncDispose]();
  }
}

function specOf(changes: SpecChanges): unknown {
  const {
    args,
    env = ["PATH=/bin"],
    terminal = false,
    namespaces = ["pid", "mount", "ipc", "uts", "network"],
  } = changes;
  return {
    ociVersion: "1.0.2",
    process: { user: { uid: 0, gid: 0 }, args, env, cwd: "/", terminal, ...changes.process },
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
    ],
    annotations: changes.annotations ?? {},
    ...(changes.hooks === undefined ? {} : { hooks: changes.hooks }),
    linux: { namespaces: namespaces.map((type) => ({ type })) },
  };
}

/** An OCI process for an exec. */
export function execSpec(args: readonly string[]): { typeUrl: string; value: Uint8Array } {
  const process = { user: { uid: 0, gid: 0 }, args, env: ["PATH=/bin"], cwd: "/" };
  return {
    typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process",
    value: encodeText(JSON.stringify(process)),
  };
}

/** Waits up to 20 s for a condition. */
export async function eventually(check: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 800; i++) {
    if (await check()) return;
    await Bun.sleep(25);
  }
  throw classified("deadline-exceeded", "did not come true within 20 s");
}
